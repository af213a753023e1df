package engine

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// stagedProvider is a provider of services that has something to fetch.
type stagedProvider struct {
	fileProvider
	stageErr, applyErr error
	staged, rolledBack int
}

func (p *stagedProvider) Stage(context.Context, *v1.SystemSpec) error {
	p.staged++
	return p.stageErr
}

func (p *stagedProvider) Apply(ctx context.Context, plan provider.Plan[*v1.SystemSpec]) error {
	if p.applyErr != nil {
		return p.applyErr
	}
	return p.fileProvider.Apply(ctx, plan)
}

func (p *stagedProvider) Rollback(ctx context.Context, snapshot []byte) error {
	p.rolledBack++
	return p.fileProvider.Rollback(ctx, snapshot)
}

// withServices adds two providers of services to a rig.
func withServices(t *testing.T) (r *rig, first, second *stagedProvider) {
	t.Helper()
	r = newRig(t)
	h := host.New(host.Config{Root: r.root})
	section := func(s *v1.HostSpec) (*v1.SystemSpec, bool) { return s.GetSystem(), s.GetSystem() != nil }
	first = &stagedProvider{fileProvider: fileProvider{host: h, path: "/etc/first"}}
	second = &stagedProvider{fileProvider: fileProvider{host: h, path: "/etc/second"}}
	for _, p := range []*stagedProvider{first, second} {
		b := provider.Bind[*v1.SystemSpec](p, section, provider.Services)
		r.engine.providers = append(r.engine.providers, b)
		r.engine.reverter.providers[filepath.Base(p.path)] = b
	}
	return r, first, second
}

func TestWhatCannotBeFetchedDegradesItsOwnProviderAlone(t *testing.T) {
	r, first, second := withServices(t)
	first.stageErr = errs.New(errs.Unavailable, "no archive").WithHint("push it")
	result := r.apply(r.task("c1", v1.Pass_PASS_WIDEN), confirmed)
	if got := outcomeOf(t, result, v1.Phase_PHASE_WIDENING); got != v1.PhaseOutcome_PHASE_OUTCOME_KEPT {
		t.Errorf("widening = %v, want kept", got)
	}
	if got := outcomeOf(t, result, v1.Phase_PHASE_SERVICES); got != v1.PhaseOutcome_PHASE_OUTCOME_DEGRADED {
		t.Errorf("services = %v, want degraded", got)
	}
	if first.applied != 0 || second.applied != 1 || first.staged != 1 {
		t.Errorf("applied %d and %d, staged %d", first.applied, second.applied, first.staged)
	}
	if got := strings.Join(result.GetState().GetDegraded(), " "); !strings.Contains(got, "no archive") {
		t.Errorf("degraded = %q", got)
	}
	first.stageErr = nil
	result = r.apply(r.task("c2", v1.Pass_PASS_WIDEN), confirmed)
	if got := outcomeOf(t, result, v1.Phase_PHASE_SERVICES); got != v1.PhaseOutcome_PHASE_OUTCOME_APPLIED || len(result.GetState().GetDegraded()) > 0 {
		t.Errorf("services = %v, degraded %v", got, result.GetState().GetDegraded())
	}
}

func TestProviderThatIsBackByItselfIsNotRolledBackAgain(t *testing.T) {
	for code, want := range map[errs.Code]int{errs.RolledBack: 0, errs.Internal: 1} {
		r, first, _ := withServices(t)
		first.applyErr = errs.New(code, "not healthy")
		r.apply(r.task("c1", v1.Pass_PASS_WIDEN), confirmed)
		if first.rolledBack != want {
			t.Errorf("%s: rolled back %d times, want %d", code, first.rolledBack, want)
		}
	}
}
