package session

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// HubConfig is what a Hub needs.
type HubConfig struct {
	Store store.Store
	Fleet *fleet.Fleet
	Clock clock.Clock
	Log   hclog.Logger
}

// Hub holds the live sessions and the tasks sent over them.
type Hub struct{ cfg HubConfig }

// NewHub returns a hub that knows the unfinished tasks in the store.
func NewHub(ctx context.Context, cfg HubConfig) (*Hub, error) { return &Hub{cfg: cfg}, nil }

// Live returns the live session of a node, if there is one.
func (h *Hub) Live(node string) (LiveSession, bool) { return LiveSession{}, false }

// Do stores a task, sends it to the node and waits for its result, over reconnects of the agent. task.Id and task.NotAfter
// are set by the caller. The error is Unavailable at once if the node has no session and NotAfter is near, and when
// NotAfter passes without one; Timeout when the agent did not accept the task before NotAfter. When ctx ends the task goes
// on: Resume waits for it again. progress may be nil; it is called from one goroutine at a time, and progress may be lost.
func (h *Hub) Do(ctx context.Context, node string, task *v1.Task, progress func(*v1.TaskProgress)) (*v1.TaskResult, error) {
	return nil, nil
}

// Resume waits for a task that was sent before, maybe by a server that was restarted since. NotFound if there is none.
func (h *Hub) Resume(ctx context.Context, taskID string, progress func(*v1.TaskProgress)) (*v1.TaskResult, error) {
	return nil, nil
}

// Watch sends an event for every node that connects, disconnects or reports, until ctx ends; then the channel is closed.
func (h *Hub) Watch(ctx context.Context) <-chan NodeEvent { return nil }

// Cut ends a node's live session at once.
func (h *Hub) Cut(node string) {}
