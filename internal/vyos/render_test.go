package vyos

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/site/sitedir"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

var update = flag.Bool("update", false, "write golden files")

// example is the router of the example site, all sections derived.
func example(t testing.TB) *v1.HostSpec {
	t.Helper()
	return exampleWith(t)
}

// exampleWith is the same with parts of the site file replaced: old, new, and so on.
func exampleWith(t testing.TB, replace ...string) *v1.HostSpec {
	t.Helper()
	src, err := sitedir.Read("../../examples/projetpro/site.yaml", "")
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(string(src.Content), replace[i]) {
			t.Fatalf("the example has no %q", replace[i])
		}
		src.Content = []byte(strings.Replace(string(src.Content), replace[i], replace[i+1], 1))
	}
	s, findings := site.Load(site.SourceFromProto(src))
	if s == nil {
		t.Fatalf("the example is refused: %v", findings)
	}
	specs, err := s.HostSpecs(site.Resources{Peers: []site.TunnelPeer{{Name: "laptop", PublicKey: strings.Repeat("A", 43) + "=",
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.20.2")}}}})
	if err != nil {
		t.Fatal(err)
	}
	return specs["vrouter"]
}

func TestExampleRendersForEveryRelease(t *testing.T) {
	for _, v := range Versions() {
		t.Run(v.String(), func(t *testing.T) {
			r, err := Render(example(t), v, Options{})
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, l := range r.Lines {
				b.WriteString(l.String() + "\n")
			}
			for _, n := range r.Notes {
				b.WriteString("# " + n + "\n")
			}
			path := filepath.Join("testdata", v.String()+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("%v (run with -update)", err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
