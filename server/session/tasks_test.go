package session

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/sqlite"
)

func hubOn(t *testing.T, s store.Store, c clock.Clock) *Hub {
	t.Helper()
	h, err := NewHub(t.Context(), HubConfig{Store: s, Fleet: fleet.New(s), Clock: c, Log: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// leave sends a task and goes away, as a server that is restarted does.
func leave(t *testing.T, h *Hub, task *v1.Task) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	task.NotAfter = timestamppb.New(h.cfg.Clock.Now().Add(time.Minute))
	h.mu.Lock()
	h.pending[task.GetId()] = newTask("n1", task, false)
	h.mu.Unlock()
	data, err := proto.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	rec := taskRecord{ID: task.GetId(), Node: "n1", Task: data}
	if _, err := h.tasks.Put(t.Context(), task.GetId(), rec, store.Absent); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Resume(ctx, task.GetId(), nil); !errs.Is(err, errs.Canceled) {
		t.Fatalf("got %v, want canceled", err)
	}
}

func TestTasksThatSomebodyComesBackForAreNotForgotten(t *testing.T) {
	restart := &v1.Task_Restart{Restart: &v1.RestartTask{}}
	for name, tt := range map[string]struct {
		task *v1.Task
		kept bool
	}{
		"of an operation": {&v1.Task{Id: "o000012-a1b2c3-0d0-1", Work: restart}, true},
		"an apply":        {&v1.Task{Id: "r1-n1-w1", Work: &v1.Task_Apply{Apply: &v1.ApplyTask{}}}, true},
		"a question":      {&v1.Task{Id: "flows-01", Work: restart}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := clock.NewFake(time.Now())
			s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Clock: c, Logger: hclog.NewNullLogger()})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			h := hubOn(t, s, c)
			leave(t, h, tt.task)
			c.Advance(time.Minute + 2*dropAfter)
			for place, h := range map[string]*Hub{"the same server": h, "a restarted one": hubOn(t, s, c)} {
				h.mu.Lock()
				h.dropLate(c.Now())
				h.mu.Unlock()
				// Unavailable: the agent is away, and what it did is not known. Timeout: it never began.
				_, err := h.Resume(t.Context(), tt.task.GetId(), nil)
				if want := map[bool]errs.Code{true: errs.Unavailable, false: errs.Timeout}[tt.kept]; !errs.Is(err, want) {
					t.Errorf("%s: got %v, want %s", place, err, want)
				}
			}
			if !tt.kept {
				return
			}
			// The agent is back and says that it had begun; that survives a restart of the server, and so does the result.
			if err := h.accepted(t.Context(), "n1", tt.task.GetId()); err != nil {
				t.Fatal(err)
			}
			h = hubOn(t, s, c)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if _, err := h.Resume(ctx, tt.task.GetId(), nil); ctx.Err() == nil {
				t.Errorf("a task at work was given up: %v", err)
			}
			if err := h.finish(t.Context(), "n1", &v1.TaskResult{TaskId: tt.task.GetId()}); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Resume(t.Context(), tt.task.GetId(), nil); err != nil {
				t.Errorf("its result: %v", err)
			}
		})
	}
}
