// Package provider says what a capability of the agent is: one folder, one interface, one conformance suite (providertest).
package provider

import (
	"context"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Stage is the point of an apply at which a provider is asked for its part of the wish.
type Stage int

// The stages, in the order of an apply.
const (
	// Additions adds what can close no way in or out.
	Additions Stage = iota + 1
	// Widening opens the new ways beside the old ones. Part of a commit.
	Widening
	// Services changes what is neither a way in nor a way out.
	Services
	// Narrowing closes the old ways. Part of a commit.
	Narrowing
)

// Wish is what one provider must make true at one stage.
type Wish[S any] struct {
	// Spec is the provider's section of the host spec.
	Spec S
	// Stage says how far to go.
	Stage Stage
	// Laggards are nodes that have not kept the widening of this revision: what is open towards them stays open. Only used
	// when Stage is Narrowing.
	Laggards []string
}

// Plan is the difference between what is and what is wished. Without changes the host is in sync.
type Plan[S any] struct {
	// Wish is what the plan is for.
	Wish Wish[S]
	// Changes are for people and for the audit; no secret stands in them.
	Changes []*v1.Change
}

// Provider is one capability. The whole wish is given every time, never a delta.
type Provider[S any] interface {
	// Name is the capability's name: one lower-case word.
	Name() string
	// Plan compares host and wish. It reads only.
	Plan(ctx context.Context, wish Wish[S]) (Plan[S], error)
	// Snapshot returns all that Rollback needs; it is on disk before Apply is called.
	Snapshot(ctx context.Context, plan Plan[S]) ([]byte, error)
	// Apply makes the wish true. It is idempotent: it may run again after a crash.
	Apply(ctx context.Context, plan Plan[S]) error
	// Verify looks at behaviour (listens, answers, resolves), not at file contents.
	Verify(ctx context.Context, wish Wish[S]) error
	// Keep makes what was applied survive a reboot, after its commit was kept. It is idempotent. Providers whose Apply is
	// already durable do nothing.
	Keep(ctx context.Context, wish Wish[S]) error
	// Rollback brings back what Snapshot saw. It is idempotent and needs neither server nor network.
	Rollback(ctx context.Context, snapshot []byte) error
}
