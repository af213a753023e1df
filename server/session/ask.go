package session

import (
	"context"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// Ask is Do for a question whose answer is of no use later: the task is forgotten when the answer is there, or when ctx ends.
func (h *Hub) Ask(ctx context.Context, node string, task *v1.Task) (*v1.TaskResult, error) {
	id := task.GetId()
	result, err := h.Do(ctx, node, task, nil)
	if errs.Is(err, errs.Exists) {
		return nil, err // another's
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if derr := h.tasks.Delete(ctx, id, store.Any); derr != nil {
		h.cfg.Log.Debug("a question is kept longer than needed", "task", id, "error", derr)
	}
	h.giveUp([]store.Op{store.Delete{Kind: KindTask, Name: id, Expect: store.Any}})
	return result, err
}
