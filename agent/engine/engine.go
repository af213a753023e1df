// Package engine applies a host spec: plan, snapshot, arm revert, apply, verify, confirm or revert.
//
// The phases and the three outcomes of a commit are those of docs/architecture.md. Nothing that could lock people or the
// server out is done outside a commit, and every commit reverts by itself unless the server confirms it over a new
// connection.
package engine

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/hostspec"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// DefaultWindow is the time after which an unconfirmed commit reverts.
const DefaultWindow = 30 * time.Second

// Limits of the window that a task may ask for.
const (
	minWindow = 3 * time.Second
	maxWindow = 10 * time.Minute
)

// Confirmer asks the server whether a commit may be kept. Each call must open a new connection: an established one proves
// nothing after a firewall change.
type Confirmer interface {
	Confirm(ctx context.Context, req *v1.ConfirmRequest) (*v1.ConfirmResponse, error)
}

// Progress is told which phase is at work, for people.
type Progress func(phase v1.Phase, message string)

// Config makes an Engine.
type Config struct {
	Host *host.Host
	// Dir is the agent's state folder on the host, /var/lib/infractl.
	Dir string
	// Providers are in the order of an apply.
	Providers []provider.Bound
	Clock     clock.Clock
	Log       hclog.Logger
	// Armer arms the revert outside the agent.
	Armer Armer
}

// Engine applies specs on one host, one at a time.
type Engine struct {
	host      *host.Host
	dir       string
	providers []provider.Bound
	clock     clock.Clock
	log       hclog.Logger
	armer     Armer
	records   records
	reverter  *Reverter

	// turn holds one token: applies and plans take turns, so that no plan sees a half-applied host.
	turn chan struct{}

	stateMu sync.Mutex
	state   *v1.HostState
	// background counts disarms that go on after a result.
	background sync.WaitGroup
}

// New returns an engine with the state that is on disk.
func New(cfg Config) (*Engine, error) {
	e := &Engine{
		host: cfg.Host, dir: cfg.Dir, providers: cfg.Providers, clock: cfg.Clock, log: cfg.Log, armer: cfg.Armer,
		records: records{host: cfg.Host, dir: commitsDir(cfg.Dir)}, turn: make(chan struct{}, 1), state: &v1.HostState{},
	}
	e.reverter = NewReverter(cfg.Host, cfg.Dir, cfg.Providers, cfg.Log)
	return e, e.loadState()
}

// Close waits for what goes on in the background.
func (e *Engine) Close() { e.background.Wait() }

func (e *Engine) take(ctx context.Context) error {
	select {
	case e.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *Engine) release() { <-e.turn }

// apply is one pass at work.
type apply struct {
	*Engine
	taskID    string
	task      *v1.ApplyTask
	spec      *v1.HostSpec
	confirmer Confirmer
	progress  Progress
	result    *v1.ApplyResult
	// cut says that the agent stops in the middle of a phase: that is no failure of the content.
	cut bool
}

// Apply makes one pass of an apply. Its error says that the task could not be begun (a spec that does not decode), or that ctx
// ended outside of a commit and the pass has to be made again; what went wrong in a phase is in the result.
func (e *Engine) Apply(ctx context.Context, task *v1.ApplyTask, taskID string, c Confirmer, progress func(v1.Phase, string)) (*v1.ApplyResult, error) {
	spec, err := hostspec.Decode(task.GetSpec(), task.GetSpecDigest())
	if err != nil {
		return nil, err
	}
	if err := e.take(ctx); err != nil {
		return nil, err
	}
	defer e.release()
	if progress == nil {
		progress = func(v1.Phase, string) {}
	}
	a := &apply{Engine: e, taskID: taskID, task: task, spec: spec, confirmer: c, progress: progress, result: &v1.ApplyResult{}}
	if err := a.run(ctx); err != nil {
		return nil, err
	}
	if a.cut {
		return nil, errs.Wrap("apply", ctx.Err())
	}
	a.result.State = e.State()
	return a.result, nil
}

func (a *apply) run(ctx context.Context) error {
	ids, err := a.records.in(unfinished[:]...)
	if err != nil {
		return err
	}
	phase := v1.Phase_PHASE_WIDENING
	if a.task.GetPass() == v1.Pass_PASS_NARROW {
		phase = v1.Phase_PHASE_NARROWING
	}
	if len(ids) > 0 {
		a.add(phase, v1.PhaseOutcome_PHASE_OUTCOME_WAITING, nil, time.Time{},
			errs.New(errs.Precondition, "commit %s is not finished on this host", ids[0]))
		return nil
	}
	a.storeWish()
	switch a.task.GetPass() {
	case v1.Pass_PASS_WIDEN:
		a.widen(ctx)
	case v1.Pass_PASS_NARROW:
		if a.commit(ctx, phase, provider.Narrowing) && len(a.task.GetLaggards()) == 0 {
			a.update(func(s *v1.HostState) { s.NarrowedDigest, s.Drift = a.task.GetSpecDigest(), nil })
		}
	default:
		return errs.New(errs.Invalid, "this version does not know pass %v", a.task.GetPass())
	}
	a.update(func(s *v1.HostState) { s.Widened = a.widened(ctx) })
	return nil
}

func (a *apply) storeWish() {
	if _, err := a.host.WriteFile(a.specFile(), a.task.GetSpec(), 0o600); err != nil {
		a.log.Error("could not store the spec", "error", err)
	}
	a.update(func(s *v1.HostState) {
		s.SpecDigest = a.task.GetSpecDigest()
		s.SiteRevision, s.ResourceRevision = a.task.GetSiteRevision(), a.task.GetResourceRevision()
	})
}

// widen makes phases 1 to 3.
func (a *apply) widen(ctx context.Context) {
	if !a.plain(ctx, v1.Phase_PHASE_ADDITIONS, provider.Additions) {
		return
	}
	unstaged := a.stage(ctx)
	if !a.commit(ctx, v1.Phase_PHASE_WIDENING, provider.Widening) {
		return
	}
	a.update(func(s *v1.HostState) { s.WidenedDigest = a.task.GetSpecDigest() })
	// A failure here is reported; it never undoes a confirmed commit.
	ok := a.services(ctx, unstaged)
	if a.cut {
		return
	}
	a.update(func(s *v1.HostState) {
		s.Degraded = nil
		if !ok {
			s.Degraded = firstLines([]string{a.result.Phases[len(a.result.Phases)-1].GetError().GetMessage()}, 1)
		}
	})
}

// fail adds what went wrong with ctx.
func (a *apply) fail(ctx context.Context, phase v1.Phase, outcome v1.PhaseOutcome, steps []provider.Step, started time.Time, err error) {
	a.cut = a.cut || ctx.Err() != nil
	a.add(phase, outcome, steps, started, err)
}

func (a *apply) add(phase v1.Phase, outcome v1.PhaseOutcome, steps []provider.Step, started time.Time, err error) {
	r := &v1.PhaseResult{Phase: phase, Outcome: outcome}
	for _, s := range steps {
		r.Changes = append(r.Changes, s.Changes()...)
	}
	r.Changes = told(r.Changes)
	if !started.IsZero() {
		r.Duration = durationpb.New(a.clock.Now().Sub(started))
	}
	if err != nil {
		r.Error = &v1.TaskError{Code: string(errs.CodeOf(err)), Message: strings.ToValidUTF8(err.Error(), "?"), Hint: errs.HintOf(err)}
		a.log.Warn("phase ended", "phase", phase, "outcome", outcome, "error", err)
	}
	a.result.Phases = append(a.result.Phases, r)
}
