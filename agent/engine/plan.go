package engine

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sync/errgroup"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/hostspec"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// plan asks the providers of a stage, at once, and returns the steps that have changes, in the providers' order.
func (e *Engine) plan(ctx context.Context, spec *v1.HostSpec, stage provider.Stage, laggards []string) ([]provider.Step, error) {
	all := make([]provider.Step, len(e.providers))
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range e.providers {
		if !p.At(stage) {
			continue
		}
		g.Go(func() error {
			s, err := p.Plan(ctx, spec, stage, laggards)
			if err != nil {
				return errs.Wrap("plan "+p.Name(), err)
			}
			all[i] = s
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	steps := make([]provider.Step, 0, len(all))
	for _, s := range all {
		if s != nil && len(s.Changes()) > 0 {
			steps = append(steps, s)
		}
	}
	return steps, nil
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
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range e.providers {
		stages := []provider.Stage{provider.Additions, provider.Widening, provider.Services}
		if p.At(provider.Narrowing) {
			stages = []provider.Stage{provider.Narrowing}
		}
		g.Go(func() error {
			for _, stage := range stages {
				if !p.At(stage) {
					continue
				}
				s, err := p.Plan(ctx, spec, stage, nil)
				if err != nil {
					return errs.Wrap("plan "+p.Name(), err)
				}
				if s != nil {
					all[i] = append(all[i], s.Changes()...)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var changes []*v1.Change
	for _, c := range all {
		changes = append(changes, c...)
	}
	return told(append(changes, e.followed(spec)...)), nil
}

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
