package engine

import (
	"context"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// additionProvider is a file provider that counts its plans, may fail, and may need a file of another's.
type additionProvider struct {
	fileProvider
	first    bool
	needs    string
	code     errs.Code // of what it says when what it needs is missing
	applyErr error
	planned  atomic.Int32
}

func (p *additionProvider) Supplies() bool { return p.first }

func (p *additionProvider) Plan(ctx context.Context, w provider.Wish[*v1.SystemSpec]) (provider.Plan[*v1.SystemSpec], error) {
	p.planned.Add(1)
	if have, _ := p.host.ReadFile(p.needs); p.needs != "" && string(have) != w.Spec.GetHostname() {
		return provider.Plan[*v1.SystemSpec]{}, errs.New(p.code, "what it needs is not installed")
	}
	plan, err := p.fileProvider.Plan(ctx, w)
	for _, c := range plan.Changes {
		c.Action = v1.ChangeAction_CHANGE_ACTION_CREATE
	}
	return plan, err
}

func (p *additionProvider) Apply(ctx context.Context, plan provider.Plan[*v1.SystemSpec]) error {
	if p.applyErr != nil {
		return p.applyErr
	}
	return p.fileProvider.Apply(ctx, plan)
}

// withSupplier adds a provider that needs what another brings, and the other after it.
func withSupplier(t *testing.T) (r *rig, needy, supplier *additionProvider) {
	t.Helper()
	r = newRig(t)
	h := host.New(host.Config{Root: r.root})
	needy = &additionProvider{fileProvider: fileProvider{host: h, path: "/etc/needy"}, needs: "/etc/supplier", code: errs.Precondition}
	supplier = &additionProvider{fileProvider: fileProvider{host: h, path: "/etc/supplier"}, first: true}
	section := func(s *v1.HostSpec) (*v1.SystemSpec, bool) { return s.GetSystem(), s.GetSystem() != nil }
	for _, p := range []*additionProvider{needy, supplier} {
		b := provider.Bind[*v1.SystemSpec](p, section, provider.Additions)
		r.engine.providers = append(r.engine.providers, b)
		r.engine.reverter.providers[filepath.Base(p.path)] = b
	}
	return r, needy, supplier
}

func (r *rig) additions(id string) *v1.PhaseResult {
	r.t.Helper()
	return r.apply(r.task(id, widen), confirmed).GetPhases()[0]
}

func TestWhatIsNeededComesFirstInTheSameApply(t *testing.T) {
	r, needy, supplier := withSupplier(t)
	got := r.additions("c1")
	if got.GetOutcome() != v1.PhaseOutcome_PHASE_OUTCOME_APPLIED || needy.applied != 1 || supplier.applied != 1 {
		t.Fatalf("%v, applied %d and %d, want both once", got, supplier.applied, needy.applied)
	}
	if n := len(got.GetChanges()); n != 2 {
		t.Errorf("%d changes told, want 2: %v", n, got.GetChanges())
	}
}

func TestInSyncCostsOneLookEach(t *testing.T) {
	r, needy, supplier := withSupplier(t)
	r.additions("c1")
	needy.planned.Store(0)
	supplier.planned.Store(0)
	if got := r.additions("c2"); got.GetOutcome() != v1.PhaseOutcome_PHASE_OUTCOME_IN_SYNC {
		t.Fatalf("%v, want in sync", got)
	}
	if needy.planned.Load() != 1 || supplier.planned.Load() != 1 {
		t.Errorf("planned %d and %d times, want once each", supplier.planned.Load(), needy.planned.Load())
	}
}

func TestWhenTheSupplierFailsItsErrorIsTheReason(t *testing.T) {
	r, needy, supplier := withSupplier(t)
	supplier.applyErr = errs.New(errs.Unavailable, "no mirror answers")
	got := r.additions("c1")
	if got.GetOutcome() != v1.PhaseOutcome_PHASE_OUTCOME_FAILED || got.GetError().GetCode() != string(errs.Unavailable) || needy.applied != 0 {
		t.Errorf("%v, the other applied %d times; want Unavailable and nothing after it", got, needy.applied)
	}
}

func TestWhatIsNotSuppliedStillFails(t *testing.T) {
	r, needy, supplier := withSupplier(t)
	needy.needs = "/etc/nobody-brings-this"
	got := r.additions("c1")
	if got.GetOutcome() != v1.PhaseOutcome_PHASE_OUTCOME_FAILED || got.GetError().GetCode() != string(errs.Precondition) {
		t.Errorf("%v, want Precondition", got)
	}
	if supplier.applied != 1 || len(got.GetChanges()) != 1 {
		t.Errorf("supplier applied %d times, told %v; want it done and told", supplier.applied, got.GetChanges())
	}
}

func TestPlanForgivesOnlyWhatPackagesMayCure(t *testing.T) {
	for name, c := range map[string]struct {
		code     errs.Code
		supplied bool // what the supplier brings is there already
		fails    bool
	}{
		"packages are missing":                     {code: errs.Precondition},
		"the wish is wrong":                        {code: errs.Invalid, fails: true},
		"all packages are there and it is missing": {code: errs.Precondition, supplied: true, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			r, needy, _ := withSupplier(t)
			needy.code = c.code
			if c.supplied {
				r.additions("c1")
				needy.needs = "/etc/nobody-brings-this"
			}
			task := r.task("c1", widen)
			got, err := r.engine.Plan(context.Background(), &v1.PlanTask{Spec: task.GetSpec(), SpecDigest: task.GetSpecDigest()})
			if c.fails {
				if !errs.Is(err, c.code) {
					t.Fatalf("got %v, %v; want %s", got, err, c.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, ch := range got.GetChanges() {
				if ch.GetProvider() == "needy" {
					if ch.GetRisk() != v1.Risk_RISK_RESTART || !strings.Contains(ch.GetAfter()[0], "not installed") {
						t.Errorf("told %v", ch)
					}
					return
				}
			}
			t.Errorf("nothing is said of what cannot be planned yet: %v", got.GetChanges())
		})
	}
}
