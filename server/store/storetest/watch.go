package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// patience is how long an event may take on a busy machine.
const patience = 20 * time.Second

func next(t *testing.T, events <-chan store.Event) store.Event {
	t.Helper()
	select {
	case e, ok := <-events:
		if !ok {
			t.Fatal("the watch has ended")
		}
		return e
	case <-time.After(patience):
		t.Fatal("no event came")
	}
	return store.Event{}
}

func testWatch(t *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	f.put(t, "a", "before", "", store.Absent)
	events, err := f.Watch(ctx, "a", "b", store.AuditKind)
	if err != nil {
		t.Fatal(err)
	}
	one := f.put(t, "a", "x", "", store.Absent)
	if diff := cmp.Diff(store.Event{Kind: "a", Name: "x", Revision: one.Revision}, next(t, events)); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	f.put(t, "c", "of no interest", "", store.Absent)
	_, err = f.Write(ctx, store.Put{Kind: "b", Name: "refused", Expect: 4711})
	wantCode(t, "refused write", err, errs.Conflict)
	recs := must[[]store.Record](t)(f.Write(ctx, store.Delete{Kind: "a", Name: "x", Expect: store.Any}))
	if diff := cmp.Diff(store.Event{Kind: "a", Name: "x", Revision: recs[0].Revision}, next(t, events)); diff != "" {
		t.Errorf("event of a delete (-want +got):\n%s", diff)
	}
	seq := must[int64](t)(f.AppendAudit(ctx, store.AuditEntry{Action: "test"}))
	if diff := cmp.Diff(store.Event{Kind: store.AuditKind, Revision: store.Revision(seq)}, next(t, events)); diff != "" {
		t.Errorf("event of an audit entry (-want +got):\n%s", diff)
	}
}

// testWatchCoalesces writes far more than a watcher that does not read can hold.
func testWatchCoalesces(t *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events := must[<-chan store.Event](t)(f.Watch(ctx, "few", "many"))
	var last store.Revision
	for i := range 50 {
		last = f.put(t, "few", "same", fmt.Sprint(i), store.Any).Revision
	}
	var lastMany store.Revision
	for batch := range 5 {
		var ops []store.Op
		for i := range 500 {
			ops = append(ops, store.Put{Kind: "many", Name: fmt.Sprintf("%d-%d", batch, i), Expect: store.Absent})
		}
		lastMany = must[[]store.Record](t)(f.Write(ctx, ops...))[0].Revision
	}
	var few, many int
	var gotFew, gotMany store.Revision
	for gotFew < last || gotMany < lastMany {
		switch e := next(t, events); e.Kind {
		case "few":
			few, gotFew = few+1, e.Revision
		case "many":
			many, gotMany = many+1, e.Revision
		}
	}
	if few > 3 { // one that was on its way, one that waited
		t.Errorf("50 changes of one record came as %d events", few)
	}
	if many >= 2500 {
		t.Errorf("2500 records that changed came as %d events", many)
	}
}

func testWatchEnds(t *testing.T, f *fixture) {
	_, err := f.Watch(context.Background())
	wantCode(t, "watch of nothing", err, errs.Invalid)
	ctx, cancel := context.WithCancel(context.Background())
	byContext := must[<-chan store.Event](t)(f.Watch(ctx, "a"))
	byClose := must[<-chan store.Event](t)(f.Watch(context.Background(), "a"))
	cancel()
	ends(t, "after its context", byContext)
	f.put(t, "a", "x", "", store.Absent)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	ends(t, "after close", byClose)
	_, err = f.Watch(context.Background(), "a")
	wantCode(t, "watch of a closed store", err, errs.Unavailable)
}

func ends(t *testing.T, when string, events <-chan store.Event) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, ok := <-events:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatalf("the watch did not end %s", when)
		}
	}
}
