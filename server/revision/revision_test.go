package revision_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/hostspec"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/rollout/rollouttest"
)

func example(t *testing.T) *v1.SiteSource {
	t.Helper()
	site, err := os.ReadFile("../../examples/projetpro/site.yaml")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := os.ReadFile("../../examples/projetpro/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return &v1.SiteSource{File: "site.yaml", Content: site, OverlayFile: "lab.yaml", OverlayContent: overlay}
}

// edited returns the source with a text replaced, which must stand in it.
func edited(t *testing.T, src *v1.SiteSource, from, to string) *v1.SiteSource {
	t.Helper()
	if !strings.Contains(string(src.GetContent()), from) {
		t.Fatalf("the example has no %q", from)
	}
	return &v1.SiteSource{
		File: src.GetFile(), Content: []byte(strings.Replace(string(src.GetContent()), from, to, 1)),
		OverlayFile: src.GetOverlayFile(), OverlayContent: src.GetOverlayContent(),
	}
}

func newRevisions(t *testing.T) (*revision.Revisions, *fleet.Fleet) {
	t.Helper()
	s := rollouttest.NewStore()
	f := fleet.New(s)
	return revision.New(revision.Config{Records: s, Nodes: f, AlwaysRead: true, Clock: clock.NewFake(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))}), f
}

func mustAppend(t *testing.T, r *revision.Revisions, src *v1.SiteSource, base uint64) *v1.Revision {
	t.Helper()
	rev, err := r.Append(context.Background(), revision.AppendRequest{Source: src, Base: base, Operator: "operator/anna"})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func TestAppendCountsAndKeepsFiles(t *testing.T) {
	r, _ := newRevisions(t)
	src := example(t)
	if rev := mustAppend(t, r, src, 0); rev.GetNumber() != 1 || rev.GetNodes() != 6 || rev.GetOperator() != "operator/anna" {
		t.Errorf("revision %v", rev)
	}
	if rev := mustAppend(t, r, src, 1); rev.GetNumber() != 1 {
		t.Errorf("the same files made revision %d", rev.GetNumber())
	}
	second := edited(t, src, "max_auth_tries: 4", "max_auth_tries: 3")
	if rev := mustAppend(t, r, second, 1); rev.GetNumber() != 2 {
		t.Errorf("other files made revision %d", rev.GetNumber())
	}
	rev, files, err := r.Get(context.Background(), 1)
	if err != nil || string(files.GetContent()) != string(src.GetContent()) || rev.GetDigest() != revision.Digest(src) {
		t.Errorf("revision 1 came back as %v, %v", rev, err)
	}
	list, err := r.List(context.Background(), 10)
	if err != nil || len(list) != 2 || list[0].GetNumber() != 2 {
		t.Errorf("list %v, %v, want newest first", list, err)
	}
	if _, _, err := r.Get(context.Background(), 7); !errs.Is(err, errs.NotFound) {
		t.Errorf("revision 7: %v", err)
	}
}

func TestAppendRefuses(t *testing.T) {
	r, _ := newRevisions(t)
	src := example(t)
	mustAppend(t, r, src, 0)
	big := &v1.SiteSource{File: "site.yaml", Content: make([]byte, revision.MaxFile+1)}
	for name, tt := range map[string]struct {
		source *v1.SiteSource
		base   uint64
		want   errs.Code
		text   string
	}{
		"ErrNoSource":      {nil, 1, errs.Invalid, "no site file"},
		"ErrTooLarge":      {big, 1, errs.Invalid, "larger than"},
		"ErrUnknownKey":    {edited(t, src, "timezone: Europe/Paris", "timezon: Europe/Paris"), 1, errs.Invalid, "site.yaml:"},
		"ErrNewerRevision": {edited(t, src, "max_auth_tries: 4", "max_auth_tries: 3"), 0, errs.Conflict, "newer"},
		"ErrServerMoved":   {edited(t, src, "port: 7443", "port: 7445"), 1, errs.Precondition, "server section"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Append(context.Background(), revision.AppendRequest{Source: tt.source, Base: tt.base})
			if !errs.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %s with %q", err, tt.want, tt.text)
			}
		})
	}
	if n, err := r.Current(context.Background()); n != 1 || err != nil {
		t.Errorf("a refused append left revision %d, %v", n, err)
	}
}

