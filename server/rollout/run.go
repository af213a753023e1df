package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// maxRounds bounds how often a rollout begins again because the resources changed under it; the next one takes up the rest.
const maxRounds = 5

// run is the rollout at work.
type run struct {
	r  *Rollouts
	id string

	mu    sync.Mutex // guards what snapshot reads: h and the records below nodes
	h     header
	nodes map[string]*nodeRecord
	order []string
	dirty map[string]bool // changed in memory only

	// What follows belongs to the goroutine that drives.
	view    *View
	known   map[string]known
	locks   *locks
	active  map[string]*work
	results chan result
	// waits says since when witnesses are missing, by their names; alone are nodes that were tried without any.
	waits map[string]time.Time
	alone map[string]bool
	// stop is how the rollout must end; unspecified while it goes on.
	stop v1.RolloutState
	// paused says that no further node begins.
	paused bool
}

// known is what is known of a node of the site, whether it is in the rollout or not.
type known struct {
	everKept bool
	widened  string // the digest that it keeps
	narrowed string
	clean    bool // nothing old stands, nothing is degraded or armed
}

func (r *Rollouts) newRun(ctx context.Context, h header) (*run, error) {
	x := &run{
		r: r, id: h.ID, h: h, nodes: map[string]*nodeRecord{}, dirty: map[string]bool{}, locks: newLocks(),
		active: map[string]*work{}, results: make(chan result), waits: map[string]time.Time{}, alone: map[string]bool{},
	}
	stored, err := r.storedNodes(ctx, h)
	if err != nil {
		return nil, err
	}
	for _, n := range stored {
		x.nodes[n.Node] = n
		x.order = append(x.order, n.Node)
	}
	return x, nil
}

// snapshot returns the rollout as it is now.
func (x *run) snapshot() *v1.Rollout {
	x.mu.Lock()
	defer x.mu.Unlock()
	nodes := make([]*nodeRecord, 0, len(x.order))
	for _, name := range x.order {
		nodes = append(nodes, x.nodes[name])
	}
	return x.h.toProto(nodes)
}

// drive goes on with the rollout until it has ended or ctx ends.
func (x *run) drive(ctx context.Context) error {
	if _, err := x.refresh(ctx); err != nil {
		switch errs.CodeOf(err) {
		case errs.NotFound, errs.Invalid, errs.Precondition:
			x.halt("the revision cannot be used: " + err.Error())
			return x.finish(ctx)
		}
		return err
	}
	if err := x.adopt(ctx); err != nil {
		return err
	}
	if err := x.survey(ctx); err != nil {
		return err
	}
	for round := 0; ; round++ {
		if err := x.passes(ctx); err != nil {
			return err
		}
		changed, err := x.refresh(ctx)
		if err != nil {
			return err
		}
		if changed && round < maxRounds && x.stop == 0 {
			continue
		}
		more, err := x.linger(ctx)
		if err != nil {
			return err
		}
		if !more {
			return x.finish(ctx)
		}
	}
}

// passes makes pass 1 over all waves, then pass 2 over all of them; nodes that have done theirs are passed by.
func (x *run) passes(ctx context.Context) error {
	groups := make([]group, 0, len(x.h.Waves))
	for _, w := range x.h.Waves {
		groups = append(groups, group{nodes: w.Nodes, limit: int(w.MaxUnavailable), budgets: w.Budgets})
	}
	waves := slices.Clone(x.h.Waves)
	for i, g := range groups {
		if err := x.pass(ctx, v1.Pass_PASS_WIDEN, []group{g}); err != nil {
			return err
		}
		if err := x.soak(ctx, waves[i]); err != nil {
			return err
		}
	}
	return x.pass(ctx, v1.Pass_PASS_NARROW, groups)
}

