package firewall

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/internal/strictjson"
	v1 "github.com/infractl/infractl/proto/infractl/v1"

	"github.com/infractl/infractl/agent/iptables"
	"github.com/infractl/infractl/agent/iptables/nstest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func udp(r *v1.FirewallRule) *v1.FirewallRule {
	r.Protocol = "udp"
	return r
}

// The shapes of a small site's nodes, written by hand.
func siteSpecs() map[string]*v1.FirewallSpec {
	lan := []string{"10.0.10.0/24", "10.0.20.0/24", "192.168.8.0/24"}
	relay, services, watch := addrs("10.0.10.4"), addrs("10.0.10.10"), addrs("10.0.10.11")
	common := func(rules ...*v1.FirewallRule) []*v1.FirewallRule {
		return append([]*v1.FirewallRule{
			tcp(in, "bastion", 202, relay, anyone(), "client-relay"),
			tcp(in, "implied.scrape", 9100, watch, anyone(), "srv-supervision"),
			tcp(out, "implied.session", 7443, anyone(), relay, "client-relay"),
			udp(containers(tcp(out, "implied.dns", 53, anyone(), services, "srv-dhcp-dns"))),
			udp(tcp(out, "implied.time", 123, anyone(), addrs("10.0.10.1"), "vrouter")),
			containers(tcp(out, "implied.packages", 443, anyone(), internet())),
		}, rules...)
	}
	return map[string]*v1.FirewallSpec{
		"relay": {InsidePrefixes: lan, Rules: common(
			tcp(in, "admin", 202, addrs("10.0.20.0/24"), anyone()),
			tcp(in, "implied.session", 7443, addrs("10.0.10.0/24", "10.0.20.0/24"), anyone()),
			tcp(out, "bastion", 202, anyone(), addrs("10.0.10.1", "10.0.10.10", "10.0.10.11")),
		)},
		"services": {InsidePrefixes: lan, DockerHost: true, Rules: common(
			containers(tcp(in, "web", 80, internet(), anyone())),
			containers(tcp(in, "web", 443, internet(), anyone())),
			containers(tcp(in, "proxy-ui", 81, addrs("10.0.20.0/24"), anyone())),
			udp(tcp(in, "implied.dns", 53, addrs("10.0.10.0/24"), anyone())),
		)},
		"prod": {InsidePrefixes: lan, DockerHost: true, InstancePool: "172.18.0.0/16", Rules: common(
			containers(tcp(in, "implied.front", 8443, services, addrs("10.0.10.20"), "srv-dhcp-dns")),
			tcp(fwd, "implied.instances", 587, addrs("172.18.0.0/16"), internet()),
		)},
		"router": {InsidePrefixes: lan, Router: true, Rules: common(
			udp(tcp(in, "vpn", 51820, internet(), anyone())),
			tcp(fwd, "web", 443, internet(), services, "srv-dhcp-dns"),
			tcp(fwd, "admin", 202, addrs("10.0.20.0/24"), relay, "client-relay"),
			tcp(fwd, "implied.packages", 443, addrs("10.0.10.0/24"), internet()),
		)},
		"ipv6": {InsidePrefixes: append(lan, "fd10::/64"), Rules: []*v1.FirewallRule{
			tcp(in, "bastion", 202, addrs("10.0.10.4", "fd10::4"), anyone()),
			tcp(in, "web", 443, internet(), anyone()),
			tcp(out, "range", 443, anyone(), addrs("fd10::a")),
		}},
	}
}

func TestRenderedRulesAreTheGoldenOnes(t *testing.T) {
	for name, s := range siteSpecs() {
		t.Run(name, func(t *testing.T) {
			rs, err := FromSpec(s)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, n := range rs.named() {
				for _, line := range n.hook.lines(n.name) {
					got.WriteString("# " + n.name + ": " + line + "\n")
				}
			}
			for _, ipv6 := range []bool{false, true} {
				text, err := Render(rs, ipv6)
				if err != nil {
					t.Fatal(err)
				}
				got.WriteString(text)
			}
			golden(t, name+".rules", got.String())
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, d)
	}
}

// TestKernelPrintsWhatWasRendered guards the comparison by text: what iptables prints back is what was asked for.
func TestKernelPrintsWhatWasRendered(t *testing.T) {
	t.Parallel()
	for name, s := range siteSpecs() {
		rs, err := FromSpec(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, legacy := range []bool{false, true} {
			run := nstest.Runner{NS: nstest.New(t, "golden"), Legacy: legacy}
			for _, f := range []family{v4, v6} {
				want, err := render(rs, f, faults{})
				if err != nil {
					t.Fatal(err)
				}
				restoreText(t, run.NS, run.Program(f.Restore()), iptables.Transaction(kernel{}, want, false))
				k, err := iptables.Parse(iptables.Filter(), nstest.MustRun(t, nstest.Inside(run.NS, run.Program(f.Save()), "-t", "filter")...))
				if err != nil {
					t.Fatal(err)
				}
				if lines := k.Differences(want); len(lines) > 0 {
					t.Errorf("%s, %s, legacy %v:\n%s", name, f, legacy, strings.Join(lines, "\n"))
				}
				if k.Legacy != legacy {
					t.Errorf("%s: legacy = %v, want %v", name, k.Legacy, legacy)
				}
			}
		}
	}
}

func TestRuleSetSurvivesJSON(t *testing.T) {
	for name, s := range siteSpecs() {
		want, err := FromSpec(s)
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got RuleSet
		if err := strictjson.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}
