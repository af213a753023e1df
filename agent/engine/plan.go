package engine

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/hostspec"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// look is what a provider sees at a stage.
type look struct {
	provider provider.Bound
	step     provider.Step
	err      error
}

// looks asks the providers of a stage that are wanted, all at once, and returns their answers in the providers' order.
func (e *Engine) looks(ctx context.Context, spec *v1.HostSpec, stage provider.Stage, laggards []string, wanted func(provider.Bound) bool) []look {
	seen := make([]look, 0, len(e.providers))
	for _, p := range e.providers {
		if p.At(stage) && wanted(p) {
			seen = append(seen, look{provider: p})
		}
	}
	var g errgroup.Group
	for i := range seen {
		g.Go(func() error {
			l := &seen[i]
			l.step, l.err = l.provider.Plan(ctx, spec, stage, laggards)
			l.err = errs.Wrap("plan "+l.provider.Name(), l.err)
			return nil
		})
	}
	_ = g.Wait() // each error stands with its look
	return seen
}

// stepsOf returns the steps of wanted providers that have changes; the error is the first one among them.
func stepsOf(seen []look, wanted func(provider.Bound) bool) ([]provider.Step, error) {
	var steps []provider.Step
	for _, l := range seen {
		switch {
		case !wanted(l.provider):
		case l.err != nil:
			return nil, l.err
		case l.step != nil && len(l.step.Changes()) > 0:
			steps = append(steps, l.step)
		}
	}
	return steps, nil
}

func supplies(p provider.Bound) bool {
	s, ok := p.(provider.Supplier)
	return ok && s.Supplies()
}

// plan asks the providers of a stage, at once, and returns the steps that have changes, in the providers' order.
func (e *Engine) plan(ctx context.Context, spec *v1.HostSpec, stage provider.Stage, laggards []string) ([]provider.Step, error) {
	all := func(provider.Bound) bool { return true }
	return stepsOf(e.looks(ctx, spec, stage, laggards, all), all)
}

// Plan says what an apply of both passes would do, from a fresh look at the host.
func (e *Engine) Plan(ctx context.Context, task *v1.PlanTask) (*v1.PlanResult, error) {
	spec, err := hostspec.Decode(task.GetSpec(), task.GetSpecDigest())
	if err != nil {
		return nil, err
	}
	if err := e.take(ctx); err != nil {
		return nil, err
	}
	defer e.release()
	changes, err := e.difference(ctx, spec)
	if err != nil {
		return nil, err
	}
	if task.GetSpecDigest() == e.State().GetNarrowedDigest() {
		e.setDrift(changes)
	}
	return &v1.PlanResult{Changes: changes}, nil
}

// difference is what stands between the host and the end of both passes. A provider that narrows is asked for that stage
// alone: its last wish is the whole one.
func (e *Engine) difference(ctx context.Context, spec *v1.HostSpec) ([]*v1.Change, error) {
	all := make([][]*v1.Change, len(e.providers))
	failed := make([]error, len(e.providers))
	var g errgroup.Group
	for i, p := range e.providers {
		g.Go(func() error {
			all[i], failed[i] = whole(ctx, p, spec)
			return nil
		})
	}
	_ = g.Wait() // each error stands with its provider
	supplied := false
	for i, p := range e.providers {
		supplied = supplied || supplies(p) && slices.ContainsFunc(all[i], creates)
	}
	var changes []*v1.Change
	for i, p := range e.providers {
		if failed[i] != nil {
			if !supplied || supplies(p) || !errs.Is(failed[i], errs.Precondition) {
				return nil, failed[i]
			}
			all[i] = later(p, failed[i])
		}
		changes = append(changes, all[i]...)
	}
	return told(append(changes, e.followed(spec)...)), nil
}

// whole is what one provider would change in both passes.
func whole(ctx context.Context, p provider.Bound, spec *v1.HostSpec) ([]*v1.Change, error) {
	stages := []provider.Stage{provider.Additions, provider.Widening, provider.Services}
	if p.At(provider.Narrowing) {
		stages = []provider.Stage{provider.Narrowing}
	}
	var changes []*v1.Change
	for _, stage := range stages {
		if !p.At(stage) {
			continue
		}
		s, err := p.Plan(ctx, spec, stage, nil)
		if err != nil {
			return nil, errs.Wrap("plan "+p.Name(), err)
		}
		if s != nil {
			changes = append(changes, s.Changes()...)
		}
	}
	return changes, nil
}

// later stands for the changes of a provider that cannot say them before what it needs is installed. What is not known is not
// called harmless.
func later(p provider.Bound, err error) []*v1.Change {
	risk := v1.Risk_RISK_RESTART
	if p.At(provider.Widening) || p.At(provider.Narrowing) {
		risk = v1.Risk_RISK_LOCKOUT
	}
	return []*v1.Change{{Provider: p.Name(), Subject: p.Name(), Action: v1.ChangeAction_CHANGE_ACTION_UPDATE,
		After: []string{"known when the packages are installed; now: " + err.Error()}, Risk: risk}}
}

func creates(c *v1.Change) bool { return c.GetAction() == v1.ChangeAction_CHANGE_ACTION_CREATE }

// LookForDrift compares the host with the spec that it last narrowed to, and stores what differs. Drift is reported, never
// mended by itself: the next apply does that.
func (e *Engine) LookForDrift(ctx context.Context) error {
	content, err := e.host.ReadFile(e.specFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errs.Wrap("look for drift", err)
	}
	digest := hostspec.Digest(content)
	if digest != e.State().GetNarrowedDigest() {
		return nil
	}
	_, err = e.Plan(ctx, &v1.PlanTask{Spec: content, SpecDigest: digest})
	return err
}

// widened lists old lines and ports that still stand.
func (e *Engine) widened(ctx context.Context) []string {
	var lines []string
	for _, p := range e.providers {
		if w, ok := p.(provider.Widener); ok {
			lines = append(lines, w.Widened(ctx)...)
		}
	}
	return firstLines(lines, maxWidened)
}
