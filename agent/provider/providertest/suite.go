// Package providertest is the conformance suite that every provider passes.
//
// A provider's test says how a fresh machine is made, which wishes follow each other on it and what on it belongs to others.
// Run then applies, repeats, breaks and takes back each of them, with a fault at every command and every write.
package providertest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
)

// Env is one fresh machine with a provider on it.
type Env[S any] struct {
	// Provider works on the machine through a host.Host that was given the Faults of New.
	Provider provider.Provider[S]
	// Root is the folder that stands for the machine's file system: all files below it are compared. Required.
	Root string
	// State returns, as text, what of the machine is not a file below Root: kernel state, recorded accounts. nil when that
	// is nothing. It must not go through the provider's host, or it would be counted as a call.
	State func() (string, error)
	// Foreign returns, as text, what belongs to others and must never change. nil when State and Root say it all.
	Foreign func() (string, error)
	// Restart returns a new provider on the same machine, as after a crash of the agent. nil: Provider keeps no memory and
	// is used again.
	Restart func() provider.Provider[S]
}

// Step is one wish of a sequence.
type Step[S any] struct {
	// Name is the outcome, for the subtest's name.
	Name string
	// Wish is what is applied.
	Wish provider.Wish[S]
	// NoChange says that the steps before have made it true already.
	NoChange bool
}

// Drift is a change that somebody made by hand after a step was applied.
type Drift[S any] struct {
	// Name says what was changed.
	Name string
	// After is how many steps were applied before; 0 means all of them.
	After int
	// Do makes the change, not through the provider's host.
	Do func(t *testing.T, env Env[S])
}

// Refusal is a machine or a wish that Plan must refuse.
type Refusal[S any] struct {
	// Name says why.
	Name string
	// Prepare brings a fresh machine into the state; may be nil.
	Prepare func(t *testing.T, env Env[S])
	// Wish is planned then.
	Wish provider.Wish[S]
	// Code is the code that the error must have.
	Code errs.Code
}

// Suite says how a provider is tried.
type Suite[S any] struct {
	// New makes a fresh machine. Its host must be made with faults.Runner(runner) and faults.Op as host.Config.Fault.
	New func(t *testing.T, faults *Faults) Env[S]
	// Steps are applied one after the other, each with its Keep; each is tried on a machine where those before are kept.
	Steps []Step[S]
	// Secrets are marker values that the wishes hold; they may stand in no change, argv or error.
	Secrets []string
	// Drifts must show in the next plan and be mended by the next apply.
	Drifts []Drift[S]
	// Refusals are what Plan must refuse, with a hint.
	Refusals []Refusal[S]
	// Ignore are patterns (path.Match, relative to Root) of files that are compared neither by Rollback nor by repetition.
	Ignore []string
	// MaxFaults bounds the calls at which a fault is injected, per case; 0 means 40, and 4 at most with -short, which tries each
	// case of faults at one step alone. Where there are more, they are spread.
	MaxFaults int
	// Promptly is how long a call may take to return once its context is cancelled; 0 means 3 s.
	Promptly time.Duration
}

// shortFaults is how many faults of a case a quick run injects.
const shortFaults = 4

