package engine

import (
	"context"
	"errors"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/hostspec"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Recover finishes what an agent that died left behind: kept commits become durable, armed ones are reverted at once (there
// is nobody left to confirm them). The agent calls it before it connects.
func (e *Engine) Recover(ctx context.Context) error {
	if err := e.take(ctx); err != nil {
		return err
	}
	defer e.release()
	var failed []error
	ids, err := e.records.in(kept)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := e.finish(ctx, id); err != nil {
			failed = append(failed, errs.Wrap("finish commit "+id, err))
		}
	}
	if err := e.reverter.RevertAll(ctx); err != nil {
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// Mend finishes what is left of a commit that is over: a revert that failed, a kept commit that is not durable. It waits for an
// apply that is at work, and costs nothing when nothing is left.
func (e *Engine) Mend(ctx context.Context) error {
	ids, err := e.records.in(armed, reverting, kept)
	if err != nil || len(ids) == 0 {
		return err
	}
	return e.Recover(ctx)
}

// Alone calls f while no apply and no plan is at work, and none can begin.
func (e *Engine) Alone(ctx context.Context, f func()) error {
	if err := e.take(ctx); err != nil {
		return err
	}
	defer e.release()
	f()
	return nil
}

// Outcome tells what became of a pass whose agent died, from the commit's record. ok is false when the pass had not armed
// its commit: nothing was changed that could lock anybody out, and the pass may be made again.
func (e *Engine) Outcome(_ context.Context, commitID string, pass v1.Pass) (result *v1.ApplyResult, ok bool) {
	state, err := e.records.state(commitID)
	if err != nil {
		return nil, false
	}
	phase := v1.Phase_PHASE_WIDENING
	if pass == v1.Pass_PASS_NARROW {
		phase = v1.Phase_PHASE_NARROWING
	}
	r := &v1.PhaseResult{Phase: phase}
	switch state {
	case kept, done:
		r.Outcome = v1.PhaseOutcome_PHASE_OUTCOME_KEPT
		e.rememberKept(commitID, state, phase)
	default:
		r.Outcome = v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED
		message := "the agent or its host stopped during the commit; the former state is back"
		if state != reverted {
			message = "the agent or its host stopped during the commit, and the former state could not be brought back yet"
		}
		r.Error = &v1.TaskError{Code: string(errs.RolledBack), Message: message}
	}
	return &v1.ApplyResult{Phases: []*v1.PhaseResult{r}, State: e.State()}, true
}

// rememberKept writes into the state what an agent that died between keeping and reporting could not.
func (e *Engine) rememberKept(id string, state recordState, phase v1.Phase) {
	rec, err := e.records.load(id, state)
	if err != nil {
		e.log.Error("could not read the record of a kept commit", "commit", id, "error", err)
		return
	}
	e.update(func(s *v1.HostState) {
		switch {
		case phase == v1.Phase_PHASE_WIDENING:
			s.WidenedDigest = rec.SpecDigest
		case len(rec.Laggards) == 0:
			s.NarrowedDigest = rec.SpecDigest
		}
	})
}

func decodeStored(rec record) (*v1.HostSpec, error) {
	spec, err := hostspec.Decode(rec.Spec, rec.SpecDigest)
	return spec, errs.Wrap("read commit record "+rec.ID, err)
}