// refresh reads what is wanted and how far the fleet is, and reports whether the wish of a node of the rollout changed.
func (x *run) refresh(ctx context.Context) (changed bool, err error) {
	view, err := x.r.cfg.Revisions.View(ctx, x.h.Revision)
	if err != nil {
		return false, err
	}
	if x.view != nil {
		for _, name := range x.order {
			changed = changed || view.Nodes[name].Digest != x.view.Nodes[name].Digest
		}
	}
	x.view = view
	nodes, err := x.r.cfg.Fleet.Nodes(ctx)
	if err != nil {
		return false, errs.Wrap("read fleet", err)
	}
	x.known = map[string]known{}
	for i := range nodes {
		n := &nodes[i]
		if n.IsRevoked() {
			continue
		}
		s := n.State.M
		x.known[n.Name] = known{
			everKept: everKept(n), widened: s.GetWidenedDigest(), narrowed: s.GetNarrowedDigest(),
			clean: len(s.GetWidened()) == 0 && len(s.GetDegraded()) == 0 && s.GetArmedCommit() == "",
		}
	}
	return changed, nil
}

// laggards are the nodes of the site that have not kept the widening of this revision: what is open towards them stays
// open. A node that has an identity counts even when it never kept anything, since it is reached the old way for as long; a
// node without an identity does not: nothing was ever opened for it that it could lose, and waiting for a machine that may
// never come would keep old ways open for ever.
func (x *run) laggards() []string {
	var out []string
	for _, name := range x.view.Order {
		if k, ok := x.known[name]; ok && k.widened != x.view.Nodes[name].Digest {
			out = append(out, name)
		}
	}
	return out
}

// todo reports whether a node still has the pass before it.
func (x *run) todo(n *nodeRecord, pass v1.Pass) bool {
	vn, ok := x.view.Nodes[n.Node]
	if !ok || n.State == v1.NodeRolloutState_NODE_ROLLOUT_STATE_FAILED || n.Attempts >= maxAttempts || n.Tasks-n.Retried >= maxTasks {
		return false
	}
	if pass == v1.Pass_PASS_WIDEN {
		return n.WidenDigest != vn.Digest
	}
	if n.WidenDigest != vn.Digest {
		return false
	}
	return n.NarrowDigest != vn.Digest || x.caughtUp(n.Laggards)
}

// caughtUp reports whether one of the laggards that a node was narrowed with is none any more.
func (x *run) caughtUp(then []string) bool {
	if len(then) == 0 {
		return false
	}
	now := x.laggards()
	return slices.ContainsFunc(then, func(name string) bool { return !slices.Contains(now, name) })
}

// checkStop looks whether the rollout may go on.
func (x *run) checkStop(ctx context.Context) error {
	x.failedBefore()
	if x.stop != 0 {
		return nil
	}
	newest, err := x.successor(ctx)
	if err != nil {
		return err
	}
	if newest != "" {
		x.stop = v1.RolloutState_ROLLOUT_STATE_SUPERSEDED
		x.setReason("rollout " + newest + " took its place")
		return nil
	}
	own, err := x.r.headers.Get(ctx, x.id)
	if err != nil {
		return errs.Wrap("read rollout", err)
	}
	x.setPaused(own.Value.PausedBy)
	if own.Value.CancelBy != "" {
		x.stop = v1.RolloutState_ROLLOUT_STATE_CANCELED
		x.setReason("canceled by " + own.Value.CancelBy)
	}
	return nil
}

func (r *Rollouts) newestID(ctx context.Context) (string, bool, error) {
	items, err := r.headers.List(ctx, store.ListOptions{Reverse: true, Limit: 1, NamesOnly: true})
	if err != nil || len(items) == 0 {
		return "", false, errs.Wrap("read newest rollout", err)
	}
	return items[0].Name, true, nil
}

func (x *run) halt(reason string) {
	if x.stop == 0 || x.stop == v1.RolloutState_ROLLOUT_STATE_SUPERSEDED || x.stop == v1.RolloutState_ROLLOUT_STATE_CANCELED {
		x.stop = v1.RolloutState_ROLLOUT_STATE_HALTED
		x.setReason(reason)
	}
}

// setPaused takes in who paused the rollout. Patience for witnesses begins anew after a pause.
func (x *run) setPaused(by string) {
	if x.paused && by == "" {
		clear(x.waits)
	}
	x.paused = by != ""
	x.mu.Lock()
	changed := x.h.PausedBy != by
	x.h.PausedBy = by
	x.mu.Unlock()
	if changed {
		x.r.publish(x.id)
	}
}

func (x *run) setReason(reason string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.h.Reason = reason
}