func TestOfRacingAppendsOneWins(t *testing.T) {
	r, _ := newRevisions(t)
	src := example(t)
	mustAppend(t, r, src, 0)
	var wg sync.WaitGroup
	results := make([]error, 8)
	for i := range results {
		other := edited(t, src, "max_auth_tries: 4", "max_auth_tries: "+string(rune('5'+i%4)))
		other.Content = append(other.Content, []byte("\n# "+strings.Repeat("x", i))...)
		wg.Go(func() {
			_, results[i] = r.Append(context.Background(), revision.AppendRequest{Source: other, Base: 1})
		})
	}
	wg.Wait()
	won := 0
	for _, err := range results {
		switch {
		case err == nil:
			won++
		case !errs.Is(err, errs.Conflict):
			t.Errorf("loser got %v, want a conflict", err)
		}
	}
	if won != 1 {
		t.Errorf("%d appends won, want one", won)
	}
}

func TestDeriveFollowsWitnessKeys(t *testing.T) {
	ctx := context.Background()
	r, f := newRevisions(t)
	mustAppend(t, r, example(t), 0)
	before, err := r.Derive(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.Derive(ctx, 0)
	if err != nil || again != before {
		t.Errorf("nothing changed, and it was derived anew: %v", err)
	}
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO9QDrqAzMuTQRjqNMTgL/tfdiWp0SM7NcpVt6tSUKIU client-relay"
	if _, err := f.NodeTable.Put(ctx, "client-relay", fleet.Node{Name: "client-relay", WitnessKey: key}, 0); err != nil {
		t.Fatal(err)
	}
	after, err := r.Derive(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if after.Resources <= before.Resources {
		t.Errorf("resource revision %d after %d, want it to grow", after.Resources, before.Resources)
	}
	prod := after.Specs["srv-prod"]
	if prod.Digest == before.Specs["srv-prod"].Digest {
		t.Error("a new witness key changed nothing on srv-prod")
	}
	if _, err := hostspec.Decode(prod.Content, prod.Digest); err != nil {
		t.Errorf("content and digest do not fit: %v", err)
	}
	if _, err := f.UpdateNode(ctx, "client-relay", func(n *fleet.Node) error { n.Revoked = time.Now(); return nil }); err != nil {
		t.Fatal(err)
	}
	revoked, err := r.Derive(ctx, 1)
	if err != nil || revoked.Specs["srv-prod"].Digest != before.Specs["srv-prod"].Digest || revoked.Resources <= after.Resources {
		t.Errorf("a revoked witness still counts: %v", err)
	}
}

func TestWantedListsNodesAndProbes(t *testing.T) {
	ctx := context.Background()
	r, _ := newRevisions(t)
	if _, ok, err := r.Wanted(ctx); ok || err != nil {
		t.Errorf("wanted without a revision: %v, %v", ok, err)
	}
	mustAppend(t, r, example(t), 0)
	list, ok, err := r.Wanted(ctx)
	if !ok || err != nil || len(list) != 8 {
		t.Fatalf("%d wanted, %v, %v, want six nodes and two probes", len(list), ok, err)
	}
	for _, w := range list {
		if w.Probe != (w.Digest == "") || w.Address == "" || w.Role == "" {
			t.Errorf("%+v", w)
		}
	}
}

func TestWithoutARevisionTheHintIsACommandThatWorks(t *testing.T) {
	r, _ := newRevisions(t)
	_, _, err := r.Get(context.Background(), 0)
	if !errs.Is(err, errs.NotFound) || errs.HintOf(err) != "infractl apply -f site.yaml" {
		t.Errorf("got %v, hint %q", err, errs.HintOf(err))
	}
}
