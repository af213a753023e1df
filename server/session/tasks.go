package session

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// KindTask is the kind of the records of tasks, under the task's id.
const KindTask store.Kind = "task"

const (
	// maxPending is how many tasks one node may have without a result.
	maxPending = 64
	// nearNotAfter is the time that a node which is away would need to come back and accept.
	nearNotAfter = 30 * time.Second
	// acceptGrace is how long after NotAfter an acceptance may still be on its way; dropAfter is when whoever waited for it
	// has given up for sure.
	acceptGrace = 5 * time.Second
	dropAfter   = 2 * acceptGrace
	// keepTasks is how long a task and its result are kept.
	keepTasks = 24 * time.Hour
	// maxTask is the largest task, in bytes: what agents accept as one message, with room to spare.
	maxTask = 4 << 20
	// progressBuffer is how many progress messages wait for a slow caller before newer ones are dropped.
	progressBuffer = 64
)

// taskRecord is a task as the store keeps it.
type taskRecord struct {
	ID       string `json:"id"`
	Node     string `json:"node"`
	Task     []byte `json:"task"`
	Accepted bool   `json:"accepted,omitempty"`
	Result   []byte `json:"result,omitempty"`
}

// task is a task without a stored result. Fields below done are guarded by the hub's mutex.
type task struct {
	id       string
	node     string
	msg      *v1.Task
	notAfter time.Time
	done     chan struct{} // closed when result is set, or the task was given up

	accepted bool
	result   *v1.TaskResult
	waiting  []chan *v1.TaskProgress
}

func (r taskRecord) task() (*task, error) {
	msg := new(v1.Task)
	if err := proto.Unmarshal(r.Task, msg); err != nil {
		return nil, errs.Wrap("read stored task", err)
	}
	return newTask(r.Node, msg, r.Accepted), nil
}

func newTask(node string, msg *v1.Task, accepted bool) *task {
	return &task{id: msg.GetId(), node: node, msg: msg, notAfter: msg.GetNotAfter().AsTime(), accepted: accepted,
		done: make(chan struct{})}
}

// Do stores a task, sends it to the node and waits for its result, over reconnects of the agent. task.Id and task.NotAfter
// are set by the caller, who leaves task alone from then on. The error is Unavailable at once if the node has no session
// and NotAfter is near, and when NotAfter passes without one; Timeout when the agent did not accept the task before
// NotAfter; Exists when the id was used before. When ctx ends the task goes on: Resume waits for it again. progress may be
// nil; it is called from the caller's goroutine, and progress may be lost.
func (h *Hub) Do(ctx context.Context, node string, msg *v1.Task, progress func(*v1.TaskProgress)) (*v1.TaskResult, error) {
	const op = "send task"
	if err := checkTask(msg); err != nil {
		return nil, errs.Wrap(op, err)
	}
	t := newTask(node, msg, false)
	now := h.cfg.Clock.Now()
	h.mu.Lock()
	h.dropLate(now)
	live := h.live[node] != nil
	count := 0
	for _, other := range h.pending {
		if other.node == node && !other.late(now, dropAfter) {
			count++
		}
	}
	h.mu.Unlock()
	if !live && t.notAfter.Sub(now) < nearNotAfter {
		return nil, errs.Wrap(op, away(node))
	}
	if count >= maxPending {
		return nil, errs.Wrap(op, errs.New(errs.Exhausted, "%d tasks wait already", count).At("node "+node))
	}
	data, err := proto.Marshal(msg)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	rec := taskRecord{ID: t.id, Node: node, Task: data}
	if _, err := h.tasks.Put(ctx, t.id, rec, store.Absent); err != nil {
		return nil, errs.Wrap(op, err)
	}
	// It is in the list before it is sent, and what connects from here on sends it: no gap between the two.
	h.mu.Lock()
	h.pending[t.id] = t
	if c := h.live[node]; c != nil {
		c.sendTask(t.msg)
	}
	h.mu.Unlock()
	return h.wait(ctx, t, progress)
}

