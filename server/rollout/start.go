package rollout

import (
	"context"
	"slices"
	"strconv"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// keepRollouts is how many rollouts are remembered, with their nodes and commits.
const keepRollouts = 100

// StartRequest is a rollout to begin.
type StartRequest struct {
	// Revision is the site revision; it must exist.
	Revision uint64
	// Operator is who wants it.
	Operator string
	// Nodes limits it; empty means all.
	Nodes []string
	// AtConsole is the node on whose console the operator sits: it needs no login witness. The caller has checked the role.
	AtConsole string

	automatic bool
	scope     []string
}

// Start begins a rollout, which takes the place of one that is running. Errors: NotFound for an unknown revision, Invalid for
// a node that the revision does not have.
func (r *Rollouts) Start(ctx context.Context, req StartRequest) (*v1.Rollout, error) {
	view, err := r.cfg.Revisions.View(ctx, req.Revision)
	if err != nil {
		return nil, err
	}
	names := slices.Clone(req.Nodes)
	if req.AtConsole != "" {
		names = append(names, req.AtConsole)
	}
	for _, name := range names {
		if _, ok := view.Nodes[name]; !ok {
			return nil, errs.New(errs.Invalid, "revision %d has no node %q", req.Revision, name).WithHint("infractl node list")
		}
	}
	r.starting.Lock()
	defer r.starting.Unlock()
	number, err := r.nextNumber(ctx)
	if err != nil {
		return nil, err
	}
	var only []string
	if len(req.Nodes) > 0 {
		only = slices.Compact(slices.Sorted(slices.Values(req.Nodes)))
	}
	h := header{
		ID: newID(number), Revision: req.Revision, State: v1.RolloutState_ROLLOUT_STATE_RUNNING,
		Waves: wavesFrom(view.Waves(only)), HaltAfter: uint32(view.HaltAfter), Scope: only, Started: r.cfg.Clock.Now().UTC(), Operator: req.Operator,
		AtConsole: req.AtConsole, Automatic: req.automatic,
	}
	if req.automatic {
		h.Scope = req.scope
	}
	nodes := freshNodes(h)
	if err := r.writeNew(ctx, h, nodes); err != nil {
		return nil, errs.Wrap("store rollout", err)
	}
	r.nudge()
	r.publish(h.ID)
	r.forgetOld(ctx)
	return h.toProto(nodes), nil
}

func freshNodes(h header) []*nodeRecord {
	var nodes []*nodeRecord
	for _, w := range h.Waves {
		for _, name := range w.Nodes {
			nodes = append(nodes, &nodeRecord{Node: name, State: v1.NodeRolloutState_NODE_ROLLOUT_STATE_QUEUED, Wave: w.Number})
		}
	}
	return nodes
}

// writeNew stores the nodes first and the header last: a rollout exists when its header does.
func (r *Rollouts) writeNew(ctx context.Context, h header, nodes []*nodeRecord) error {
	ops := make([]store.Op, 0, len(nodes)+1)
	for _, n := range nodes {
		op, err := r.nodes.PutOp(nodeName(h.ID, n.Node), *n, store.Absent)
		if err != nil {
			return err
		}
		ops = append(ops, op)
	}
	op, err := r.headers.PutOp(h.ID, h, store.Absent)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(append(ops, op), store.MaxOps) {
		if _, err := r.cfg.Store.Write(ctx, chunk...); err != nil {
			return err
		}
	}
	return nil
}

func (r *Rollouts) nextNumber(ctx context.Context) (int, error) {
	newest, err := r.headers.List(ctx, store.ListOptions{Reverse: true, Limit: 1, NamesOnly: true})
	if err != nil {
		return 0, errs.Wrap("read newest rollout", err)
	}
	if len(newest) == 0 {
		return 1, nil
	}
	n, err := strconv.Atoi(newest[0].Name[1:7])
	if err != nil {
		return 0, errs.New(errs.Internal, "rollout id %q is damaged: %w", newest[0].Name, err)
	}
	return n + 1, nil
}

// running returns the headers of rollouts that have not ended, oldest first.
func (r *Rollouts) running(ctx context.Context) ([]header, error) {
	// Each rollout ends those before it, so the running ones are the newest.
	items, err := r.headers.List(ctx, store.ListOptions{Reverse: true, Limit: 20})
	if err != nil {
		return nil, errs.Wrap("list rollouts", err)
	}
	var out []header
	for _, it := range slices.Backward(items) {
		if it.Value.State == v1.RolloutState_ROLLOUT_STATE_RUNNING {
			out = append(out, it.Value)
		}
	}
	return out, nil
}

// newest returns the header of the newest rollout; ok is false when there is none.
func (r *Rollouts) newest(ctx context.Context) (h header, ok bool, err error) {
	items, err := r.headers.List(ctx, store.ListOptions{Reverse: true, Limit: 1})
	if err != nil || len(items) == 0 {
		return header{}, false, errs.Wrap("read newest rollout", err)
	}
	return items[0].Value, true, nil
}

// header returns a rollout by its id or a prefix of it that names just one; the newest when id is empty.
func (r *Rollouts) header(ctx context.Context, id string) (header, error) {
	if id == "" {
		h, ok, err := r.newest(ctx)
		if err == nil && !ok {
			err = errs.New(errs.NotFound, "there was no rollout yet").WithHint("infractl apply -f site.yaml")
		}
		return h, err
	}
	if store.CheckName(id) != nil {
		return header{}, errs.New(errs.Invalid, "%.40q is not the id of a rollout", id)
	}
	items, err := r.headers.List(ctx, store.ListOptions{Prefix: id, Limit: 2})
	switch {
	case err != nil:
		return header{}, errs.Wrap("read rollout", err)
	case len(items) == 0:
		return header{}, errs.New(errs.NotFound, "there is no rollout %q", id).WithHint("infractl operation list")
	case len(items) > 1 && items[0].Name != id:
		return header{}, errs.New(errs.Invalid, "several rollouts begin with %q", id).WithHint("infractl operation list")
	}
	return items[0].Value, nil
}

// Get returns a rollout; an empty id is the newest. NotFound when there is none.
func (r *Rollouts) Get(ctx context.Context, id string) (*v1.Rollout, error) {
	h, err := r.header(ctx, id)
	if err != nil {
		return nil, err
	}
	return r.describe(ctx, h)
}

// describe returns a rollout as it is now: from memory when it is at work here, else from the store.
func (r *Rollouts) describe(ctx context.Context, h header) (*v1.Rollout, error) {
	r.mu.Lock()
	active := r.active
	r.mu.Unlock()
	if active != nil && active.id == h.ID {
		return active.snapshot(), nil
	}
	nodes, err := r.storedNodes(ctx, h)
	if err != nil {
		return nil, err
	}
	return h.toProto(nodes), nil
}

// storedNodes returns the nodes of a rollout in the order of its waves.
func (r *Rollouts) storedNodes(ctx context.Context, h header) ([]*nodeRecord, error) {
	items, err := r.nodes.List(ctx, store.ListOptions{Prefix: h.ID + "/"})
	if err != nil {
		return nil, errs.Wrap("read nodes of rollout", err)
	}
	nodes := make([]*nodeRecord, 0, len(items))
	for i := range items {
		nodes = append(nodes, &items[i].Value)
	}
	sortByWave(nodes, h.Waves)
	return nodes, nil
}

func sortByWave(nodes []*nodeRecord, waves []wave) {
	place := map[string]int{}
	for _, w := range waves {
		for _, name := range w.Nodes {
			place[name] = len(place)
		}
	}
	slices.SortStableFunc(nodes, func(a, b *nodeRecord) int { return place[a.Node] - place[b.Node] })
}

// List returns at most limit rollouts, newest first.
func (r *Rollouts) List(ctx context.Context, limit int) ([]*v1.Rollout, error) {
	items, err := r.headers.List(ctx, store.ListOptions{Reverse: true, Limit: limit})
	if err != nil {
		return nil, errs.Wrap("list rollouts", err)
	}
	out := make([]*v1.Rollout, 0, len(items))
	for _, it := range items {
		ro, err := r.describe(ctx, it.Value)
		if err != nil {
			return nil, err
		}
		out = append(out, ro)
	}
	return out, nil
}

// forgetOld removes all but the newest rollouts; a failure is logged, since the next start tries again.
func (r *Rollouts) forgetOld(ctx context.Context) {
	items, err := r.headers.List(ctx, store.ListOptions{Reverse: true, NamesOnly: true})
	if err != nil || len(items) <= keepRollouts {
		return
	}
	for _, it := range items[keepRollouts:] {
		if err := r.forget(ctx, it.Name); err != nil {
			r.cfg.Log.Warn("could not remove an old rollout", "rollout", it.Name, "error", err)
			return
		}
	}
}

func (r *Rollouts) forget(ctx context.Context, id string) error {
	for _, kind := range []struct {
		kind   store.Kind
		prefix string
	}{{KindCommit, id + "-"}, {KindNode, id + "/"}, {KindRollout, id}} {
		recs, err := r.cfg.Store.List(ctx, kind.kind, store.ListOptions{Prefix: kind.prefix, NamesOnly: true})
		if err != nil {
			return err
		}
		for chunk := range slices.Chunk(recs, store.MaxOps) {
			ops := make([]store.Op, 0, len(chunk))
			for _, rec := range chunk {
				ops = append(ops, store.Delete{Kind: kind.kind, Name: rec.Name, Expect: store.Any})
			}
			if _, err := r.cfg.Store.Write(ctx, ops...); err != nil {
				return err
			}
		}
	}
	return nil
}
