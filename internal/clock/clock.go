// Package clock injects time into server, agent and certificates, so that skew and expiry are tested by moving a
// process's clock and never the machine's.
package clock

import (
	"sync"
	"time"
)

// Clock tells the time. Only the wall clock is injected; timeouts of I/O use the runtime's.
type Clock interface {
	Now() time.Time
}

// System is the machine's clock plus a fixed offset. The zero value is the machine's clock.
type System struct {
	// Offset is added to the machine's time; trials of skew and expiry set it.
	Offset time.Duration
}

// Now implements Clock.
func (s System) Now() time.Time { return time.Now().Add(s.Offset) }

// Adjustable is a clock that can be corrected while it runs: an agent learns the server's time and follows it.
type Adjustable struct {
	base Clock
	mu   sync.RWMutex
	off  time.Duration
}

// NewAdjustable returns a clock that follows base until SetOffset is called.
func NewAdjustable(base Clock) *Adjustable { return &Adjustable{base: base} }

// Now implements Clock.
func (a *Adjustable) Now() time.Time {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.base.Now().Add(a.off)
}

// SetOffset sets how far the right time is ahead of base.
func (a *Adjustable) SetOffset(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.off = d
}

// Offset returns how far the right time is ahead of base.
func (a *Adjustable) Offset() time.Duration {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.off
}

// Fake is a clock that tests move by hand.
type Fake struct {
	mu  sync.Mutex
	now time.Time
}

// NewFake returns a clock that stands at now.
func NewFake(now time.Time) *Fake { return &Fake{now: now} }

// Now implements Clock.
func (f *Fake) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// Advance moves the clock by d.
func (f *Fake) Advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}
