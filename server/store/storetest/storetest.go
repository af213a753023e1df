// Package storetest is the conformance suite of store.Store. An implementation's test calls Run and nothing else, so that
// all of them keep the same promises.
package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// Harness is one empty place where a store can live.
type Harness struct {
	// Open opens the store of this place; after a Close it may be called again and finds what was left.
	Open func(t *testing.T, clk clock.Clock) store.Store
	// Tamper runs behind the store's back: it sets the message of the audit entry with this number, or removes the entry
	// when message is "".
	Tamper func(t *testing.T, seq int64, message string)
}

// Run runs the suite; factory returns a new place each time.
func Run(t *testing.T, factory func(t *testing.T) Harness) {
	suites := []struct {
		name string
		run  func(t *testing.T, f *fixture)
	}{
		{"records are read as written", testRoundTrip},
		{"expectations are kept", testExpectations},
		{"a write happens whole or not at all", testAtomic},
		{"bad input is refused", testInvalid},
		{"lists are ordered and bounded", testList},
		{"lists agree with a model", testModel},
		{"of many racing writers one wins each revision", testRace},
		{"a read sees a write whole", testIsolation},
		{"data belongs to the caller", testAliasing},
		{"watchers hear of changes", testWatch},
		{"watchers coalesce and never block", testWatchCoalesces},
		{"watches end", testWatchEnds},
		{"leases exclude and expire", testLease},
		{"of many racing holders one gets the lease", testLeaseRace},
		{"audit entries are kept in order", testAudit},
		{"long audit texts are cut", testAuditCut},
		{"the audit chain shows tampering", testAuditTamper},
		{"pruning keeps the chain", testAuditPrune},
		{"reopening keeps everything", testReopen},
		{"a closed store says so", testClosed},
		{"an ended context stops a call", testContext},
		{"tables are typed", testTable},
	}
	for _, s := range suites {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			h := factory(t)
			f := &fixture{harness: h, clock: clock.NewFake(time.Date(2030, 1, 2, 3, 4, 5, 678000, time.UTC))}
			f.open(t)
			s.run(t, f)
		})
	}
}

// fixture is an open store with a clock that stands still.
type fixture struct {
	store.Store
	harness Harness
	clock   *clock.Fake
}

func (f *fixture) open(t *testing.T) {
	t.Helper()
	f.Store = f.harness.Open(t, f.clock)
	t.Cleanup(func() { f.Close() })
}

func (f *fixture) reopen(t *testing.T) {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	f.open(t)
}

func (f *fixture) put(t *testing.T, kind store.Kind, name, data string, expect store.Revision) store.Record {
	t.Helper()
	recs, err := f.Write(context.Background(), store.Put{Kind: kind, Name: name, Data: []byte(data), Expect: expect})
	if err != nil {
		t.Fatalf("put %s %s: %v", kind, name, err)
	}
	return recs[0]
}

func (f *fixture) names(t *testing.T, kind store.Kind, opts store.ListOptions) []string {
	t.Helper()
	recs, err := f.List(context.Background(), kind, opts)
	if err != nil {
		t.Fatalf("list %s: %v", kind, err)
	}
	names := []string{}
	for _, r := range recs {
		names = append(names, r.Name)
	}
	return names
}

func wantCode(t *testing.T, what string, err error, want errs.Code) {
	t.Helper()
	if got := errs.CodeOf(err); got != want {
		t.Errorf("%s: code = %q (%v), want %q", what, got, err, want)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