// say changes what is shown of a node; it is stored with the next change that matters.
func (x *run) say(name string, state v1.NodeRolloutState, message string) {
	x.mu.Lock()
	n := x.nodes[name]
	same := n.State == state && n.Message == message
	n.State, n.Message, n.phase = state, message, 0
	x.dirty[name] = true
	x.mu.Unlock()
	if !same {
		x.r.publish(x.id)
	}
}

// update changes a node and stores it, together with other writes.
func (x *run) update(ctx context.Context, name string, change func(*nodeRecord), more ...store.Op) error {
	x.mu.Lock()
	n := x.nodes[name]
	change(n)
	op, err := x.r.nodes.PutOp(nodeName(x.id, name), *n, store.Any)
	delete(x.dirty, name)
	x.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err := x.r.cfg.Store.Write(ctx, append(more, op)...); err != nil {
		return errs.Wrap("store rollout", err)
	}
	x.r.publish(x.id)
	return nil
}

// finish ends the rollout.
func (x *run) finish(ctx context.Context) error {
	state, reason := x.verdict()
	now := x.r.cfg.Clock.Now().UTC()
	if err := x.flush(ctx); err != nil {
		return err
	}
	it, err := x.r.headers.Update(ctx, x.id, func(h *header) error {
		h.State, h.Reason, h.Ended, h.Waves = state, reason, now, x.h.Waves
		return nil
	})
	if err != nil {
		return errs.Wrap("end rollout", err)
	}
	x.mu.Lock()
	x.h = it.Value
	x.mu.Unlock()
	x.r.cfg.Log.Info("rollout ended", "rollout", x.id, "revision", x.h.Revision, "state", StateWord(state), "reason", reason)
	result := "ok"
	if state == v1.RolloutState_ROLLOUT_STATE_HALTED {
		result = string(errs.RolledBack)
	}
	message := StateWord(state)
	if reason != "" {
		message += ": " + reason
	}
	x.r.audit(ctx, "rollout.end", "rollout/"+x.id, "", result, message)
	x.r.publish(x.id)
	return nil
}

// flush stores what was changed in memory only.
func (x *run) flush(ctx context.Context) error {
	x.mu.Lock()
	ops := make([]store.Op, 0, len(x.dirty))
	for name := range x.dirty {
		op, err := x.r.nodes.PutOp(nodeName(x.id, name), *x.nodes[name], store.Any)
		if err != nil {
			x.mu.Unlock()
			return err
		}
		ops = append(ops, op)
	}
	clear(x.dirty)
	x.mu.Unlock()
	for chunk := range slices.Chunk(ops, store.MaxOps) {
		if _, err := x.r.cfg.Store.Write(ctx, chunk...); err != nil {
			return errs.Wrap("store rollout", err)
		}
	}
	return nil
}

// verdict says how the rollout ends, and why.
func (x *run) verdict() (v1.RolloutState, string) {
	if x.stop != 0 {
		return x.stop, x.h.Reason
	}
	var missing, degraded, failed []string
	for _, name := range x.order {
		switch n := x.nodes[name]; n.State {
		case v1.NodeRolloutState_NODE_ROLLOUT_STATE_DONE:
		case v1.NodeRolloutState_NODE_ROLLOUT_STATE_DEGRADED:
			degraded = append(degraded, name)
		case v1.NodeRolloutState_NODE_ROLLOUT_STATE_FAILED:
			failed = append(failed, name)
		default:
			missing = append(missing, name)
		}
	}
	var reasons []string
	if len(missing) > 0 {
		reasons = append(reasons, fmt.Sprintf("not done: %s; they are taken up by themselves when they can be", strings.Join(missing, ", ")))
	}
	if len(failed) > 0 {
		reasons = append(reasons, "failed on "+strings.Join(failed, ", "))
	}
	if len(degraded) > 0 {
		reasons = append(reasons, "services failed on "+strings.Join(degraded, ", "))
	}
	if len(reasons) == 0 {
		return v1.RolloutState_ROLLOUT_STATE_SUCCEEDED, ""
	}
	return v1.RolloutState_ROLLOUT_STATE_INCOMPLETE, strings.Join(reasons, "; ")
}

// StateWord is a rollout's state in words, for people.
func StateWord(s v1.RolloutState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "ROLLOUT_STATE_"))
}
