package instance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/rollout"
)

// errThere ends the watch of a rollout early.
var errThere = errors.New("the nodes are there")

// bring delivers what the records say now, and waits until the nodes have it. It waits for their first pass alone: an instance changes
// nothing that the second one closes, and a wave's soak or another node's troubles are no business of this one. The result says what did
// not work on a node although it took the wish up. Errors: Unavailable when a node did not take it up in time, RolledBack when it refused.
func (s *Instances) bring(ctx context.Context, run *operation.Run, reason string, nodes []string) (map[string]string, error) {
	s.sites.Changed()
	d, err := s.sites.Derive(ctx, 0)
	if err != nil {
		return nil, err
	}
	id, err := s.rollouts.Deliver(ctx, run.Operator(), reason)
	if err != nil {
		return nil, err
	}
	if id == "" {
		// Every node keeps the wish, or is about to: the rollout of a former try may still be at its services.
		last, err := s.rollouts.Get(ctx, "")
		if err != nil && !errs.Is(err, errs.NotFound) {
			return nil, err
		}
		if last != nil && !rollout.Ended(last.GetState()) {
			id = last.GetId()
		}
	}
	w := &arrival{s: s, wish: d, nodes: nodes, there: map[string]bool{}, problems: map[string]string{}}
	if id != "" {
		if err := w.follow(ctx, run.Say, id); err != nil {
			return nil, err
		}
	}
	for _, name := range nodes {
		if w.there[name] {
			continue
		}
		n, err := s.keeps(ctx, name)
		if err != nil {
			return nil, err
		}
		if !n.covers(d, name) {
			why := w.problems[name]
			if why == "" {
				why = "it is away, or waits for something: infractl node show " + name
			}
			return nil, errs.New(errs.Unavailable, "%s has not taken up its new wish: %s", name, why).At("node " + name).
				WithHint("infractl status; infractl operation list")
		}
		w.hear(name, n)
	}
	return w.problems, nil
}

// arrival watches a rollout for some nodes.
type arrival struct {
	s     *Instances
	wish  *revision.Derived
	nodes []string
	mu    sync.Mutex
	there map[string]bool
	// problems are what nodes say that is not well, whether they are there or not.
	problems map[string]string
}

// peekEvery is how often nodes are looked at while a delivery waits: the one before it takes up what is decided meanwhile, and goes on
// for as long as somebody decides something.
const peekEvery = 300 * time.Millisecond

// follow watches a rollout until all nodes are there, or it has ended.
func (w *arrival) follow(ctx context.Context, say func(format string, args ...any), id string) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var peeking sync.WaitGroup
	defer peeking.Wait()
	peeking.Go(func() {
		for tick := time.NewTicker(peekEvery); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			if ro, err := w.s.rollouts.Get(ctx, id); err == nil && errors.Is(w.look(ctx, ro), errThere) {
				stop(errThere)
			}
		}
	})
	err := w.s.rollouts.Watch(ctx, rollout.WatchRequest{ID: id}, func(m *v1.WatchRolloutResponse) error {
		say("rollout %s: %s", id, w.words(m.GetRollout()))
		return w.look(ctx, m.GetRollout())
	})
	there := errors.Is(err, errThere) || errors.Is(context.Cause(ctx), errThere)
	stop(nil)
	if there {
		return nil
	}
	return err
}

