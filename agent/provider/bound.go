package provider

import (
	"context"
	"slices"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Bound is a provider with its section of the host spec, so that the engine can hold providers of all kinds in one list.
type Bound interface {
	// Name is the provider's name.
	Name() string
	// At reports whether the provider takes part in a stage.
	At(stage Stage) bool
	// Plan compares host and spec at a stage. It returns nil when the section is absent: not managed.
	Plan(ctx context.Context, spec *v1.HostSpec, stage Stage, laggards []string) (Step, error)
	// Keep makes what was applied survive a reboot.
	Keep(ctx context.Context, spec *v1.HostSpec, stage Stage, laggards []string) error
	// Rollback brings back what a snapshot saw.
	Rollback(ctx context.Context, snapshot []byte) error
}

// Widener is what a provider implements that can leave old ways open for laggards.
type Widener interface {
	// Widened lists old lines and ports that still stand, for people.
	Widened(ctx context.Context) []string
}

// Supplier is what a provider implements that brings what others need before they can plan: packages. Before the commit its part
// is made first, and the others plan when it is done.
type Supplier interface {
	// Supplies reports whether it does.
	Supplies() bool
}

// Stager is what a provider implements that has slow things to fetch: images, values of secrets. It is called before the
// first commit of an apply and touches nothing that runs. A failure keeps the provider from its own part, and nobody else.
type Stager[S any] interface {
	// Stage fetches what a wish needs.
	Stage(ctx context.Context, spec S) error
}

// BoundStager is a Stager with its section of the host spec.
type BoundStager interface {
	// Stage fetches what the spec needs; nothing when the provider is no Stager or its section is absent.
	Stage(ctx context.Context, spec *v1.HostSpec) error
}

// Step is a plan that is ready to be carried out.
type Step interface {
	// Name is the provider's name.
	Name() string
	// Changes are empty when the host is in sync.
	Changes() []*v1.Change
	// Snapshot returns all that Rollback needs.
	Snapshot(ctx context.Context) ([]byte, error)
	// Apply makes the wish true.
	Apply(ctx context.Context) error
	// Verify looks at behaviour.
	Verify(ctx context.Context) error
}

// Bind gives a provider its section and the stages it takes part in. section returns false when it is absent.
func Bind[S any](p Provider[S], section func(*v1.HostSpec) (S, bool), stages ...Stage) Bound {
	return &bound[S]{provider: p, section: section, stages: stages}
}

type bound[S any] struct {
	provider Provider[S]
	section  func(*v1.HostSpec) (S, bool)
	stages   []Stage
}

func (b *bound[S]) Name() string        { return b.provider.Name() }
func (b *bound[S]) At(stage Stage) bool { return slices.Contains(b.stages, stage) }

func (b *bound[S]) Plan(ctx context.Context, spec *v1.HostSpec, stage Stage, laggards []string) (Step, error) {
	section, ok := b.section(spec)
	if !ok {
		return nil, nil
	}
	plan, err := b.provider.Plan(ctx, Wish[S]{Spec: section, Stage: stage, Laggards: laggards})
	if err != nil {
		return nil, err
	}
	return &step[S]{provider: b.provider, plan: plan}, nil
}

func (b *bound[S]) Keep(ctx context.Context, spec *v1.HostSpec, stage Stage, laggards []string) error {
	section, ok := b.section(spec)
	if !ok {
		return nil
	}
	return b.provider.Keep(ctx, Wish[S]{Spec: section, Stage: stage, Laggards: laggards})
}

// Widened implements Widener for providers that do.
func (b *bound[S]) Widened(ctx context.Context) []string {
	if w, ok := b.provider.(Widener); ok {
		return w.Widened(ctx)
	}
	return nil
}

// Supplies implements Supplier for providers that do.
func (b *bound[S]) Supplies() bool {
	s, ok := b.provider.(Supplier)
	return ok && s.Supplies()
}

// Stage implements BoundStager for providers that are Stagers.
func (b *bound[S]) Stage(ctx context.Context, spec *v1.HostSpec) error {
	stager, ok := b.provider.(Stager[S])
	if !ok {
		return nil
	}
	section, ok := b.section(spec)
	if !ok {
		return nil
	}
	return stager.Stage(ctx, section)
}

func (b *bound[S]) Rollback(ctx context.Context, snapshot []byte) error {
	return b.provider.Rollback(ctx, snapshot)
}

type step[S any] struct {
	provider Provider[S]
	plan     Plan[S]
}

func (s *step[S]) Name() string          { return s.provider.Name() }
func (s *step[S]) Changes() []*v1.Change { return s.plan.Changes }
func (s *step[S]) Snapshot(ctx context.Context) ([]byte, error) {
	return s.provider.Snapshot(ctx, s.plan)
}
func (s *step[S]) Apply(ctx context.Context) error  { return s.provider.Apply(ctx, s.plan) }
func (s *step[S]) Verify(ctx context.Context) error { return s.provider.Verify(ctx, s.plan.Wish) }