// late reports whether the agent can't have begun a task for all that is known here.
func (t *task) late(now time.Time, grace time.Duration) bool {
	return !t.accepted && now.After(t.notAfter.Add(grace))
}

// durable reports whether whoever sent a task comes back for its result, whatever restarts meanwhile: rollouts for their applies,
// and operations, whose tasks have ids that begin with "o" (see Run.Task in package operation). To take such a task for one that
// nobody began would have the same work done twice.
func (t *task) durable() bool { return t.msg.GetApply() != nil || strings.HasPrefix(t.id, "o") }

// dropLate forgets tasks that were not accepted in time, so that they count no more. A durable one stays: its agent may have
// begun it unheard, and says so when it is back.
func (h *Hub) dropLate(now time.Time) {
	for id, t := range h.pending {
		if t.late(now, dropAfter) && !t.durable() {
			delete(h.pending, id)
			close(t.done)
		}
	}
}

func checkTask(msg *v1.Task) error {
	switch {
	case msg.GetId() == "" || len(msg.GetId()) > 64:
		return errs.New(errs.Invalid, "a task's id has 1 to 64 bytes")
	case msg.GetNotAfter() == nil:
		return errs.New(errs.Invalid, "a task needs not_after")
	case msg.GetWork() == nil:
		return errs.New(errs.Invalid, "a task needs something to do")
	case proto.Size(msg) > maxTask:
		return errs.New(errs.Invalid, "the task has %d bytes, more than %d", proto.Size(msg), maxTask)
	}
	return nil
}

func away(node string) error {
	return errs.New(errs.Unavailable, "the node is away").At("node "+node).WithHint("infractl node show %s", node)
}

// Resume waits for a task that was sent before, maybe by a server that was restarted since. NotFound if there is none.
func (h *Hub) Resume(ctx context.Context, taskID string, progress func(*v1.TaskProgress)) (*v1.TaskResult, error) {
	const op = "wait for task"
	h.mu.Lock()
	t := h.pending[taskID]
	h.mu.Unlock()
	if t != nil {
		return h.wait(ctx, t, progress)
	}
	it, err := h.tasks.Get(ctx, taskID)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	if len(it.Value.Result) == 0 {
		return nil, errs.Wrap(op, errs.New(errs.Timeout, "the task was given up").At("node "+it.Value.Node))
	}
	res := new(v1.TaskResult)
	if err := proto.Unmarshal(it.Value.Result, res); err != nil {
		return nil, errs.Wrap(op, err)
	}
	return res, nil
}

// wait waits until t has a result, ctx ends, or NotAfter passes without acceptance.
func (h *Hub) wait(ctx context.Context, t *task, progress func(*v1.TaskProgress)) (*v1.TaskResult, error) {
	var updates chan *v1.TaskProgress
	if progress != nil {
		updates = make(chan *v1.TaskProgress, progressBuffer)
		h.mu.Lock()
		t.waiting = append(t.waiting, updates)
		h.mu.Unlock()
		defer h.stopWaiting(t, updates)
	}
	late := time.NewTimer(t.notAfter.Sub(h.cfg.Clock.Now()))
	defer late.Stop()
	graced := false
	for {
		select {
		case <-t.done:
			if t.result == nil {
				return nil, errs.Wrap("wait for task", errs.New(errs.Timeout, "the task was given up").At("node "+t.node))
			}
			return t.result, nil
		case p := <-updates:
			progress(p)
		case <-ctx.Done():
			return nil, errs.Wrap("wait for task on "+t.node, ctx.Err())
		case <-late.C:
			h.mu.Lock()
			accepted, live := t.accepted, h.live[t.node] != nil
			h.mu.Unlock()
			switch {
			case accepted: // it may take as long as it takes
			case !live:
				return nil, errs.Wrap("send task", away(t.node))
			case !graced:
				graced = true
				late.Reset(acceptGrace)
			default:
				return nil, errs.Wrap("send task", errs.New(errs.Timeout, "the agent did not accept the task in time").
					At("node "+t.node))
			}
		}
	}
}

