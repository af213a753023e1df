package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

func testRoundTrip(t *testing.T, f *fixture) {
	ctx := context.Background()
	made := f.clock.Now()
	first := f.put(t, "node", "web1", "one", store.Absent)
	f.clock.Advance(time.Hour)
	second := f.put(t, "node", "web1", "two", first.Revision)
	got, err := f.Get(ctx, "node", "web1")
	if err != nil {
		t.Fatal(err)
	}
	want := store.Record{Kind: "node", Name: "web1", Revision: second.Revision, Created: store.Stamp(made),
		Updated: store.Stamp(made.Add(time.Hour)), Data: []byte("two")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, second); diff != "" {
		t.Errorf("written record (-want +got):\n%s", diff)
	}
	if second.Revision <= first.Revision {
		t.Errorf("revision %d does not follow %d", second.Revision, first.Revision)
	}
	if _, err := f.Write(ctx, store.Delete{Kind: "node", Name: "web1", Expect: second.Revision}); err != nil {
		t.Fatal(err)
	}
	_, err = f.Get(ctx, "node", "web1")
	wantCode(t, "get after delete", err, errs.NotFound)
	again := f.put(t, "node", "web1", "", store.Absent)
	if again.Revision != second.Revision+2 { // the delete counts as a write
		t.Errorf("revision after put, put, delete, put = %d, want %d", again.Revision, second.Revision+2)
	}
	if !again.Created.Equal(f.clock.Now()) {
		t.Errorf("a record that was deleted keeps its time of creation %s", again.Created)
	}
}

func testExpectations(t *testing.T, f *fixture) {
	there := f.put(t, "k", "there", "x", store.Absent).Revision
	cases := map[string]struct {
		op   store.Op
		want errs.Code
	}{
		"put absent over nothing":          {store.Put{Kind: "k", Name: "new", Expect: store.Absent}, ""},
		"put absent over something":        {store.Put{Kind: "k", Name: "there", Expect: store.Absent}, errs.Exists},
		"put at wrong revision":            {store.Put{Kind: "k", Name: "there", Expect: there + 100}, errs.Conflict},
		"put at revision of nothing":       {store.Put{Kind: "k", Name: "gone", Expect: there}, errs.Conflict},
		"put anyway":                       {store.Put{Kind: "k", Name: "any", Expect: store.Any}, ""},
		"delete at wrong revision":         {store.Delete{Kind: "k", Name: "there", Expect: there + 100}, errs.Conflict},
		"delete nothing at a revision":     {store.Delete{Kind: "k", Name: "gone", Expect: there}, errs.Conflict},
		"delete nothing anyway":            {store.Delete{Kind: "k", Name: "gone", Expect: store.Any}, ""},
		"check revision":                   {store.Check{Kind: "k", Name: "there", Expect: there}, ""},
		"check wrong revision":             {store.Check{Kind: "k", Name: "there", Expect: there + 100}, errs.Conflict},
		"check absence of nothing":         {store.Check{Kind: "k", Name: "gone", Expect: store.Absent}, ""},
		"check absence of something":       {store.Check{Kind: "k", Name: "there", Expect: store.Absent}, errs.Conflict},
		"check existence":                  {store.Check{Kind: "k", Name: "there", Expect: store.Any}, ""},
		"check existence of nothing":       {store.Check{Kind: "k", Name: "gone", Expect: store.Any}, errs.Conflict},
		"same name of another kind is new": {store.Put{Kind: "other", Name: "there", Expect: store.Absent}, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := f.Write(context.Background(), c.op)
			wantCode(t, name, err, c.want)
		})
	}
	if rec := must[store.Record](t)(f.Get(context.Background(), "k", "there")); rec.Revision != there {
		t.Errorf("refused writes changed the record to revision %d", rec.Revision)
	}
}

func testAtomic(t *testing.T, f *fixture) {
	ctx := context.Background()
	a := f.put(t, "k", "a", "1", store.Absent)
	_, err := f.Write(ctx,
		store.Put{Kind: "k", Name: "b", Data: []byte("1"), Expect: store.Absent},
		store.Delete{Kind: "k", Name: "a", Expect: a.Revision},
		store.Check{Kind: "k", Name: "c", Expect: store.Any},
	)
	wantCode(t, "write with a failing check", err, errs.Conflict)
	if diff := cmp.Diff([]string{"a"}, f.names(t, "k", store.ListOptions{})); diff != "" {
		t.Errorf("after a refused write (-want +got):\n%s", diff)
	}
	recs, err := f.Write(ctx,
		store.Put{Kind: "k", Name: "b", Data: []byte("2"), Expect: store.Absent},
		store.Delete{Kind: "k", Name: "a", Expect: a.Revision},
		store.Put{Kind: "l", Name: "b", Data: []byte("3"), Expect: store.Absent},
		store.Delete{Kind: "k", Name: "never", Expect: store.Any},
	)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []store.Revision{a.Revision + 1, a.Revision + 1, a.Revision + 1, store.Absent} {
		if recs[i].Revision != want {
			t.Errorf("operation %d got revision %d, want %d", i, recs[i].Revision, want)
		}
	}
	next := f.put(t, "k", "d", "", store.Absent)
	if next.Revision != a.Revision+2 {
		t.Errorf("next revision = %d, want %d: refused writes and no-ops take none", next.Revision, a.Revision+2)
	}
}