// Run runs the suite.
func Run[S any](t *testing.T, s Suite[S]) {
	t.Helper()
	if s.New == nil || len(s.Steps) == 0 {
		t.Fatal("providertest: a suite needs New and Steps")
	}
	if testing.Short() && (s.MaxFaults == 0 || s.MaxFaults > shortFaults) {
		s.MaxFaults = shortFaults
	}
	for i, step := range s.Steps {
		t.Run(step.Name, func(t *testing.T) {
			for n, c := range cases[S]() {
				if step.NoChange && !c.always || testing.Short() && c.faults && i != s.quick(n) {
					continue
				}
				t.Run(c.name, func(t *testing.T) {
					if err := c.run(t, s, i); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
	for _, d := range s.Drifts {
		t.Run("drift is seen and mended/"+d.Name, func(t *testing.T) {
			if err := driftIsMended(t, s, d); err != nil {
				t.Error(err)
			}
		})
	}
	for _, r := range s.Refusals {
		t.Run("is refused/"+r.Name, func(t *testing.T) {
			if err := isRefused(t, s, r); err != nil {
				t.Error(err)
			}
		})
	}
}

// quick is the one step at which a quick run tries a case of faults: all kinds are tried, and most steps have some.
func (s Suite[S]) quick(testCase int) int {
	var steps []int
	for i, step := range s.Steps {
		if !step.NoChange {
			steps = append(steps, i)
		}
	}
	if len(steps) == 0 {
		return 0
	}
	return steps[testCase%len(steps)]
}

// testCase is one case; it returns an error instead of failing t, so that the suite's own test can see that it finds faults.
type testCase[S any] struct {
	name   string
	always bool // also for a step that changes nothing
	faults bool // it injects faults, each on a machine of its own: a quick run tries it at one step alone
	run    func(t *testing.T, s Suite[S], step int) error
}

func cases[S any]() []testCase[S] {
	return []testCase[S]{
		{"planning writes nothing", true, false, planWritesNothing[S]},
		{"apply then plan is empty", true, false, applyThenPlanIsEmpty[S]},
		{"apply twice equals once", true, false, applyTwiceEqualsOnce[S]},
		{"keep twice equals once", true, false, keepTwiceEqualsOnce[S]},
		{"rollback gives the same bytes, also twice", true, false, rollbackGivesSameBytes[S]},
		{"rollback after rollback and apply", false, false, rollbackThenApplyAgain[S]},
		{"failure at each call then rollback", false, true, failureThenRollback[S]},
		{"crash at each call then rollback", false, true, crashThenRollback[S]},
		{"crash at each call then apply", false, true, crashThenApply[S]},
		{"crash in rollback then rollback", false, true, crashInRollback[S]},
		{"crash in keep then keep", true, true, crashInKeep[S]},
		{"no secret is printed", true, false, noSecretIsPrinted[S]},
		{"cancelled context returns promptly", true, true, cancelReturnsPromptly[S]},
		{"unknown snapshot is refused", true, false, unknownSnapshotIsRefused[S]},
	}
}

// machine is an Env at work: what the cases do with it.
type machine[S any] struct {
	Env[S]
	suite  Suite[S]
	faults *Faults
	ctx    context.Context
	// foreign is what Foreign said at the start.
	foreign string
}

// fresh makes a machine on which the first n steps are kept.
func fresh[S any](t *testing.T, s Suite[S], n int) (*machine[S], error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	m := &machine[S]{suite: s, faults: &Faults{}, ctx: ctx}
	m.Env = s.New(t, m.faults)
	var err error
	if m.foreign, err = text(m.Foreign); err != nil {
		return nil, fmt.Errorf("read foreign state: %w", err)
	}
	for _, step := range s.Steps[:n] {
		if err := m.applyAndKeep(step.Wish); err != nil {
			return nil, fmt.Errorf("step %q before: %w", step.Name, err)
		}
	}
	m.faults.Reset()
	return m, nil
}

func (m *machine[S]) restart() {
	m.faults.Reset()
	if m.Restart != nil {
		m.Provider = m.Restart()
	}
}

// begin plans and takes the snapshot.
func (m *machine[S]) begin(wish provider.Wish[S]) (provider.Plan[S], []byte, error) {
	plan, err := m.Provider.Plan(m.ctx, wish)
	if err != nil {
		return plan, nil, fmt.Errorf("plan: %w", err)
	}
	snapshot, err := m.Provider.Snapshot(m.ctx, plan)
	if err != nil {
		return plan, nil, fmt.Errorf("snapshot: %w", err)
	}
	return plan, snapshot, nil
}

func (m *machine[S]) apply(wish provider.Wish[S]) error {
	plan, _, err := m.begin(wish)
	if err != nil {
		return err
	}
	if err := m.Provider.Apply(m.ctx, plan); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if err := m.Provider.Verify(m.ctx, wish); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	return nil
}

func (m *machine[S]) applyAndKeep(wish provider.Wish[S]) error {
	if err := m.apply(wish); err != nil {
		return err
	}
	if err := m.Provider.Keep(m.ctx, wish); err != nil {
		return fmt.Errorf("keep: %w", err)
	}
	return nil
}
