package session

import (
	"context"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// DoLive sends a task that is worth nothing later, such as opening a console, and waits for its result. Other than with Do it is
// never stored, the node must have a session, and when ctx ends the task is forgotten here; its agent may go on with it.
// task.Id and task.NotAfter are set by the caller. Errors are those of Do.
func (h *Hub) DoLive(ctx context.Context, node string, msg *v1.Task) (*v1.TaskResult, error) {
	const op = "send task"
	if err := checkTask(msg); err != nil {
		return nil, errs.Wrap(op, err)
	}
	t := newTask(node, msg, false)
	h.mu.Lock()
	c := h.live[node]
	if c == nil {
		h.mu.Unlock()
		return nil, errs.Wrap(op, away(node))
	}
	if h.pending[t.id] != nil {
		h.mu.Unlock()
		return nil, errs.Wrap(op, errs.New(errs.Exists, "there is a task %s already", t.id))
	}
	h.pending[t.id] = t
	c.sendTask(t.msg)
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.pending, t.id)
	}()
	return h.wait(ctx, t, nil)
}