func testInvalid(t *testing.T, f *fixture) {
	ctx := context.Background()
	long := strings.Repeat("n", store.MaxName)
	cases := map[string][]store.Op{
		"nothing":               {},
		"no kind":               {store.Put{Name: "a"}},
		"kind of the store":     {store.Put{Kind: store.AuditKind, Name: "a"}},
		"kind with a slash":     {store.Put{Kind: "a/b", Name: "a"}},
		"no name":               {store.Put{Kind: "k"}},
		"long name":             {store.Put{Kind: "k", Name: long + "n"}},
		"zero byte":             {store.Put{Kind: "k", Name: "a\x00b"}},
		"not UTF-8":             {store.Put{Kind: "k", Name: "a\xff"}},
		"large data":            {store.Put{Kind: "k", Name: "a", Data: make([]byte, store.MaxData+1)}},
		"twice":                 {store.Put{Kind: "k", Name: "a"}, store.Delete{Kind: "k", Name: "a", Expect: store.Any}},
		"delete what is absent": {store.Delete{Kind: "k", Name: "a", Expect: store.Absent}},
		"odd revision":          {store.Put{Kind: "k", Name: "a", Expect: -2}},
		"no operation":          {nil},
		"too many":              slices.Repeat([]store.Op{store.Check{Kind: "k", Name: "a"}}, store.MaxOps+1),
	}
	for name, ops := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := f.Write(ctx, ops...)
			wantCode(t, "write", err, errs.Invalid)
		})
	}
	_, err := f.Get(ctx, "k", "")
	wantCode(t, "get without a name", err, errs.Invalid)
	_, err = f.List(ctx, "K", store.ListOptions{})
	wantCode(t, "list of a bad kind", err, errs.Invalid)
	f.put(t, "k", long, "longest name", store.Absent)
	f.put(t, "k", "large", strings.Repeat("x", store.MaxData), store.Absent)
	if got := must[store.Record](t)(f.Get(ctx, "k", "large")); len(got.Data) != store.MaxData {
		t.Errorf("largest record came back with %d bytes", len(got.Data))
	}
}

func testList(t *testing.T, f *fixture) {
	for _, name := range []string{"b", "a", "a/2", "a/10", "a%", "a_x", "B", "é", "a/\U0010ffff", "z"} {
		f.put(t, "k", name, "data of "+name, store.Absent)
	}
	f.put(t, "l", "other kind", "", store.Absent)
	cases := map[string]struct {
		opts store.ListOptions
		want []string
	}{
		"all, by bytes":      {store.ListOptions{}, []string{"B", "a", "a%", "a/10", "a/2", "a/\U0010ffff", "a_x", "b", "z", "é"}},
		"prefix":             {store.ListOptions{Prefix: "a/"}, []string{"a/10", "a/2", "a/\U0010ffff"}},
		"prefix is no glob":  {store.ListOptions{Prefix: "a%"}, []string{"a%"}},
		"prefix of nothing":  {store.ListOptions{Prefix: "nothing"}, []string{}},
		"limit":              {store.ListOptions{Limit: 2}, []string{"B", "a"}},
		"after":              {store.ListOptions{After: "a/2", Limit: 2}, []string{"a/\U0010ffff", "a_x"}},
		"after what is gone": {store.ListOptions{After: "a/3", Limit: 1}, []string{"a/\U0010ffff"}},
		"reverse":            {store.ListOptions{Reverse: true, Limit: 2}, []string{"é", "z"}},
		"reverse after":      {store.ListOptions{Reverse: true, Prefix: "a/", After: "a/2"}, []string{"a/10"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, f.names(t, "k", c.opts)); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
		})
	}
	full := must[[]store.Record](t)(f.List(context.Background(), "k", store.ListOptions{Prefix: "z"}))
	if string(full[0].Data) != "data of z" || full[0].Revision == 0 || full[0].Created.IsZero() {
		t.Errorf("listed record is %+v", full[0])
	}
	bare := must[[]store.Record](t)(f.List(context.Background(), "k", store.ListOptions{Prefix: "z", NamesOnly: true}))
	full[0].Data = nil
	if diff := cmp.Diff(full, bare); diff != "" {
		t.Errorf("names only (-want +got):\n%s", diff)
	}
}

