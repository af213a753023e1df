package rollouttest

import (
	"context"
	"sync"

	"github.com/infractl/infractl/server/store"
)

// Brittle is a store that dies at one of its writes, before or after it is made, until it is mended. What was written stays.
type Brittle struct {
	store.Store
	late bool

	mu         sync.Mutex
	left       int // writes until it dies; negative: never
	dead, used bool
}

// NewBrittle returns a store over s that dies at the write of this number, counted from 0; with late, when it is made.
func NewBrittle(s store.Store, at int, late bool) *Brittle {
	return &Brittle{Store: s, left: at, late: late}
}

// Write implements store.Records.
func (b *Brittle) Write(ctx context.Context, ops ...store.Op) ([]store.Record, error) {
	b.mu.Lock()
	dies := !b.dead && b.left == 0
	b.left--
	b.dead, b.used = b.dead || dies, b.used || dies
	dead := b.dead
	b.mu.Unlock()
	if dead && (!dies || !b.late) {
		return nil, store.Closed()
	}
	recs, err := b.Store.Write(ctx, ops...)
	if dies {
		return nil, store.Closed()
	}
	return recs, err
}

// Get implements store.Records.
func (b *Brittle) Get(ctx context.Context, kind store.Kind, name string) (store.Record, error) {
	if b.Died() {
		return store.Record{}, store.Closed()
	}
	return b.Store.Get(ctx, kind, name)
}

// List implements store.Records.
func (b *Brittle) List(ctx context.Context, kind store.Kind, opts store.ListOptions) ([]store.Record, error) {
	if b.Died() {
		return nil, store.Closed()
	}
	return b.Store.List(ctx, kind, opts)
}

// Died reports whether it is dead now.
func (b *Brittle) Died() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dead
}

// Used reports whether it ever died.
func (b *Brittle) Used() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// Mend brings it back; it does not die again.
func (b *Brittle) Mend() { b.MendFor(-1) }

// MendFor brings it back for this many writes.
func (b *Brittle) MendFor(writes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead, b.left = false, writes
}
