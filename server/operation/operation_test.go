package operation_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/store"
)

func TestStepsRunInOrderAndShareValues(t *testing.T) {
	l := &ledger{}
	got := ""
	r := serving(t, kind("create",
		l.step("a", func(ctx context.Context, run *operation.Run) error { return run.Set(ctx, "port", "8080") }),
		l.step("b", func(_ context.Context, run *operation.Run) error {
			run.Say("nearly there")
			_, err := run.Get("port", &got)
			return err
		}),
	))
	op := r.still(r.start("create", "instance/acme"))
	r.want(op, succeeded)
	if l.all() != "a b" || got != "8080" {
		t.Errorf("steps %q, value %q", l.all(), got)
	}
	if s := op.GetSteps()[1]; s.GetState() != v1.StepState_STEP_STATE_DONE || s.GetMessage() != "nearly there" {
		t.Errorf("step %v", s)
	}
}

func TestFailureUndoesInReverseWhatMayHaveHappened(t *testing.T) {
	l := &ledger{}
	r := serving(t, kind("create", l.step("a", nil), l.step("b", func(context.Context, *operation.Run) error {
		return errs.New(errs.Precondition, "no room").WithHint("make room")
	}), l.step("c", nil)))
	op := r.still(r.start("create", "instance/acme"))
	r.want(op, failed)
	if l.all() != "a b -b -a" {
		t.Errorf("steps %q", l.all())
	}
	if op.GetHint() != "make room" || !strings.Contains(op.GetMessage(), "step b failed: no room") {
		t.Errorf("message %q, hint %q", op.GetMessage(), op.GetHint())
	}
	if s := op.GetSteps()[2].GetState(); s != v1.StepState_STEP_STATE_SKIPPED {
		t.Errorf("step c is %v", s)
	}
	r.want(r.still(r.start("create", "instance/acme")), failed) // the target is free again
}

func TestAbsenceIsWaitedOut(t *testing.T) {
	l := &ledger{}
	r := serving(t, kind("create", l.step("a", func(ctx context.Context, run *operation.Run) error {
		_, err := run.Task(ctx, "srv-prod", &v1.Task{Work: &v1.Task_Listen{Listen: &v1.ListenTask{}}})
		return err
	})))
	r.agents.mu.Lock()
	r.agents.away["srv-prod"] = true
	r.agents.mu.Unlock()
	id := r.start("create", "instance/acme")
	r.eventually("some tries", func() bool { return len(strings.Fields(l.all())) > 3 })
	r.agents.mu.Lock()
	r.agents.away["srv-prod"] = false
	r.agents.mu.Unlock()
	r.want(r.still(id), succeeded)
	if n := len(r.agents.tasks); n != 1 {
		t.Errorf("%d tasks, want 1", n)
	}
}

func TestAbsenceCountsAsFailureAfterSomeAttempts(t *testing.T) {
	l := &ledger{}
	s := l.step("a", func(context.Context, *operation.Run) error { return errs.New(errs.Unavailable, "away") })
	s.Retry.Attempts = 3
	r := serving(t, kind("create", s))
	r.want(r.still(r.start("create", "x")), failed)
	if l.all() != "a a a -a" {
		t.Errorf("steps %q", l.all())
	}
}

func TestSecondOperationOnATargetIsAConflict(t *testing.T) {
	release := make(chan struct{})
	l := &ledger{}
	r := serving(t, kind("create", l.step("a", func(context.Context, *operation.Run) error { <-release; return nil })))
	id := r.start("create", "instance/acme")
	_, err := r.engine.Start(context.Background(), operation.StartRequest{Kind: "create", Target: "instance/acme"})
	if !errs.Is(err, errs.Conflict) || !strings.Contains(err.Error(), id) || !strings.Contains(errs.HintOf(err), id) {
		t.Errorf("got %v, hint %q, want a conflict that names %s", err, errs.HintOf(err), id)
	}
	close(release)
	r.want(r.still(id), succeeded)
}