// testModel runs random writes against the store and a map.
func testModel(t *testing.T, f *fixture) {
	ctx := context.Background()
	names := rapid.SampledFrom([]string{"a", "ab", "b", "c/1", "c/2", "é"})
	model := map[string]store.Record{}
	rapid.Check(t, func(rt *rapid.T) {
		name := names.Draw(rt, "name")
		have := model[name].Revision
		expect := rapid.SampledFrom([]store.Revision{store.Absent, store.Any, have, have + 1}).Draw(rt, "expect")
		data := rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(rt, "data")
		var op store.Op = store.Put{Kind: "m", Name: name, Data: data, Expect: expect}
		if rapid.Bool().Draw(rt, "delete") && expect != store.Absent {
			op = store.Delete{Kind: "m", Name: name, Expect: expect}
		}
		recs, err := f.Write(ctx, op)
		if want := store.Meets(op, have); errs.CodeOf(err) != errs.CodeOf(want) {
			rt.Fatalf("write %+v over %d: %v, want %v", op, have, err, want)
		}
		if err == nil {
			if put, ok := op.(store.Put); ok {
				rec := recs[0]
				rec.Data = append([]byte{}, put.Data...)
				model[name] = rec
			} else {
				delete(model, name)
			}
		}
		opts := store.ListOptions{Prefix: rapid.SampledFrom([]string{"", "a", "c/"}).Draw(rt, "prefix")}
		got, err := f.List(ctx, "m", opts)
		if err != nil {
			rt.Fatal(err)
		}
		var want []store.Record
		for n, rec := range model {
			if strings.HasPrefix(n, opts.Prefix) {
				want = append(want, rec)
			}
		}
		slices.SortFunc(want, func(a, b store.Record) int { return strings.Compare(a.Name, b.Name) })
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("list (-want +got):\n%s", diff)
		}
	})
}

// testRace lets many writers increase one counter by compare-and-set; each success must be seen by all the others.
func testRace(t *testing.T, f *fixture) {
	const writers, each = 16, 10
	ctx := context.Background()
	f.put(t, "k", "counter", "0", store.Absent)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[store.Revision]bool{}
	for range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				rec, err := f.Get(ctx, "k", "counter")
				if err != nil {
					t.Error(err)
					return
				}
				var n int
				if _, err := fmt.Sscan(string(rec.Data), &n); err != nil {
					t.Error(err)
					return
				}
				recs, err := f.Write(ctx, store.Put{Kind: "k", Name: "counter", Data: fmt.Append(nil, n+1), Expect: rec.Revision})
				if errs.Is(err, errs.Conflict) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[recs[0].Revision] {
					t.Errorf("revision %d was given twice", recs[0].Revision)
				}
				seen[recs[0].Revision] = true
				mu.Unlock()
				done++
			}
		})
	}
	wg.Wait()
	if got := string(must[store.Record](t)(f.Get(ctx, "k", "counter")).Data); got != fmt.Sprint(writers*each) {
		t.Errorf("counter = %s, want %d", got, writers*each)
	}
}

// testIsolation writes pairs of equal records while others list them: no list may see half a write.
func testIsolation(t *testing.T, f *fixture) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				recs, err := f.List(context.Background(), "pair", store.ListOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				if len(recs) == 2 && string(recs[0].Data) != string(recs[1].Data) || len(recs) == 1 {
					t.Errorf("a list saw half a write: %v", recs)
					return
				}
			}
		})
	}
	for i := range 100 {
		data := fmt.Append(nil, i)
		if _, err := f.Write(context.Background(),
			store.Put{Kind: "pair", Name: "a", Data: data, Expect: store.Any},
			store.Put{Kind: "pair", Name: "b", Data: data, Expect: store.Any}); err != nil {
			t.Error(err)
			break
		}
	}
	cancel()
	wg.Wait()
}

func testAliasing(t *testing.T, f *fixture) {
	ctx := context.Background()
	data := []byte("mine")
	if _, err := f.Write(ctx, store.Put{Kind: "k", Name: "a", Data: data}); err != nil {
		t.Fatal(err)
	}
	copy(data, "yours")
	got := must[store.Record](t)(f.Get(ctx, "k", "a"))
	if string(got.Data) != "mine" {
		t.Errorf("data = %q, want %q", got.Data, "mine")
	}
	copy(got.Data, "theirs")
	if again := must[store.Record](t)(f.Get(ctx, "k", "a")); string(again.Data) != "mine" {
		t.Errorf("data after its reader wrote to it = %q, want %q", again.Data, "mine")
	}
}