func (h *Hub) stopWaiting(t *task, updates chan *v1.TaskProgress) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, u := range t.waiting {
		if u == updates {
			t.waiting = append(t.waiting[:i], t.waiting[i+1:]...)
			return
		}
	}
}

// owned returns the task that a node speaks of: nil if it is not pending, Denied if it is another node's.
func (h *Hub) owned(node, id string) (*task, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.pending[id]
	if t != nil && t.node != node {
		return nil, errs.New(errs.Denied, "node %s speaks of a task of node %s", node, t.node)
	}
	return t, nil
}

// accepted notes that a task is on the agent's disk. A durable one may take long, so that this survives a restart too.
func (h *Hub) accepted(ctx context.Context, node, id string) error {
	t, err := h.owned(node, id)
	if t == nil || err != nil {
		return err
	}
	h.mu.Lock()
	before := t.accepted
	t.accepted = true
	h.mu.Unlock()
	if before || !t.durable() {
		return nil
	}
	_, err = h.tasks.Update(ctx, id, func(r *taskRecord) error { r.Accepted = true; return nil })
	return errs.Wrap("store acceptance", err)
}

func (h *Hub) progress(node string, p *v1.TaskProgress) error {
	t, err := h.owned(node, p.GetTaskId())
	if t == nil || err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t.accepted = true
	for _, u := range t.waiting {
		select {
		case u <- p:
		default:
		}
	}
	return nil
}

// finish stores a result. When it returns nil the result may be acknowledged: it is stored now, or was before, or nobody
// knows of the task any more.
func (h *Hub) finish(ctx context.Context, node string, res *v1.TaskResult) error {
	id := res.GetTaskId()
	t, err := h.owned(node, id)
	if err != nil {
		return err
	}
	data, err := proto.Marshal(res)
	if err != nil {
		return errs.Wrap("store result", err)
	}
	if state := res.GetApply().GetState(); state != nil && t != nil {
		// Whoever waits for the result finds the state that it speaks of.
		if _, err := h.cfg.Fleet.UpdateNode(ctx, node, func(n *fleet.Node) error { n.State.M = state; return nil }); err != nil {
			return errs.Wrap("store result", err)
		}
	}
	_, err = h.tasks.Update(ctx, id, func(r *taskRecord) error {
		if r.Node != node {
			return errs.New(errs.Denied, "node %s speaks of a task of node %s", node, r.Node)
		}
		if len(r.Result) == 0 {
			r.Result, r.Task = data, nil // what was to be done, a whole host spec maybe, is of no use any more
		}
		return nil
	})
	if err != nil && !errs.Is(err, errs.NotFound) {
		return errs.Wrap("store result", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if t = h.pending[id]; t != nil {
		t.result = res
		delete(h.pending, id)
		close(t.done)
	}
	return nil
}

// prune forgets tasks that are older than keepTasks, with or without a result.
func (h *Hub) prune(ctx context.Context) error {
	now := h.cfg.Clock.Now()
	h.mu.Lock()
	h.dropLate(now)
	h.mu.Unlock()
	recs, err := h.cfg.Store.List(ctx, KindTask, store.ListOptions{NamesOnly: true})
	if err != nil {
		return err
	}
	old := slices.DeleteFunc(recs, func(r store.Record) bool { return !r.Updated.Before(now.Add(-keepTasks)) })
	for chunk := range slices.Chunk(old, store.MaxOps) {
		ops := make([]store.Op, 0, len(chunk))
		for _, r := range chunk {
			ops = append(ops, store.Delete{Kind: KindTask, Name: r.Name, Expect: store.Any})
		}
		if _, err := h.cfg.Store.Write(ctx, ops...); err != nil {
			return err
		}
		h.giveUp(ops)
	}
	return nil
}

func (h *Hub) giveUp(ops []store.Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, op := range ops {
		_, name, _ := store.Target(op)
		if t := h.pending[name]; t != nil {
			delete(h.pending, name)
			close(t.done)
		}
	}
}