// look takes in how a rollout stands; errThere when all nodes are done with it.
func (w *arrival) look(ctx context.Context, ro *v1.Rollout) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	missing := 0
	for _, name := range w.nodes {
		if w.there[name] {
			continue
		}
		i := slices.IndexFunc(ro.GetNodes(), func(n *v1.NodeRollout) bool { return n.GetNode() == name })
		// Not concerned, or a delivery that waits for its turn: the rollout before it may have brought the wish already, and be at the
		// node's services. Only a node that is through with it is there.
		if i < 0 || ro.GetNodes()[i].GetState() == v1.NodeRolloutState_NODE_ROLLOUT_STATE_QUEUED {
			n, err := w.s.keeps(ctx, name)
			if err != nil {
				return err
			}
			if w.there[name] = n.covers(w.wish, name) && n.through(); !w.there[name] {
				missing++
				continue
			}
			w.hear(name, n)
			continue
		}
		n := ro.GetNodes()[i]
		delete(w.problems, name)
		if text := n.GetError().GetMessage(); text != "" {
			w.problems[name] = text
		} else if n.GetState() == v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING && n.GetMessage() != "" {
			w.problems[name] = n.GetMessage()
		}
		switch n.GetState() {
		case v1.NodeRolloutState_NODE_ROLLOUT_STATE_WIDENED, v1.NodeRolloutState_NODE_ROLLOUT_STATE_NARROWING,
			v1.NodeRolloutState_NODE_ROLLOUT_STATE_DONE, v1.NodeRolloutState_NODE_ROLLOUT_STATE_DEGRADED:
			w.there[name] = true
		case v1.NodeRolloutState_NODE_ROLLOUT_STATE_FAILED:
			return errs.New(errs.RolledBack, "%s refused its new wish: %s", name, n.GetError().GetMessage()).At("node "+name).
				WithHint("infractl node show %s", name)
		default:
			missing++
		}
	}
	if missing == 0 {
		return errThere
	}
	return nil
}

// hear takes in what a node complains of that another delivery brought there: no other word of it is in the one that is watched.
func (w *arrival) hear(name string, n keeping) {
	if lines := n.state.GetDegraded(); len(lines) > 0 {
		w.problems[name] = strings.Join(lines, "\n")
	}
}

// words says what the nodes of interest do, for people.
func (w *arrival) words(ro *v1.Rollout) string {
	var out []string
	for _, n := range ro.GetNodes() {
		if slices.Contains(w.nodes, n.GetNode()) {
			state := strings.ToLower(strings.TrimPrefix(n.GetState().String(), "NODE_ROLLOUT_STATE_"))
			out = append(out, strings.TrimSuffix(fmt.Sprintf("%s %s: %s", n.GetNode(), state, n.GetMessage()), ": "))
		}
	}
	if len(out) == 0 {
		return "waits for its turn"
	}
	return strings.Join(out, ", ")
}

// keeping is what a node said last of the wish that it keeps.
type keeping struct{ state *v1.HostState }

// keeps reads it; a node that nobody knows keeps nothing.
func (s *Instances) keeps(ctx context.Context, name string) (keeping, error) {
	n, err := s.cfg.Fleet.Node(ctx, name)
	if errs.Is(err, errs.NotFound) {
		return keeping{}, nil
	}
	return keeping{n.State.M}, err
}

// covers reports whether a node keeps what was wanted of it, or what was wanted later: others change the wish at the same time.
func (k keeping) covers(wish *revision.Derived, name string) bool {
	st := k.state
	kept := st.GetWidenedDigest()
	later := kept == st.GetSpecDigest() && st.GetSiteRevision() >= wish.Revision && st.GetResourceRevision() >= wish.Resources
	return kept != "" && (kept == wish.Specs[name].Digest || later)
}

// through reports whether a node has made all of what it keeps, its services too: the second pass comes after them.
func (k keeping) through() bool {
	return k.state.GetNarrowedDigest() == k.state.GetSpecDigest() && k.state.GetSpecDigest() == k.state.GetWidenedDigest()
}

// gates are the nodes by which the world reaches instances: the proxy and the name server.
func (s *Instances) gates(ctx context.Context) ([]string, error) {
	where, _, err := s.sites.Load(ctx, 0)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range []string{where.ProxyNode(), where.DNS.Primary} {
		if n, ok := where.Node(name); ok && n.Linux() && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out, nil
}

// blame picks out of what a host or a gate complained of what concerns an instance: what names it, or what names none of the others and
// comes from a part that serves all of them.
func (s *Instances) blame(ctx context.Context, rec *record, problems map[string]string) error {
	if len(problems) == 0 {
		return nil
	}
	list, err := s.all(ctx)
	if err != nil {
		return err
	}
	where, _, err := s.sites.Load(ctx, 0)
	if err != nil {
		return err
	}
	for _, node := range sortedKeys(problems) {
		for _, line := range strings.Split(problems[node], "\n") {
			if concerns(where.InstanceDomains, line, rec, list) {
				return errs.New(errs.Precondition, "%s", strings.TrimSpace(line)).At("node "+node).WithHint("infractl node show %s", node)
			}
		}
	}
	return nil
}
