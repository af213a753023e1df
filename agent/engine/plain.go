package engine

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// plain makes a phase that is no commit and reports whether it went well. A failing step is rolled back by itself, and what
// went well before it stays.
func (a *apply) plain(ctx context.Context, phase v1.Phase, stage provider.Stage) bool {
	started := a.clock.Now()
	steps, err := a.inTurn(ctx, phase, stage)
	switch {
	case err != nil:
		a.fail(ctx, phase, v1.PhaseOutcome_PHASE_OUTCOME_FAILED, steps, started, err)
		return false
	case len(steps) == 0:
		a.add(phase, v1.PhaseOutcome_PHASE_OUTCOME_IN_SYNC, nil, started, nil)
	default:
		a.add(phase, v1.PhaseOutcome_PHASE_OUTCOME_APPLIED, steps, started, nil)
	}
	return true
}

// inTurn makes the steps of suppliers, and then those of all others; it returns those that were begun. The others are looked at
// once more when a supplier had something to do: what they saw, and failed at, was the host without it.
func (a *apply) inTurn(ctx context.Context, phase v1.Phase, stage provider.Stage) ([]provider.Step, error) {
	others := func(p provider.Bound) bool { return !supplies(p) }
	seen := a.looks(ctx, a.spec, stage, nil, func(provider.Bound) bool { return true })
	first, err := stepsOf(seen, supplies)
	if err != nil {
		return nil, err
	}
	if len(first) > 0 {
		if err := a.plainSteps(ctx, phase, first); err != nil {
			return first, err
		}
		seen = a.looks(ctx, a.spec, stage, nil, others)
	}
	rest, err := stepsOf(seen, others)
	if err != nil {
		return first, err
	}
	return slices.Concat(first, rest), a.plainSteps(ctx, phase, rest)
}

// plainSteps makes steps all at once, since none of them touches what another does.
func (a *apply) plainSteps(ctx context.Context, phase v1.Phase, steps []provider.Step) error {
	var g errgroup.Group
	for _, s := range steps {
		a.progress(phase, s.Name())
		g.Go(func() error { return errs.Wrap(s.Name(), a.plainStep(ctx, s)) })
	}
	return g.Wait()
}

func (a *apply) plainStep(ctx context.Context, s provider.Step) error {
	snapshot, err := s.Snapshot(ctx)
	if err != nil {
		return err
	}
	err = s.Apply(ctx)
	if err == nil {
		err = s.Verify(ctx)
	}
	if err == nil || errs.Is(err, errs.RolledBack) { // what failed is back by itself already, and what went well stays
		return err
	}
	if p, ok := a.reverter.providers[s.Name()]; ok {
		if back := p.Rollback(context.WithoutCancel(ctx), snapshot); back != nil {
			a.log.Error("rollback failed", "provider", s.Name(), "error", back)
			return errs.Join(err, errs.Wrap("roll back", back))
		}
	}
	return err
}
