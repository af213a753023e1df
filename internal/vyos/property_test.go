package vyos

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/site/sitetest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func sorted(lines []Line) []string {
	var out []string
	for _, l := range lines {
		out = append(out, l.String())
	}
	slices.Sort(out)
	return out
}

// foreign is what others have on a router.
func foreign() []string {
	return []string{
		"set interfaces ethernet eth0 hw-id 00:0c:29:4d:ef:e0", "set interfaces ethernet eth0 mtu 1500", "set interfaces loopback lo",
		"set system login user vyos authentication encrypted-password '$6$x'", "set system console device ttyS0 speed 115200",
		"set service snmp community public", "set system config-management commit-archive location sftp://x",
	}
}

func TestRandomSitesRenderForEveryRelease(t *testing.T) {
	src := site.Source{File: "site.yaml", WithoutFiles: true}
	var err error
	if src.Content, err = os.ReadFile("../../examples/projetpro/site.yaml"); err != nil {
		t.Fatal(err)
	}
	before := example(t)
	others := parseAll(t, strings.Join(foreign(), "\n"))
	rapid.Check(t, func(t *rapid.T) {
		next := src
		next.Content = sitetest.Mutate(sitetest.FromRapid(t), src, sitetest.Options{Edits: rapid.IntRange(1, 8).Draw(t, "edits")})
		s, findings := site.Load(next)
		if s == nil {
			t.Fatalf("refused: %v", findings)
		}
		specs, err := s.HostSpecs(site.Resources{})
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range specs {
			if spec.GetRouter() == nil {
				continue
			}
			for _, v := range Versions() {
				want, err := Render(spec, v, Options{})
				if err != nil {
					t.Fatalf("%s: %v\n%s", v, err, next.Content)
				}
				old, err := Render(before, v, Options{})
				if err != nil {
					t.Fatal(err)
				}
				c := NewChecker(v)
				have := append(slices.Clone(old.Lines), others...)
				// Interfaces that the site does not name any more are left to people.
				owned := append(Owned(spec, v), Owned(before, v)...)
				got := Applied(c, have, c.Diff(have, want.Lines, owned))
				if diff := cmp.Diff(sorted(append(slices.Clone(want.Lines), others...)), sorted(got)); diff != "" {
					t.Fatalf("%s: carried out, the difference leads elsewhere: -want +got\n%s", v, diff)
				}
				if again := c.Diff(got, want.Lines, owned); !again.Empty() {
					t.Fatalf("%s: a second look finds %v", v, again)
				}
			}
		}
	})
}

func TestUnwantedPartsAreDeletedWhole(t *testing.T) {
	have := parseAll(t, "set nat source rule 100 source address 10.0.0.0/8\nset nat source rule 100 log enable\nset firewall name A rule 10 action accept\n"+
		"set firewall name A rule 20 action drop\nset system host-name old\nset interfaces ethernet eth0 mtu 1500\nset interfaces ethernet eth0 address dhcp")
	want := parseAll(t, "set firewall name A rule 10 action drop\nset system host-name new")
	spec := &v1.HostSpec{Firewall: &v1.FirewallSpec{}, Router: &v1.RouterSpec{Interfaces: []*v1.RouterInterface{{Name: "eth0"}}}}
	d := NewChecker(V13).Diff(have, want, Owned(spec, V13))
	got := []string{}
	for _, l := range d.Delete {
		got = append(got, "delete "+strings.Join(l, " "))
	}
	for _, l := range d.Set {
		got = append(got, "set "+strings.Join(l, " "))
	}
	if diff := cmp.Diff([]string{"delete nat", "delete firewall name A rule 20", "delete interfaces ethernet eth0 address",
		"set firewall name A rule 10 action drop", "set system host-name new"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSecretsAreHidden(t *testing.T) {
	for line, want := range map[string]string{
		"set interfaces wireguard wg0 private-key abc=":                   "set interfaces wireguard wg0 private-key '(hidden)'",
		"set interfaces wireguard wg0 private-key default":                "set interfaces wireguard wg0 private-key default",
		"set system login user vyos authentication encrypted-password $6": "set system login user vyos authentication encrypted-password '(hidden)'",
	} {
		l, err := ParseLine(line)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Redacted(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	for _, s := range []string{"set system host-name 'a b'", "set a 'b", `set a "b'c"`, "# x", "set", "set  a\t''", "commit; save"} {
		f.Add(s)
	}
	checkers := []*Checker{NewChecker(V13), NewChecker(V14), NewChecker(V15)}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseLine(text)
		if err != nil || l == nil {
			return
		}
		for _, c := range checkers {
			if c.Line(l) != nil {
				continue
			}
			again, err := ParseLine(l.String())
			if err != nil || !slices.Equal(again, l) {
				t.Fatalf("%q is written as %q and read as %q (%v)", l, l.String(), again, err)
			}
		}
	})
}

// manyFlows is a router with a thousand flows through it.
func manyFlows(b testing.TB) *v1.HostSpec {
	spec := proto.Clone(example(b)).(*v1.HostSpec)
	for i := range 1000 {
		spec.Firewall.Rules = append(spec.Firewall.Rules, &v1.FirewallRule{
			Hook: v1.FirewallHook_FIREWALL_HOOK_FORWARD, Protocol: "tcp", Flow: fmt.Sprintf("flow-%d", i),
			Ports: []*v1.PortRange{{First: uint32(1000 + i), Last: uint32(1000 + i)}},
			From:  &v1.Endpoint{Prefixes: []string{fmt.Sprintf("10.1.%d.0/24", i%250), "10.0.20.0/24"}},
			To:    &v1.Endpoint{Prefixes: []string{fmt.Sprintf("10.0.10.%d/32", 1+i%250)}},
		})
	}
	return spec
}

// BenchmarkPlan is the plan of a router with a thousand flows, one of which changed: to render, to check and to compare.
func BenchmarkPlan(b *testing.B) {
	spec := manyFlows(b)
	old, err := Render(spec, V14, Options{})
	if err != nil {
		b.Fatal(err)
	}
	spec.Firewall.Rules[500].Ports[0].First = 999
	var text strings.Builder
	for _, l := range old.Lines {
		text.WriteString(l.String() + "\n")
	}
	b.ReportMetric(float64(len(old.Lines)), "lines")
	for b.Loop() {
		have := parseAll(b, text.String())
		want, err := Render(spec, V14, Options{})
		if err != nil {
			b.Fatal(err)
		}
		if NewChecker(V14).Diff(have, want.Lines, Owned(spec, V14)).Empty() {
			b.Fatal("no change is seen")
		}
	}
}

// TestMain lowers the number of random sites: each is rendered three times. -rapid.checks=1000 asks for more.
func TestMain(m *testing.M) {
	checks := flag.Lookup("rapid.checks")
	if err := checks.Value.Set("15"); err != nil {
		panic(err)
	}
	m.Run()
}
