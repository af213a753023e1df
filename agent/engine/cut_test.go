package engine

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// heldProvider does something else before it applies.
type heldProvider struct {
	*fileProvider
	before func(context.Context) error
}

func (p *heldProvider) Apply(ctx context.Context, plan provider.Plan[*v1.SystemSpec]) error {
	if err := p.before(ctx); err != nil {
		return err
	}
	return p.fileProvider.Apply(ctx, plan)
}

// hold puts a heldProvider in the place of the rig's first one, at these stages.
func (r *rig) hold(before func(context.Context) error, stages ...provider.Stage) {
	section := func(s *v1.HostSpec) (*v1.SystemSpec, bool) { return s.GetSystem(), s.GetSystem() != nil }
	b := provider.Bind(&heldProvider{r.way, before}, section, stages...)
	r.engine.providers[0], r.engine.reverter.providers[b.Name()] = b, b
}

// TestStoppedAgentIsNoFailure: content that was cut short by a stop of the agent must not become known-bad.
func TestStoppedAgentIsNoFailure(t *testing.T) {
	for name, stage := range map[string]provider.Stage{"additions": provider.Additions, "services": provider.Services} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			ctx, cancel := context.WithCancel(t.Context())
			r.hold(func(ctx context.Context) error { cancel(); return ctx.Err() }, stage)
			result, err := r.engine.Apply(ctx, r.task("c1", widen), "t", confirmed, nil)
			r.engine.Close()
			if errs.CodeOf(err) != errs.Canceled {
				t.Errorf("result %v, error %v", result, err)
			}
			if state := r.engine.State(); len(state.GetDegraded()) > 0 {
				t.Errorf("degraded: %v", state.GetDegraded())
			}
		})
	}
}

func TestSlowCommitIsRevertedAndNotBlamed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.hold(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, provider.Widening)
	task := r.task("c1", widen)
	task.Window = durationpb.New(minWindow)
	begun := time.Now()
	result := r.apply(task, confirmed)
	if took := time.Since(begun); took > minWindow {
		t.Errorf("it took %s, longer than its window", took)
	}
	p := result.GetPhases()[len(result.GetPhases())-1]
	if p.GetOutcome() != v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED || p.GetError().GetCode() != string(errs.RolledBack) {
		t.Errorf("outcome %v", p)
	}
	if got := r.content(); got != "old old" {
		t.Errorf("content %q", got)
	}
}

// TestWhatFollowsARevertIsRevertedToo: the timer fires while the agent is still at work on the commit.
func TestWhatFollowsARevertIsRevertedToo(t *testing.T) {
	r := newRig(t)
	r.hold(func(ctx context.Context) error { return r.engine.reverter.Revert(ctx, "c1") }, provider.Widening)
	result := r.apply(r.task("c1", widen), confirmed)
	if got := outcomeOf(t, result, v1.Phase_PHASE_WIDENING); got != v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED {
		t.Errorf("outcome %v", got)
	}
	if got := r.content(); got != "old old" {
		t.Errorf("content %q", got)
	}
}

// TestRevertThatFailedIsTriedAgain: until it has worked, the host is neither old nor new.
func TestRevertThatFailedIsTriedAgain(t *testing.T) {
	r := newRig(t)
	full := false
	r.fault = func(op string) error {
		if full && op == "write /etc/way" {
			return errs.New(errs.Exhausted, "the disk is full")
		}
		return nil
	}
	refused := confirmFunc(func(*v1.ConfirmRequest) (*v1.ConfirmResponse, error) {
		full = true
		return &v1.ConfirmResponse{Decision: v1.ConfirmDecision_CONFIRM_DECISION_REFUSED}, nil
	})
	r.apply(r.task("c1", widen), refused)
	if err := r.engine.Mend(t.Context()); err == nil || r.engine.State().GetArmedCommit() != "c1" {
		t.Fatalf("mended: %v, armed %q", err, r.engine.State().GetArmedCommit())
	}
	full = false
	if err := r.engine.Mend(t.Context()); err != nil || r.engine.State().GetArmedCommit() != "" {
		t.Errorf("not mended: %v", err)
	}
	if got := r.content(); got != "old old" {
		t.Errorf("content %q", got)
	}
}
