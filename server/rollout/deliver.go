package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// Deliver brings changed resources (a rotated secret, a key of the SSH authority, a VPN peer, an instance) to the hosts that
// they concern: a rollout of the current revision, limited to the nodes whose wish is not what they last kept. It waits for
// the rollout at work instead of taking its place, and one that waits already takes the new reason in: the id is then that
// one's. Nothing to deliver is "". A site change that an operator held back (a limited, halted or canceled rollout) is not
// brought along: a node that lacks more than resources is left out, and Precondition when that leaves none.
func (r *Rollouts) Deliver(ctx context.Context, operator, reason string) (id string, err error) {
	r.starting.Lock()
	defer r.starting.Unlock()
	current, err := r.cfg.Revisions.Current(ctx)
	if err != nil || current == 0 {
		return "", errs.Wrap("deliver", err)
	}
	to, err := r.recipients(ctx, current)
	if err != nil {
		return "", errs.Wrap("deliver", err)
	}
	if len(to.nodes) == 0 {
		return "", to.refusal()
	}
	if id, err = r.joinWaiting(ctx, operator, reason); err != nil || id != "" {
		return id, err
	}
	number, err := r.nextNumber(ctx)
	if err != nil {
		return "", err
	}
	h := header{
		ID: newID(number), Revision: current, State: v1.RolloutState_ROLLOUT_STATE_RUNNING, Waves: deliveryWaves(to.view, to.nodes),
		HaltAfter: uint32(to.view.HaltAfter),
		Started:   r.cfg.Clock.Now().UTC(), Operator: operator, Surveyed: true, Delivery: &delivery{Reasons: []string{clip(reason)}},
	}
	if err := r.writeNew(ctx, h, freshNodes(h)); err != nil {
		return "", errs.Wrap("store rollout", err)
	}
	r.auditBy(ctx, operator, "rollout.deliver", "rollout/"+h.ID, reason)
	r.nudge()
	r.publish(h.ID)
	r.forgetOld(ctx)
	return h.ID, nil
}

// deliveryWaves are the waves of a delivery. They do not soak: that is for changes of the site, which may be wrong; a delivery brings what
// was decided already, and a customer waits for his instance.
func deliveryWaves(view *View, nodes []string) []wave {
	out := wavesFrom(view.Waves(nodes))
	for i := range out {
		out[i].Soak = 0
	}
	return out
}

// delivery is what a header says of a rollout that brings resources.
type delivery struct {
	// Reasons say what it brings.
	Reasons []string `json:"reasons"`
	// Begun says that its turn came: its nodes are chosen for good, and nothing joins it any more.
	Begun bool `json:"begun,omitempty"`
}

// maxReasons bounds the reasons that are kept of one delivery.
const maxReasons = 20

// joinWaiting adds to the delivery that waits, if there is one.
func (r *Rollouts) joinWaiting(ctx context.Context, operator, reason string) (string, error) {
	running, err := r.running(ctx)
	if err != nil {
		return "", err
	}
	for _, h := range running {
		if h.Delivery == nil || h.Delivery.Begun || h.CancelBy != "" {
			continue
		}
		it, err := r.headers.Update(ctx, h.ID, func(h *header) error {
			if h.Delivery.Begun || h.CancelBy != "" || h.State != v1.RolloutState_ROLLOUT_STATE_RUNNING {
				return errs.New(errs.Precondition, "rollout %s has begun", h.ID)
			}
			if !slices.Contains(h.Delivery.Reasons, clip(reason)) && len(h.Delivery.Reasons) < maxReasons {
				h.Delivery.Reasons = append(h.Delivery.Reasons, clip(reason))
			}
			return nil
		})
		if errs.Is(err, errs.Precondition) {
			continue
		}
		if err != nil {
			return "", errs.Wrap("store rollout", err)
		}
		r.auditBy(ctx, operator, "rollout.deliver", "rollout/"+h.ID, reason)
		r.publish(h.ID)
		return it.Name, nil
	}
	return "", nil
}

// recipients are the nodes of a delivery.
type recipients struct {
	view  *View
	nodes []string
	// left are nodes that would get more than resources, because of what the last rollout is.
	left []string
	last header
}

func (t *recipients) refusal() error {
	if len(t.left) == 0 {
		return nil
	}
	why := "was limited to other nodes"
	if held(t.last.State) {
		why = "was " + StateWord(t.last.State)
	}
	return errs.New(errs.Precondition, "rollout %s of revision %d %s, so nothing is brought to %s before that is settled",
		t.last.ID, t.last.Revision, why, strings.Join(t.left, ", ")).WithHint("infractl apply")
}

func held(s v1.RolloutState) bool {
	return s == v1.RolloutState_ROLLOUT_STATE_HALTED || s == v1.RolloutState_ROLLOUT_STATE_CANCELED
}

