package revision_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/hostspec"
	"github.com/infractl/infractl/internal/site/sitedir"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/rollout/rollouttest"
)

func example(t *testing.T) *v1.SiteSource {
	t.Helper()
	src, err := sitedir.Read("../../examples/projetpro/site.yaml", "../../examples/projetpro/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	src.File, src.OverlayFile = "site.yaml", "lab.yaml"
	return src
}

// edited returns the source with a text replaced, which must stand in it.
func edited(t *testing.T, src *v1.SiteSource, from, to string) *v1.SiteSource {
	t.Helper()
	if !strings.Contains(string(src.GetContent()), from) {
		t.Fatalf("the example has no %q", from)
	}
	return &v1.SiteSource{
		File: src.GetFile(), Content: []byte(strings.Replace(string(src.GetContent()), from, to, 1)),
		OverlayFile: src.GetOverlayFile(), OverlayContent: src.GetOverlayContent(), Files: src.GetFiles(),
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

func withFile(src *v1.SiteSource, path, content string) *v1.SiteSource {
	out := proto.Clone(src).(*v1.SiteSource)
	for _, f := range out.GetFiles() {
		if f.GetPath() == path {
			f.Content = []byte(content)
			return out
		}
	}
	out.Files = append(out.Files, &v1.SourceFile{Path: path, Content: []byte(content)})
	return out
}

func TestFilesOfStacksArePartOfARevision(t *testing.T) {
	r, _ := newRevisions(t)
	src := example(t)
	mustAppend(t, r, src, 0)
	changed := withFile(src, "stacks/supervision/prometheus.yml", "global: {}\n")
	if rev := mustAppend(t, r, changed, 1); rev.GetNumber() != 2 {
		t.Errorf("another file made revision %d", rev.GetNumber())
	}
	program := proto.Clone(changed).(*v1.SiteSource)
	program.Files[0].Executable = true
	if revision.Digest(program) == revision.Digest(changed) {
		t.Error("whether a file may be run is no part of the digest")
	}
	slices.Reverse(program.Files)
	program.Files[len(program.Files)-1].Executable = false
	if revision.Digest(program) != revision.Digest(changed) {
		t.Error("the order of the files changes the digest")
	}
	_, files, err := r.Get(context.Background(), 1)
	if err != nil || !slices.EqualFunc(files.GetFiles(), src.GetFiles(), func(a, b *v1.SourceFile) bool { return proto.Equal(a, b) }) {
		t.Errorf("the files of revision 1 came back otherwise: %v", err)
	}
	d, err := r.Derive(context.Background(), 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range d.Specs["srv-supervision"].Spec.GetContainers().GetStacks()[0].GetFiles() {
		if f.GetPath() == "supervision/prometheus.yml" && string(f.GetContent()) != "global: {}\n" {
			t.Errorf("the spec has another file: %q", f.GetContent())
		}
	}
}

func TestFilesAreLimited(t *testing.T) {
	r, _ := newRevisions(t)
	src := example(t)
	twice := withFile(src, "stacks/services/a", "x")
	twice.Files = append(twice.Files, &v1.SourceFile{Path: "stacks/services/a"})
	many := src
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		many = withFile(many, "stacks/services/"+name, strings.Repeat("x", 250<<10))
	}
	for name, source := range map[string]*v1.SiteSource{
		"ErrLarge":    withFile(src, "stacks/services/a", strings.Repeat("x", 256<<10+1)),
		"ErrMany":     many,
		"ErrTwice":    twice,
		"ErrAbsolute": withFile(src, "/etc/passwd", "x"),
		"ErrClimbs":   withFile(src, "stacks/../../x", "x"),
		"ErrNoName":   withFile(src, "", "x"),
		"ErrControl":  withFile(src, "stacks/services/a\nb", "x"),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := r.Append(context.Background(), revision.AppendRequest{Source: source}); !errs.Is(err, errs.Invalid) {
				t.Errorf("got %v, want invalid", err)
			}
		})
	}
}
