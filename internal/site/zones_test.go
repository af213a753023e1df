package site

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// zoneLines are the records of all zones of the example as lines, with the site file changed first.
func zoneLines(t *testing.T, res Resources, change ...string) ([]string, *Site) {
	t.Helper()
	src := example(t, true)
	src.Content = []byte(strings.NewReplacer(change...).Replace(string(src.Content)))
	s := load(t, src)
	all := s.Zones(res)
	if err := zone.Check(all); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, z := range all {
		for _, r := range z.Records {
			out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s", z.View, z.Name, r.Name, r.Type, r.Value)))
		}
	}
	return out, s
}

func TestZonesNameEverything(t *testing.T) {
	got, _ := zoneLines(t, Resources{Instances: []Instance{{Name: "acme", Node: "srv-prod", Mode: running, Domains: []string{"acme.dolibarr.projetpro.example", "erp.acme.example"}}}})
	for _, want := range []string{
		"projetpro.lab vrouter.projetpro.lab A 10.0.10.1",
		"projetpro.lab vrouter-vpn.projetpro.lab A 10.0.20.1",
		"20.0.10.in-addr.arpa 1.20.0.10.in-addr.arpa PTR vrouter-vpn.projetpro.lab",
		"10.0.10.in-addr.arpa 1.10.0.10.in-addr.arpa PTR vrouter.projetpro.lab",
		"10.0.10.in-addr.arpa 4.10.0.10.in-addr.arpa PTR client-relay.projetpro.lab",
		"projetpro.lab grafana.projetpro.lab CNAME srv-dhcp-dns.projetpro.lab",
		"dolibarr.projetpro.example acme.dolibarr.projetpro.example A 10.0.10.10",
		"projetpro.lab projetpro.lab NS srv-dhcp-dns.projetpro.lab",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, strings.Join(got, "\n"))
		}
	}
	for _, line := range got {
		if strings.Contains(line, "192.168.8.") || strings.Contains(line, "erp.acme.example") {
			t.Errorf("an inside zone has %q", line)
		}
	}
}

func TestTheOutsideViewHoldsNothingOfTheInside(t *testing.T) {
	got, s := zoneLines(t, Resources{Instances: []Instance{{Name: "acme", Node: "srv-prod", Mode: running}}},
		"  primary: srv-dhcp-dns\n", "  primary: srv-dhcp-dns\n  secondary: srv-supervision\n  views: true\n  acme: {key: {secret: acme-update}}\n",
		"public_domain: projetpro.example", "public_address: 203.0.113.80\npublic_domain: projetpro.example")
	seen := false
	for _, line := range got {
		if strings.HasPrefix(line, "outside ") {
			seen = seen || line == "outside projetpro.example acme.dolibarr.projetpro.example A 203.0.113.80"
			if strings.Contains(line, "projetpro.lab") || strings.Contains(line, " 10.0.") {
				t.Errorf("the outside sees %q", line)
			}
		}
	}
	if !seen {
		t.Errorf("the outside does not see the instance:\n%s", strings.Join(got, "\n"))
	}
	// A delegation that says something else than the zone itself would never be proven.
	const proof = "_acme-challenge.dolibarr.projetpro.example"
	for _, where := range []string{"inside dolibarr.projetpro.example", "inside " + proof, "outside projetpro.example", "outside " + proof} {
		if want := where + " " + proof + " NS ns1.projetpro.example"; !slices.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, strings.Join(got, "\n"))
		}
	}
	specs, err := s.HostSpecs(Resources{Secrets: map[string]string{"dns-transfer": "v1", "acme-update": "v2"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, z := range specs["srv-supervision"].GetDns().GetZones() {
		if z.GetContentDigest() != "" || !slices.Equal(z.GetPrimaries(), []string{"10.0.10.10"}) {
			t.Errorf("the second node has %v", z)
		}
	}
	d := specs["srv-dhcp-dns"].GetDns()
	if !slices.Equal(d.GetTransferTo(), []string{"10.0.10.11"}) || d.GetTransferKey().GetVersion() != "v1" || len(d.GetViews()) != 2 {
		t.Errorf("got %v", d)
	}
	if missing := s.MissingSecrets(Resources{}); !slices.ContainsFunc(missing, func(f *v1.Finding) bool { return strings.Contains(f.Message, "dns-transfer") }) {
		t.Errorf("nobody misses the key of transfers: %v", missing)
	}
}

func TestDNSFaultsAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"alias beside a name of ours": {"    grafana: srv-dhcp-dns ", "    vrouter-vpn: srv-dhcp-dns\n    grafana: srv-dhcp-dns ", "vrouter-vpn.projetpro.lab is an alias of"},
		"alias that is no host name":  {"    grafana: srv-dhcp-dns ", "    bad_name: srv-dhcp-dns\n    grafana: srv-dhcp-dns ", "no name for a alias"},
		"public inside the domain":    {"public_domain: projetpro.example", "public_domain: www.projetpro.lab", "is the inside domain projetpro.lab or lies in it"},
		"key without a second node":   {"  primary: srv-dhcp-dns\n", "  primary: srv-dhcp-dns\n  transfer_key: {secret: x}\n", "no dns.secondary"},
		"package that must stay":      {"networks:\n", "packages: {services: {absent: [bind9]}}\nnetworks:\n", "package bind9 cannot go"},
		"rfc2136 without a key":       {"dns: {provider: manual}", "dns: {provider: rfc2136}", "lacks the server or the key"},
	} {
		t.Run(name, func(t *testing.T) {
			src := example(t, true)
			src.Content = []byte(strings.Replace(string(src.Content), c.from, c.to, 1))
			s, findings := Load(src)
			if s != nil || !strings.Contains(format(findings), c.want) {
				t.Errorf("want %q, got\n%s", c.want, format(findings))
			}
		})
	}
}

func TestPublicRecordsLeadToThePublicAddress(t *testing.T) {
	_, s := zoneLines(t, Resources{})
	got := s.PublicRecords(Resources{Instances: []Instance{{Name: "acme", Mode: running, Domains: []string{"erp.acme.example"}}}})
	var names []string
	for _, r := range got {
		names = append(names, r.Name+" "+r.Value)
	}
	if want := []string{"acme.dolibarr.projetpro.example 192.168.8.30", "erp.acme.example 192.168.8.30"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
	if s.PublicAddress() != netip.MustParseAddr("192.168.8.30") {
		t.Errorf("public address %s", s.PublicAddress())
	}
}
