package storetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

func testAudit(t *testing.T, f *fixture) {
	ctx := context.Background()
	if head := must[store.AuditHead](t)(f.VerifyAudit(ctx)); head != (store.AuditHead{}) {
		t.Errorf("head of an empty log = %+v", head)
	}
	start := f.clock.Now()
	var want []store.AuditEntry
	for i := range 6 {
		e := store.AuditEntry{Actor: fmt.Sprintf("operator/%d", i%2), Role: "admin", Source: "10.0.20.2:4711",
			Action: fmt.Sprintf("/infractl.v1.X/%d", i%3), Target: "site", Node: fmt.Sprintf("web%d", i%2),
			Request: "sha256:ab", Result: "ok", Message: "fine, é"}
		e.Seq = must[int64](t)(f.AppendAudit(ctx, e))
		e.Time = store.Stamp(start.Add(time.Duration(i) * time.Hour))
		want = append(want, e)
		f.clock.Advance(time.Hour)
	}
	links := cmpopts.IgnoreFields(store.AuditEntry{}, "Prev", "Hash")
	cases := map[string]struct {
		filter store.AuditFilter
		want   []int
	}{
		"all":     {store.AuditFilter{}, []int{0, 1, 2, 3, 4, 5}},
		"after":   {store.AuditFilter{After: 4}, []int{4, 5}},
		"limit":   {store.AuditFilter{After: 1, Limit: 2}, []int{1, 2}},
		"reverse": {store.AuditFilter{Reverse: true, Limit: 2}, []int{5, 4}},
		"actor":   {store.AuditFilter{Actor: "operator/1"}, []int{1, 3, 5}},
		"action":  {store.AuditFilter{Action: "/infractl.v1.X/2"}, []int{2, 5}},
		"node":    {store.AuditFilter{Node: "web0", Actor: "operator/0", After: 1}, []int{2, 4}},
		"time":    {store.AuditFilter{Since: start.Add(time.Hour), Until: start.Add(3 * time.Hour)}, []int{1, 2}},
		"none":    {store.AuditFilter{Actor: "operator"}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := must[[]store.AuditEntry](t)(f.ListAudit(ctx, c.filter))
			var pick []store.AuditEntry
			for _, i := range c.want {
				pick = append(pick, want[i])
			}
			if diff := cmp.Diff(pick, got, links); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
	head := must[store.AuditHead](t)(f.VerifyAudit(ctx))
	if head.First != 1 || head.Last != 6 || len(head.Hash) != 64 {
		t.Errorf("head = %+v", head)
	}
}

func testAuditCut(t *testing.T, f *fixture) {
	ctx := context.Background()
	must[int64](t)(f.AppendAudit(ctx, store.AuditEntry{
		Message: strings.Repeat("é", store.MaxAuditField), Request: "a\x00b\xff", Time: time.Unix(5, 123456789)}))
	got := must[[]store.AuditEntry](t)(f.ListAudit(ctx, store.AuditFilter{}))[0]
	if len(got.Message) > store.MaxAuditField || !strings.HasSuffix(got.Message, "é...") {
		t.Errorf("long text has %d bytes and ends in %q", len(got.Message), got.Message[len(got.Message)-8:])
	}
	if got.Request != "a?b?" || !got.Time.Equal(time.Unix(5, 123456000)) {
		t.Errorf("text = %q, time = %s", got.Request, got.Time)
	}
	must[store.AuditHead](t)(f.VerifyAudit(ctx))
}

func testAuditTamper(t *testing.T, f *fixture) {
	ctx := context.Background()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := f.AppendAudit(ctx, store.AuditEntry{Action: "act", Message: fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if head := must[store.AuditHead](t)(f.VerifyAudit(ctx)); head.Last != 20 {
		t.Fatalf("head = %+v, want 20 entries", head)
	}
	original := must[[]store.AuditEntry](t)(f.ListAudit(ctx, store.AuditFilter{After: 6, Limit: 1}))[0].Message
	broken := func(what, where string) {
		t.Helper()
		_, err := f.VerifyAudit(ctx)
		wantCode(t, what, err, errs.Precondition)
		if err != nil && !strings.Contains(err.Error(), where) {
			t.Errorf("%s: %v does not name %s", what, err, where)
		}
	}
	f.harness.Tamper(t, 7, "nothing happened")
	broken("changed entry", "audit entry 7:")
	f.harness.Tamper(t, 7, original)
	must[store.AuditHead](t)(f.VerifyAudit(ctx))
	f.harness.Tamper(t, 20, "")
	broken("removed end", "audit entry 20:")
	f.harness.Tamper(t, 3, "")
	broken("removed entry", "audit entry 3:")
	f.harness.Tamper(t, 1, "")
	broken("removed beginning", "audit entry 1:")
}

func testAuditPrune(t *testing.T, f *fixture) {
	ctx := context.Background()
	start := f.clock.Now()
	const old = store.PruneBatch + 50
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range old / 50 {
				if _, err := f.AppendAudit(ctx, store.AuditEntry{Action: "old"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	f.clock.Advance(time.Hour)
	must[int64](t)(f.AppendAudit(ctx, store.AuditEntry{Action: "young"}))
	// An entry that is older by its clock, but stands behind a young one, stays: the chain is cut at its end only.
	must[int64](t)(f.AppendAudit(ctx, store.AuditEntry{Action: "odd", Time: start}))

	if n := must[int](t)(f.PruneAudit(ctx, start)); n != 0 {
		t.Errorf("pruned %d entries that are young enough", n)
	}
	if n := must[int](t)(f.PruneAudit(ctx, start.Add(time.Minute))); n != old {
		t.Errorf("pruned %d entries, want %d", n, old)
	}
	head := must[store.AuditHead](t)(f.VerifyAudit(ctx))
	if head.First != old+1 || head.Last != old+2 {
		t.Errorf("head = %+v, want %d to %d", head, old+1, old+2)
	}
	if n := must[int](t)(f.PruneAudit(ctx, start.Add(24*time.Hour))); n != 2 {
		t.Errorf("pruned %d entries, want all 2", n)
	}
	if head = must[store.AuditHead](t)(f.VerifyAudit(ctx)); head.First != old+3 || head.Last != old+2 {
		t.Errorf("head of an emptied log = %+v", head)
	}
	f.reopen(t)
	if seq := must[int64](t)(f.AppendAudit(ctx, store.AuditEntry{})); seq != old+3 {
		t.Errorf("next number = %d, want %d", seq, old+3)
	}
	must[store.AuditHead](t)(f.VerifyAudit(ctx))
	f.harness.Tamper(t, old+3, "x")
	_, err := f.VerifyAudit(ctx)
	wantCode(t, "changed entry after pruning", err, errs.Precondition)
}
