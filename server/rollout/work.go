package rollout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/hostspec"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// work is a pass on one node, under way.
type work struct {
	node   string
	ref    *taskRef
	cancel context.CancelFunc
}

// result is how a work ended.
type result struct {
	work *work
	res  *v1.TaskResult
	err  error
	// lost says that the node was away for longer than a commit can last: the task's result may still come.
	lost bool
	// blame says what an unconfirmed commit was due to.
	blame blame
}

// start begins a pass on a node: the task and its commit are stored before the agent hears of it. began is false when the
// node or a witness was taken meanwhile.
func (x *run) start(ctx context.Context, n *nodeRecord, pass v1.Pass, c choice) (began bool, err error) {
	vn := x.view.Nodes[n.Node]
	var atRest []string
	if c.cast != nil {
		atRest = c.cast.atRest
	} else {
		x.alone[n.Node] = true
	}
	if !x.locks.take(n.Node, atRest, vn.Critical) {
		return false, nil
	}
	letter := "w"
	if pass == v1.Pass_PASS_NARROW {
		letter = "n"
	}
	ref := &taskRef{
		ID: fmt.Sprintf("%s-%s-%s%d", x.id, shortName(n.Node), letter, n.Tasks+1), Pass: pass, Digest: vn.Digest,
		Witnessed: c.cast != nil, Window: x.view.Window, Witnesses: atRest, Hashes: hashes(vn.Spec, pass),
	}
	if pass == v1.Pass_PASS_NARROW {
		ref.Laggards = x.laggards()
	}
	var more []store.Op
	if c.cast != nil {
		op, err := x.r.commits.PutOp(ref.ID, commitRecord{
			ID: ref.ID, Node: n.Node, Rollout: x.id, Revision: x.h.Revision, Pass: pass, SpecDigest: vn.Digest,
			Started: x.r.cfg.Clock.Now().UTC(), Server: x.r.instance, Needs: c.cast.needs,
		}, store.Absent)
		if err != nil {
			return false, err
		}
		more = append(more, op)
	}
	err = x.update(ctx, n.Node, func(n *nodeRecord) {
		n.Task, n.Error, n.Message, n.phase = ref, nil, "", 0
		n.Tasks++
		if ref.Witnessed {
			n.Attempts++
		}
		n.State = v1.NodeRolloutState_NODE_ROLLOUT_STATE_WIDENING
		if pass == v1.Pass_PASS_NARROW {
			n.State = v1.NodeRolloutState_NODE_ROLLOUT_STATE_NARROWING
		}
	}, more...)
	if err != nil {
		x.locks.free(n.Node, atRest)
		return false, err
	}
	task := &v1.Task{
		Id: ref.ID, NotAfter: timestamppb.New(x.r.cfg.Clock.Now().Add(x.r.times.TaskStart)),
		Work: &v1.Task_Apply{Apply: &v1.ApplyTask{
			SpecDigest: vn.Digest, Spec: vn.Content, SiteRevision: x.view.Revision, ResourceRevision: x.view.Resources,
			Pass: pass, CommitId: ref.ID, Window: durationpb.New(ref.Window), Laggards: ref.Laggards, Witnessed: ref.Witnessed,
		}},
	}
	x.spawn(ctx, n.Node, ref, task)
	return true, nil
}

// shortName keeps task ids, which are file and unit names on hosts, below 64 bytes.
func shortName(node string) string {
	const most = 36
	if len(node) <= most {
		return node
	}
	sum := sha256.Sum256([]byte(node))
	return node[:most-9] + "-" + hex.EncodeToString(sum[:4])
}

// hashes identify the content of a pass's phases.
func hashes(spec *v1.HostSpec, pass v1.Pass) map[v1.Phase]string {
	out := map[v1.Phase]string{}
	phases := []v1.Phase{v1.Phase_PHASE_ADDITIONS, v1.Phase_PHASE_WIDENING}
	if pass == v1.Pass_PASS_NARROW {
		phases = []v1.Phase{v1.Phase_PHASE_NARROWING}
	}
	for _, p := range phases {
		out[p] = hostspec.PhaseHash(spec, p)
	}
	return out
}

