package app

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/session"
	"github.com/infractl/infractl/server/store"
)

// TestUnacceptedTasksDoNotPileUp: a node that never answers must be asked again once its tasks are too late, and an apply
// that it may have begun unheard must still find its result.
func TestUnacceptedTasksDoNotPileUp(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	m.mustOpen()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range 64 {
		task := f.task(fmt.Sprintf("t%d", i), time.Minute)
		if i == 0 {
			task.Work = &v1.Task_Apply{Apply: &v1.ApplyTask{CommitId: "c1"}}
		}
		go f.app.hub.Do(ctx, "web", task, nil)
	}
	f.eventually("all tasks wait", func() bool {
		recs, err := f.app.store.List(t.Context(), session.KindTask, store.ListOptions{NamesOnly: true})
		return err == nil && len(recs) == 64
	})
	_, err := f.app.hub.Do(t.Context(), "web", f.task("one-more", time.Minute), nil)
	wantCode(t, err, errs.Exhausted)
	f.clock.Advance(2 * time.Minute)
	short, end := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer end()
	_, err = f.app.hub.Do(short, "web", f.task("later", time.Minute), nil)
	wantCode(t, err, errs.Timeout) // it waited for an answer, and was not turned away
	if _, err = f.app.hub.Resume(t.Context(), "t1", nil); errs.CodeOf(err) != errs.Timeout {
		t.Errorf("a probe that is too late: %v", err)
	}
	again, _ := m.mustOpen()
	_ = again.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Result{Result: &v1.TaskResult{TaskId: "t0",
		Outcome: &v1.TaskResult_Apply{Apply: &v1.ApplyResult{}}}}})
	if res, err := f.app.hub.Resume(t.Context(), "t0", nil); err != nil || res.GetApply() == nil {
		t.Errorf("the apply: %v, %v", res, err)
	}
}
