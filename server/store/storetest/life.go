package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

func testReopen(t *testing.T, f *fixture) {
	ctx := context.Background()
	f.put(t, "k", "a", "1", store.Absent)
	last := f.put(t, "k", "b", "2", store.Absent)
	seq := must[int64](t)(f.AppendAudit(ctx, store.AuditEntry{Action: "act"}))
	lease := must[store.Lease](t)(f.Acquire(ctx, "leader", "a", time.Minute))
	before := must[[]store.Record](t)(f.List(ctx, "k", store.ListOptions{}))
	head := must[store.AuditHead](t)(f.VerifyAudit(ctx))

	f.reopen(t)
	if diff := cmp.Diff(before, must[[]store.Record](t)(f.List(ctx, "k", store.ListOptions{}))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(head, must[store.AuditHead](t)(f.VerifyAudit(ctx))); diff != "" {
		t.Errorf("audit (-want +got):\n%s", diff)
	}
	if next := f.put(t, "k", "c", "3", store.Absent); next.Revision != last.Revision+1 {
		t.Errorf("next revision = %d, want %d", next.Revision, last.Revision+1)
	}
	if next := must[int64](t)(f.AppendAudit(ctx, store.AuditEntry{})); next != seq+1 {
		t.Errorf("next audit number = %d, want %d", next, seq+1)
	}
	if _, err := f.Renew(ctx, lease, time.Minute); err != nil {
		t.Errorf("renew after reopening: %v", err)
	}
}

func testClosed(t *testing.T, f *fixture) {
	ctx := context.Background()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	_, err := f.Get(ctx, "k", "a")
	wantCode(t, "get", err, errs.Unavailable)
	_, err = f.List(ctx, "k", store.ListOptions{})
	wantCode(t, "list", err, errs.Unavailable)
	_, err = f.Write(ctx, store.Put{Kind: "k", Name: "a"})
	wantCode(t, "write", err, errs.Unavailable)
	_, err = f.AppendAudit(ctx, store.AuditEntry{})
	wantCode(t, "append audit", err, errs.Unavailable)
	_, err = f.Acquire(ctx, "l", "a", time.Second)
	wantCode(t, "acquire", err, errs.Unavailable)
}

func testContext(t *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := f.Get(ctx, "k", "a")
	wantCode(t, "get", err, errs.Canceled)
	_, err = f.Write(ctx, store.Put{Kind: "k", Name: "a"})
	wantCode(t, "write", err, errs.Canceled)
	if names := f.names(t, "k", store.ListOptions{}); len(names) != 0 {
		t.Errorf("a write whose context had ended happened: %v", names)
	}
	late, cancel := context.WithTimeout(context.Background(), -time.Second)
	defer cancel()
	_, err = f.List(late, "k", store.ListOptions{})
	wantCode(t, "list", err, errs.Timeout)
}

func testTable(t *testing.T, f *fixture) {
	type thing struct{ N int }
	ctx := context.Background()
	table := store.NewTable(f, "thing", store.JSON[thing]())
	rev := must[store.Revision](t)(table.Put(ctx, "a", thing{1}, store.Absent))
	_, err := table.Put(ctx, "a", thing{2}, store.Absent)
	wantCode(t, "put again", err, errs.Exists)

	calls := 0
	it := must[store.Item[thing]](t)(table.Update(ctx, "a", func(v *thing) error {
		if calls++; calls == 1 { // somebody else is faster
			must[store.Revision](t)(table.Put(ctx, "a", thing{10}, rev))
		}
		v.N++
		return nil
	}))
	if it.Value.N != 11 || calls != 2 {
		t.Errorf("update gave %d after %d calls, want 11 after 2", it.Value.N, calls)
	}
	if got := must[store.Item[thing]](t)(table.Get(ctx, "a")); got != it {
		t.Errorf("get = %+v, want %+v", got, it)
	}
	stop := errs.New(errs.Denied, "no")
	_, err = table.Update(ctx, "a", func(*thing) error { return stop })
	wantCode(t, "update that is refused", err, errs.Denied)
	_, err = table.Update(ctx, "b", func(*thing) error { return nil })
	wantCode(t, "update of nothing", err, errs.NotFound)

	f.put(t, "thing", "newer", `{"N":1,"M":2}`, store.Absent)
	_, err = table.List(ctx, store.ListOptions{})
	wantCode(t, "unknown field", err, errs.Internal)
	if err := table.Delete(ctx, "newer", store.Any); err != nil {
		t.Fatal(err)
	}
	if list := must[[]store.Item[thing]](t)(table.List(ctx, store.ListOptions{})); len(list) != 1 || list[0] != it {
		t.Errorf("list = %+v", list)
	}
}
