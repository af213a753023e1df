package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// Ended reports whether a rollout in this state goes no further by itself.
func Ended(s v1.RolloutState) bool {
	return s != v1.RolloutState_ROLLOUT_STATE_RUNNING && s != v1.RolloutState_ROLLOUT_STATE_PAUSED
}

// Cancel stops a rollout before its next node; what is confirmed stays. NotFound for an unknown one, Precondition for one
// that has ended.
func (r *Rollouts) Cancel(ctx context.Context, id, operator string) error {
	return r.steer(ctx, id, func(h *header) error {
		h.CancelBy = operator
		return nil
	})
}

// Pause makes a rollout begin with no further node until it is resumed; commits under way end. NotFound for an unknown one,
// Precondition for one that has ended or is paused.
func (r *Rollouts) Pause(ctx context.Context, id, operator string) error {
	return r.steer(ctx, id, func(h *header) error {
		if h.PausedBy != "" {
			return errs.New(errs.Precondition, "rollout %s is paused by %s already", h.ID, h.PausedBy)
		}
		h.PausedBy = operator
		return nil
	})
}

// Resume lets a paused rollout go on. NotFound for an unknown one, Precondition for one that is not paused.
func (r *Rollouts) Resume(ctx context.Context, id string) error {
	return r.steer(ctx, id, func(h *header) error {
		if h.PausedBy == "" {
			return errs.New(errs.Precondition, "rollout %s is not paused", h.ID)
		}
		h.PausedBy = ""
		return nil
	})
}

// steer changes what an operator wants of a rollout that has not ended. The one at work reads it before its next node.
func (r *Rollouts) steer(ctx context.Context, id string, change func(*header) error) error {
	h, err := r.header(ctx, id)
	if err != nil {
		return err
	}
	_, err = r.headers.Update(ctx, h.ID, func(h *header) error {
		if h.State != v1.RolloutState_ROLLOUT_STATE_RUNNING {
			return errs.New(errs.Precondition, "rollout %s has ended: %s", h.ID, StateWord(h.State)).
				WithHint("infractl operation show %s", h.ID)
		}
		return change(h)
	})
	if err != nil {
		return err
	}
	r.nudge()
	r.publish(h.ID)
	return nil
}

// Retry lets a rollout that halted, was canceled, or ended incomplete go on with the nodes that failed, are missing or
// degraded; the others are not touched. NotFound for an unknown one; Precondition for one that did not end so, that is not
// the newest, or whose content is known to be bad on a node: the hint says how to clear that.
func (r *Rollouts) Retry(ctx context.Context, id string) error {
	r.starting.Lock()
	defer r.starting.Unlock()
	h, err := r.header(ctx, id)
	if err != nil {
		return err
	}
	if err := r.retriable(ctx, h); err != nil {
		return err
	}
	view, err := r.cfg.Revisions.View(ctx, h.Revision)
	if err != nil {
		return err
	}
	nodes, err := r.storedNodes(ctx, h)
	if err != nil {
		return err
	}
	again := slices.DeleteFunc(nodes, func(n *nodeRecord) bool {
		return n.State == v1.NodeRolloutState_NODE_ROLLOUT_STATE_DONE
	})
	if err := r.refuseBad(ctx, view, again); err != nil {
		return err
	}
	var ops []store.Op
	for _, n := range again {
		n.again()
		op, err := r.nodes.PutOp(nodeName(h.ID, n.Node), *n, store.Any)
		if err != nil {
			return err
		}
		ops = append(ops, op)
	}
	for chunk := range slices.Chunk(ops, store.MaxOps) {
		if _, err := r.cfg.Store.Write(ctx, chunk...); err != nil {
			return errs.Wrap("store rollout", err)
		}
	}
	// The header last: until then the rollout is what it was, and can be retried.
	was := h.State
	_, err = r.headers.Update(ctx, h.ID, func(h *header) error {
		if h.State != was {
			return errs.New(errs.Conflict, "rollout %s was changed meanwhile", h.ID)
		}
		h.State, h.Reason, h.CancelBy, h.PausedBy = v1.RolloutState_ROLLOUT_STATE_RUNNING, "", "", ""
		h.Ended, h.SoakUntil = time.Time{}, time.Time{}
		return nil
	})
	if err != nil {
		return err
	}
	r.nudge()
	r.publish(h.ID)
	return nil
}

