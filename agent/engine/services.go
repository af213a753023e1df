package engine

import (
	"context"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// stage fetches what is slow before any window opens. A failure keeps a provider from its part of the services, and nothing
// else: it must never stand between a host and its firewall.
func (a *apply) stage(ctx context.Context) map[string]error {
	failed := map[string]error{}
	for _, p := range a.providers {
		s, ok := p.(provider.BoundStager)
		if !ok {
			continue
		}
		a.progress(v1.Phase_PHASE_ADDITIONS, "fetching for "+p.Name())
		if err := s.Stage(ctx, a.spec); err != nil {
			a.log.Warn("cannot fetch what a provider needs", "provider", p.Name(), "error", err)
			failed[p.Name()] = err
		}
	}
	return failed
}

// services makes phase 3 and reports whether all went well. A provider that fails, or could not be staged, takes none of the
// others with it.
func (a *apply) services(ctx context.Context, unstaged map[string]error) bool {
	const phase = v1.Phase_PHASE_SERVICES
	started := a.clock.Now()
	var steps []provider.Step
	var failed []error
	for _, p := range a.providers {
		if !p.At(provider.Services) {
			continue
		}
		if err := unstaged[p.Name()]; err != nil {
			failed = append(failed, errs.Wrap(p.Name(), err))
			continue
		}
		s, err := p.Plan(ctx, a.spec, provider.Services, nil)
		if err != nil {
			failed = append(failed, errs.Wrap("plan "+p.Name(), err))
			continue
		}
		if s == nil || len(s.Changes()) == 0 {
			continue
		}
		steps = append(steps, s)
		a.progress(phase, s.Name())
		if err := a.plainStep(ctx, s); err != nil {
			failed = append(failed, errs.Wrap(s.Name(), err))
		}
	}
	switch {
	case len(failed) == 1:
		a.fail(ctx, phase, v1.PhaseOutcome_PHASE_OUTCOME_DEGRADED, steps, started, failed[0])
	case len(failed) > 0:
		a.fail(ctx, phase, v1.PhaseOutcome_PHASE_OUTCOME_DEGRADED, steps, started, errs.Join(failed...))
	case len(steps) == 0:
		a.add(phase, v1.PhaseOutcome_PHASE_OUTCOME_IN_SYNC, nil, started, nil)
	default:
		a.add(phase, v1.PhaseOutcome_PHASE_OUTCOME_APPLIED, steps, started, nil)
	}
	return len(failed) == 0
}