// recipients returns the nodes that have kept something and whose wish is another now.
func (r *Rollouts) recipients(ctx context.Context, current uint64) (*recipients, error) {
	view, err := r.cfg.Revisions.View(ctx, current)
	if err != nil {
		return nil, err
	}
	to := &recipients{view: view}
	if to.last, _, err = r.newestPlain(ctx); err != nil {
		return nil, err
	}
	// What nobody has begun to roll out is not brought along either.
	all := to.last.Revision == current && !held(to.last.State)
	look, kept := newLookup(r.cfg.Fleet), map[uint64]*View{current: view}
	for _, name := range view.Order {
		node, err := look.node(ctx, name)
		if err != nil {
			return nil, err
		}
		digest := view.Nodes[name].Digest
		if node == nil || !everKept(node) || node.State.M.GetWidenedDigest() == digest {
			continue
		}
		if all && (len(to.last.Scope) == 0 || slices.Contains(to.last.Scope, name)) {
			to.nodes = append(to.nodes, name)
			continue
		}
		revision := node.State.M.GetSiteRevision()
		if node.State.M.GetSpecDigest() != node.State.M.GetWidenedDigest() {
			revision = 0 // it is that of a spec that was not kept
		}
		same, err := r.sameSite(ctx, kept, revision, name, digest)
		if err != nil {
			return nil, err
		}
		if same {
			to.nodes = append(to.nodes, name)
		} else {
			to.left = append(to.left, name)
		}
	}
	return to, nil
}

// sameSite reports whether the site revision that a node has asks of it, with today's resources, what is wanted now.
func (r *Rollouts) sameSite(ctx context.Context, views map[uint64]*View, revision uint64, name, digest string) (bool, error) {
	if revision == 0 {
		return false, nil
	}
	view, ok := views[revision]
	if !ok {
		var err error
		view, err = r.cfg.Revisions.View(ctx, revision)
		switch errs.CodeOf(err) {
		case "":
		case errs.NotFound, errs.Invalid, errs.Precondition: // it cannot be derived any more
			view = &View{}
		default:
			return false, err
		}
		views[revision] = view
	}
	return view.Nodes[name].Digest == digest, nil
}

// beginDelivery chooses the nodes of a delivery whose turn has come, by what is wanted and kept now. A crash in between
// makes it choose again.
func (r *Rollouts) beginDelivery(ctx context.Context, h header) (header, error) {
	if h.Delivery == nil || h.Delivery.Begun || h.CancelBy != "" {
		return h, nil
	}
	current, err := r.cfg.Revisions.Current(ctx)
	if err != nil {
		return h, err
	}
	to, err := r.recipients(ctx, current)
	switch errs.CodeOf(err) {
	case "":
	case errs.NotFound, errs.Invalid, errs.Precondition:
		h.Revision = current // it cannot be derived, and the rollout halts on that
		return h, nil
	default:
		return h, err
	}
	stored, err := r.storedNodes(ctx, h)
	if err != nil {
		return h, err
	}
	next := h
	next.Revision, next.Waves = current, nil
	if len(to.nodes) > 0 {
		next.Waves = deliveryWaves(to.view, to.nodes)
	}
	var ops []store.Op
	for _, n := range stored {
		if !slices.Contains(to.nodes, n.Node) {
			ops = append(ops, store.Delete{Kind: KindNode, Name: nodeName(h.ID, n.Node), Expect: store.Any})
		}
	}
	for _, n := range freshNodes(next) {
		op, err := r.nodes.PutOp(nodeName(h.ID, n.Node), *n, store.Any)
		if err != nil {
			return h, err
		}
		ops = append(ops, op)
	}
	for chunk := range slices.Chunk(ops, store.MaxOps) {
		if _, err := r.cfg.Store.Write(ctx, chunk...); err != nil {
			return h, errs.Wrap("store rollout", err)
		}
	}
	it, err := r.headers.Update(ctx, h.ID, func(h *header) error {
		h.Revision, h.Waves, h.Delivery.Begun = next.Revision, next.Waves, true
		return nil
	})
	return it.Value, errs.Wrap("store rollout", err)
}

// newestPlain returns the newest rollout that is no delivery; ok is false when there is none.
func (r *Rollouts) newestPlain(ctx context.Context) (h header, ok bool, err error) {
	opts := store.ListOptions{Reverse: true, Limit: 1}
	for {
		items, err := r.headers.List(ctx, opts)
		if err != nil || len(items) == 0 {
			return header{}, false, errs.Wrap("read newest rollout", err)
		}
		for _, it := range items {
			if it.Value.Delivery == nil {
				return it.Value, true, nil
			}
		}
		opts.After, opts.Limit = items[len(items)-1].Name, 20
	}
}

// successor returns the newest rollout that takes the place of x. A delivery takes nobody's place, and has its own taken only
// by one that reaches all its nodes.
func (x *run) successor(ctx context.Context) (string, error) {
	newest, ok, err := x.r.newestID(ctx)
	if err != nil || !ok || newest <= x.id {
		return "", err
	}
	last, ok, err := x.r.newestPlain(ctx)
	if err != nil || !ok || last.ID <= x.id {
		return "", err
	}
	if x.h.Delivery != nil {
		for _, name := range x.order {
			if !slices.ContainsFunc(last.Waves, func(w wave) bool { return slices.Contains(w.Nodes, name) }) {
				return "", nil
			}
		}
	}
	return last.ID, nil
}

// auditBy writes what somebody did; a failure is logged, since the rollout must go on.
func (r *Rollouts) auditBy(ctx context.Context, actor, action, target, message string) {
	_, err := r.cfg.Store.AppendAudit(ctx, store.AuditEntry{
		Time: r.cfg.Clock.Now(), Actor: actor, Action: action, Target: target, Result: "ok", Message: message,
	})
	if err != nil {
		r.cfg.Log.Error("could not write the audit log", "action", action, "target", target, "error", err)
	}
}

// newID makes a rollout's id; ids sort by age.
func newID(number int) string {
	// The random part keeps ids apart that a server restored from a backup would give twice.
	return fmt.Sprintf("r%06d-%s", number, randomHex(3))
}