func (r *Rollouts) retriable(ctx context.Context, h header) error {
	switch h.State {
	case v1.RolloutState_ROLLOUT_STATE_HALTED, v1.RolloutState_ROLLOUT_STATE_INCOMPLETE, v1.RolloutState_ROLLOUT_STATE_CANCELED:
	default:
		return errs.New(errs.Precondition, "rollout %s cannot be retried: it is %s", h.ID, StateWord(h.State)).
			WithHint("infractl apply starts a new one")
	}
	newest, _, err := r.newestPlain(ctx)
	if err != nil {
		return err
	}
	if newest.ID > h.ID {
		return errs.New(errs.Precondition, "rollout %s took the place of %s", newest.ID, h.ID).
			WithHint("infractl operation retry %s", newest.ID)
	}
	current, err := r.cfg.Revisions.Current(ctx)
	if err != nil {
		return err
	}
	if current != h.Revision {
		return errs.New(errs.Precondition, "revision %d took the place of revision %d", current, h.Revision).WithHint("infractl apply")
	}
	return nil
}

// again makes a node be tried as if it had not been. A task whose result is not known stays: it is waited for first.
func (n *nodeRecord) again() {
	if n.Degraded != "" || n.Unsteady != "" {
		n.WidenDigest, n.NarrowDigest = "", ""
	}
	n.State, n.Message, n.Error, n.Degraded, n.Unsteady, n.Picture = v1.NodeRolloutState_NODE_ROLLOUT_STATE_QUEUED, "", nil, "", "", ""
	n.Attempts, n.Retried = 0, n.Tasks
	n.RetryAt = time.Time{}
}

// refuseBad refuses to retry content that is known to be bad, and names all the nodes that it is bad on.
func (r *Rollouts) refuseBad(ctx context.Context, view *View, nodes []*nodeRecord) error {
	x, look := &run{r: r, view: view}, newLookup(r.cfg.Fleet)
	var names []string
	var first *fleet.KnownBad
	for _, n := range nodes {
		if _, ok := view.Nodes[n.Node]; !ok {
			continue
		}
		node, err := look.node(ctx, n.Node)
		if err != nil {
			return err
		}
		if node == nil {
			continue
		}
		for _, pass := range []v1.Pass{v1.Pass_PASS_WIDEN, v1.Pass_PASS_NARROW} {
			if bad := x.knownBad(node, pass); bad != nil {
				names = append(names, n.Node)
				if first == nil {
					first = bad
				}
				break
			}
		}
	}
	if first == nil {
		return nil
	}
	return errs.New(errs.Precondition, "this content is known to be bad on %s: %s failed: %s", strings.Join(names, ", "), first.Phase, first.Reason).
		WithHint("mend the cause, then: infractl node clear %s", names[0])
}

// failed counts a node that failed, and halts the rollout when there are as many as it may have.
func (x *run) failed(name, reason string) {
	failures := 1
	for other, n := range x.nodes {
		if other != name && n.State == v1.NodeRolloutState_NODE_ROLLOUT_STATE_FAILED {
			failures++
		}
	}
	if failures >= x.haltAfter() {
		x.halt(reason)
	}
}

func (x *run) haltAfter() int { return max(1, int(x.h.HaltAfter)) }

// failedBefore halts a rollout whose failures are stored and whose end is not: a server that stopped in between.
func (x *run) failedBefore() {
	var names []string
	for _, name := range x.order {
		n := x.nodes[name]
		if n.Unsteady != "" {
			x.halt(fmt.Sprintf("%s %s while its wave soaked", name, n.Unsteady))
			return
		}
		if n.State == v1.NodeRolloutState_NODE_ROLLOUT_STATE_FAILED {
			names = append(names, name)
		}
	}
	if len(names) < x.haltAfter() {
		return
	}
	reason := "failed on " + strings.Join(names, ", ")
	if e := x.nodes[names[0]].Error; e != nil {
		reason += ": " + e.Message
	}
	x.halt(reason)
}