func TestUndoThatFailsIsStuckUntilRetriedOrGivenUp(t *testing.T) {
	ctx := context.Background()
	var broken atomic.Bool
	broken.Store(true)
	l := &ledger{}
	s := l.step("a", func(context.Context, *operation.Run) error { return errs.New(errs.Invalid, "no") })
	s.Undo = func(context.Context, *operation.Run) error {
		if broken.Load() {
			return errs.New(errs.Internal, "the disk is broken")
		}
		l.note("-a")
		return nil
	}
	r := serving(t, kind("create", s))
	first := r.start("create", "x")
	op := r.still(first)
	r.want(op, stuck)
	if !strings.Contains(op.GetHint(), "infractl operation retry "+first) {
		t.Errorf("hint %q", op.GetHint())
	}
	broken.Store(false)
	if _, err := r.engine.Retry(ctx, first, "operator/anna"); err != nil {
		t.Fatal(err)
	}
	r.want(r.still(first), failed)

	broken.Store(true)
	second := r.start("create", "x")
	r.want(r.still(second), stuck)
	if _, err := r.engine.Cancel(ctx, second, "operator/anna"); err != nil {
		t.Fatal(err)
	}
	r.eventually("the end", func() bool {
		op, err := r.engine.Get(ctx, second)
		return err == nil && op.GetState() == canceled && strings.Contains(op.GetMessage(), "given up by operator/anna")
	})
}

func TestStopPolicyHaltsForARetryOrACancel(t *testing.T) {
	ctx := context.Background()
	var broken atomic.Bool
	broken.Store(true)
	l := &ledger{}
	s := l.step("b", func(context.Context, *operation.Run) error {
		if broken.Load() {
			return errs.New(errs.Internal, "no")
		}
		return nil
	})
	s.OnFailure = operation.Stop
	r := serving(t, kind("patch", l.step("a", nil), s))
	first := r.start("patch", "fleet")
	r.want(r.still(first), halted)
	if _, err := r.engine.Cancel(ctx, first, "operator/anna"); err != nil {
		t.Fatal(err)
	}
	r.eventually("undone", func() bool { return l.all() == "a b -b -a" })
	r.want(r.still(first), canceled)
	second := r.start("patch", "fleet")
	r.want(r.still(second), halted)
	broken.Store(false)
	if _, err := r.engine.Retry(ctx, second, "operator/anna"); err != nil {
		t.Fatal(err)
	}
	r.want(r.still(second), succeeded)
	if _, err := r.engine.Retry(ctx, second, "operator/anna"); !errs.Is(err, errs.Precondition) {
		t.Errorf("retry of what succeeded: %v", err)
	}
}

func TestPauseRestartResume(t *testing.T) {
	ctx := context.Background()
	release := make(chan struct{})
	l := &ledger{}
	r := serving(t, kind("create", l.step("a", func(context.Context, *operation.Run) error { <-release; return nil }), l.step("b", nil)))
	id := r.start("create", "x")
	r.eventually("a at work", func() bool { return l.all() == "a" })
	if _, err := r.engine.Pause(ctx, id, "operator/anna"); err != nil {
		t.Fatal(err)
	}
	close(release)
	r.eventually("the pause", func() bool {
		op, err := r.engine.Get(ctx, id[:7])
		return err == nil && op.GetState() == paused
	})
	r.stop()
	r.serve()
	time.Sleep(20 * time.Millisecond)
	if l.all() != "a" {
		t.Fatalf("steps %q while paused", l.all())
	}
	if _, err := r.engine.Resume(ctx, id, "operator/anna"); err != nil {
		t.Fatal(err)
	}
	r.want(r.still(id), succeeded)
	if l.all() != "a b" {
		t.Errorf("steps %q", l.all())
	}
}

func TestRestartedServerWaitsForTheTaskThatWasSent(t *testing.T) {
	release := make(chan struct{})
	l := &ledger{}
	r := serving(t, kind("create", l.step("a", func(ctx context.Context, run *operation.Run) error {
		_, err := run.Task(ctx, "n", &v1.Task{Work: &v1.Task_Listen{Listen: &v1.ListenTask{}}})
		return err
	})))
	r.agents.work = func(string, string) *v1.TaskResult { <-release; return &v1.TaskResult{} }
	id := r.start("create", "x")
	r.eventually("the task", func() bool { r.agents.mu.Lock(); defer r.agents.mu.Unlock(); return len(r.agents.tasks) == 1 })
	r.stop()
	r.serve()
	close(release)
	op := r.still(id)
	r.want(op, succeeded)
	if n := len(r.agents.tasks); n != 1 || op.GetSteps()[0].GetAttempts() != 1 {
		t.Errorf("%d tasks in %d attempts, want one", n, op.GetSteps()[0].GetAttempts())
	}
}