// goOn waits again for a task that was sent before.
func (x *run) goOn(ctx context.Context, n *nodeRecord) {
	x.locks.force(n.Node, n.Task.Witnesses, x.view.Nodes[n.Node].Critical)
	state := v1.NodeRolloutState_NODE_ROLLOUT_STATE_WIDENING
	if n.Task.Pass == v1.Pass_PASS_NARROW {
		state = v1.NodeRolloutState_NODE_ROLLOUT_STATE_NARROWING
	}
	x.say(n.Node, state, "goes on with what was under way")
	x.spawn(ctx, n.Node, n.Task, nil)
}

// adopt waits for the tasks that a former leader began, before anything new begins.
func (x *run) adopt(ctx context.Context) error {
	for _, name := range x.order {
		if n := x.nodes[name]; n.Task != nil {
			x.goOn(ctx, n)
		}
	}
	for len(x.active) > 0 {
		if err := x.next(ctx, time.Time{}); err != nil {
			return x.abandon(err)
		}
	}
	return ctx.Err()
}

// spawn waits for a task in a goroutine of its own; task nil means that it was sent before.
func (x *run) spawn(ctx context.Context, name string, ref *taskRef, task *v1.Task) {
	ctx, cancel := context.WithCancel(ctx)
	w := &work{node: name, ref: ref, cancel: cancel}
	x.active[name] = w
	progress := func(p *v1.TaskProgress) {
		x.mu.Lock()
		n := x.nodes[name]
		if n.Task == ref {
			n.phase, n.Message = p.GetPhase(), clip(p.GetMessage())
		}
		x.mu.Unlock()
		x.r.publish(x.id)
	}
	go func() {
		res := result{work: w}
		res.res, res.lost, res.err = x.r.exchange(ctx, name, ref, task, progress)
		if phase := unconfirmed(res.res); phase != nil && ctx.Err() == nil {
			// The witnesses are still held: they look again at what came back.
			res.blame = x.r.blame(ctx, ref.ID, phase)
		}
		x.results <- res
	}()
}

// exchange sends a task (or takes up one that was sent) and waits for its result, but not longer for a node that is away
// than its commit can last.
func (r *Rollouts) exchange(ctx context.Context, node string, ref *taskRef, task *v1.Task, progress func(*v1.TaskProgress)) (res *v1.TaskResult, lost bool, err error) {
	outer := ctx
	ctx, cancel := context.WithTimeout(outer, r.times.TaskLife)
	defer cancel()
	most := ref.Window + r.times.Grace
	var gone bool
	var watch sync.WaitGroup
	watch.Go(func() {
		gone = r.awayFor(ctx, node, most)
		if gone {
			cancel()
		}
	})
	begun := time.Now()
	if task != nil {
		res, err = r.cfg.Hub.Do(ctx, node, task, progress)
	} else {
		res, err = r.cfg.Hub.Resume(ctx, ref.ID, progress)
	}
	tooLong := errs.Is(ctx.Err(), errs.Timeout)
	cancel()
	watch.Wait()
	if err == nil {
		return res, false, nil
	}
	if gone {
		return nil, true, err
	}
	// An agent may have taken the task up without our hearing of it. Its commit, if any, ends by itself: witnesses stay at
	// rest until then.
	if task != nil && outer.Err() == nil && (errs.Is(err, errs.Timeout) || errs.Is(err, errs.Unavailable)) &&
		time.Since(begun) > r.times.Grace/10 && !tooLong {
		pause(outer, most)
		return nil, true, err
	}
	return nil, false, err
}

// awayFor waits until ctx ends, or the node has had no session for most: then it returns true.
func (r *Rollouts) awayFor(ctx context.Context, node string, most time.Duration) bool {
	var since time.Time
	for pause(ctx, max(most/20, time.Millisecond)) {
		if _, live := r.cfg.Hub.Live(node); live {
			since = time.Time{}
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) >= most {
			return true
		}
	}
	return false
}