func TestCancelWaitsForTheStepAtWorkAndUndoes(t *testing.T) {
	ctx := context.Background()
	release := make(chan struct{})
	l := &ledger{}
	r := serving(t, kind("create", l.step("a", func(context.Context, *operation.Run) error { <-release; return nil }), l.step("b", nil)))
	id := r.start("create", "x")
	r.eventually("a at work", func() bool { return l.all() == "a" })
	if _, err := r.engine.Cancel(ctx, id, "operator/anna"); err != nil {
		t.Fatal(err)
	}
	close(release)
	r.want(r.still(id), canceled)
	if l.all() != "a -a" {
		t.Errorf("steps %q", l.all())
	}
	if _, err := r.engine.Cancel(ctx, id, "operator/anna"); !errs.Is(err, errs.Precondition) {
		t.Errorf("cancel of what ended: %v", err)
	}
}

func TestPanicIsTheStepsFailure(t *testing.T) {
	l := &ledger{}
	r := serving(t, kind("create", l.step("a", func(context.Context, *operation.Run) error { panic("oh") })))
	r.want(r.still(r.start("create", "x")), failed)
	if l.all() != "a -a" {
		t.Errorf("steps %q", l.all())
	}
}

func TestOtherStepsAfterAnUpgradeAreStuck(t *testing.T) {
	l := &ledger{}
	release := make(chan struct{})
	wait := func(ctx context.Context, _ *operation.Run) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r := serving(t, kind("create", l.step("a", wait)))
	id := r.start("create", "x")
	r.eventually("a at work", func() bool { return l.all() == "a" })
	r.stop()
	before := r.kinds
	r.kinds = []operation.Kind{kind("create", l.step("b", nil))}
	r.serve()
	r.want(r.still(id), stuck)
	r.stop()
	r.kinds = before
	close(release)
	r.serve()
	if _, err := r.engine.Retry(context.Background(), id, "operator/anna"); err != nil {
		t.Fatal(err)
	}
	r.want(r.still(id), succeeded)
}

func TestLimitsOfStepsAtOnce(t *testing.T) {
	var all, onNode, mostAll, mostNode atomic.Int32
	count := func(now, most *atomic.Int32) {
		for n := now.Add(1); ; {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				return
			}
		}
	}
	k := operation.Kind{Name: "work", Steps: func(p json.RawMessage) ([]operation.Step, error) {
		var node string
		if err := json.Unmarshal(p, &node); err != nil {
			return nil, errs.New(errs.Invalid, "%w", err)
		}
		return []operation.Step{{Name: "a", Node: node, Do: func(context.Context, *operation.Run) error {
			count(&all, &mostAll)
			defer all.Add(-1)
			if node == "busy" {
				count(&onNode, &mostNode)
				defer onNode.Add(-1)
			}
			time.Sleep(3 * time.Millisecond)
			return nil
		}}}, nil
	}}
	r := serving(t, k)
	var ids []string
	for i := range 16 {
		node := "busy"
		if i%2 == 0 {
			node = "n" + string(rune('a'+i))
		}
		op, err := r.engine.Start(context.Background(), operation.StartRequest{Kind: "work", Target: "t" + string(rune('a'+i)), Params: node})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, op.GetId())
	}
	for _, id := range ids {
		r.want(r.still(id), succeeded)
	}
	if mostAll.Load() > 4 || mostNode.Load() != 1 {
		t.Errorf("%d steps at once and %d on one host, want at most 4 and 1", mostAll.Load(), mostNode.Load())
	}
	list, err := r.engine.List(context.Background(), 5, "work", false)
	if err != nil || len(list) != 5 || list[0].GetId() < list[4].GetId() {
		t.Errorf("list of %d, %v, want the five newest", len(list), err)
	}
	if open, err := r.engine.List(context.Background(), 5, "", true); err != nil || len(open) != 0 {
		t.Errorf("open %v, %v", open, err)
	}
}

func TestStartAndEndAreAudited(t *testing.T) {
	l := &ledger{}
	r := serving(t, kind("create", l.step("a", nil)))
	id := r.start("create", "instance/acme")
	r.still(id)
	r.eventually("audit", func() bool {
		got, err := r.store.ListAudit(context.Background(), store.AuditFilter{})
		return err == nil && len(got) == 2 && got[0].Action == "operation.start" && got[0].Actor == "operator/anna" &&
			got[1].Action == "operation.end" && got[1].Target == "operation/"+id
	})
}
