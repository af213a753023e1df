package site

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func instanceResources() Resources {
	return Resources{
		Images: map[string]ImageArchive{
			"infractl/dolibarr:19.0.4": {Digest: "sha256:aa", ImageID: "sha256:ab"},
			"infractl/mariadb:10.11":   {Digest: "sha256:ba", ImageID: "sha256:bb"},
			"infractl/front:1":         {Digest: "sha256:ca", ImageID: "sha256:cb"},
		},
		Instances: []Instance{
			{Name: "zeta", ID: "z0000000", Node: "srv-prod", Mode: v1.InstanceMode_INSTANCE_MODE_CLOSED, Version: "19.0.4",
				AppImage: "infractl/dolibarr:19.0.4", DBImage: "infractl/mariadb:10.11", Subnet: netip.MustParsePrefix("10.210.0.16/28")},
			{Name: "acme", ID: "a0000000", Node: "srv-prod", Mode: running, Version: "19.0.4",
				AppImage: "infractl/dolibarr:19.0.4", DBImage: "infractl/mariadb:10.11", Subnet: netip.MustParsePrefix("10.210.0.0/28"),
				Domains: []string{"ERP.acme.example", "erp.acme.example"}, MemoryBytes: 512 << 20, MilliCPUs: 1000, PIDs: 256, DiskBytes: 10 << 30,
				Timezone: "Europe/Paris", Language: "fr", Cron: true, AdminLogin: "admin",
				Secrets: map[string]string{"db-root": "1-a", "db": "1-b", "admin": "1-c", "unique-id": "1-d", "cron-key": "1-e"}},
		},
	}
}

func TestInstancesAreDerivedForTheirHost(t *testing.T) {
	s := load(t, example(t, true))
	specs, err := s.HostSpecs(instanceResources())
	if err != nil {
		t.Fatal(err)
	}
	content, err := protojson.Marshal(specs["srv-prod"].GetDolibarr())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer // protojson varies its spaces on purpose
	if err := json.Indent(&b, content, "", " "); err != nil {
		t.Fatal(err)
	}
	golden(t, "dolibarr.json", b.String()+"\n")
	if pre := specs["srv-pre-prod"].GetDolibarr(); pre == nil || pre.GetFront() != nil || len(pre.GetInstances()) > 0 {
		t.Errorf("a host without instances: %v, want an empty section and no front", pre)
	}
	if other := specs["srv-supervision"].GetDolibarr(); other != nil {
		t.Errorf("a node that carries none has %v", other)
	}
	if got := ArchivesOf(specs["srv-prod"]); !slices.Equal(got, []string{"sha256:aa", "sha256:ba", "sha256:ca"}) {
		t.Errorf("archives %v", got)
	}
}

func TestAdoptedInstancesAreShownAsTheyAre(t *testing.T) {
	res := instanceResources()
	res.Instances = []Instance{{Name: "dup", ID: "d0000000", Node: "srv-prod", Mode: running, Version: "15",
		Adopted: &v1.AdoptedInstance{AppContainer: "dup_dolibarr", DbContainer: "dup_mariadb", Network: "dup_network"}}}
	specs, s := proxySpec(t, res, "driver: npm ", "driver: caddy ")
	spec := specs["srv-prod"].GetDolibarr()
	if inst := spec.GetInstances()[0]; inst.GetAppImage() != nil || inst.GetDbImage() != nil || inst.GetAdopted().GetNetwork() != "dup_network" || spec.GetFront() == nil {
		t.Errorf("the host is told %v", spec)
	}
	if got := ArchivesOf(specs["srv-prod"]); !slices.Equal(got, []string{"sha256:ca"}) {
		t.Errorf("archives %v, want the front's alone", got)
	}
	name := "dup.dolibarr.projetpro.example"
	if !slices.ContainsFunc(specs[s.ProxyNode()].GetProxy().GetHosts(), func(h *v1.ProxyHostSpec) bool { return h.GetDomains()[0] == name && h.GetInstance() == "dup" }) {
		t.Errorf("the proxy has %v", specs[s.ProxyNode()].GetProxy().GetHosts())
	}
}

func TestInstancesReachOnlyWhatTheyNeed(t *testing.T) {
	src := example(t, true)
	src.Content = append(src.Content, "\n"...)
	s := load(t, src)
	from := netip.MustParseAddr("10.210.0.3")
	for _, tt := range []struct {
		to   string
		port uint16
		want bool
	}{
		{"203.0.113.9", 443, true}, {"203.0.113.9", 465, true}, {"203.0.113.9", 587, true}, {"203.0.113.9", 80, false}, {"203.0.113.9", 25, false},
		{"10.0.10.10", 53, true}, {"10.0.10.10", 443, false}, {"10.0.10.20", 80, false}, {"10.0.10.31", 587, false}, {"10.0.10.4", 7443, false},
		{"10.210.0.18", 443, false},
	} {
		if _, got := s.Allowed(from, netip.MustParseAddr(tt.to), "tcp", tt.port); got != tt.want {
			t.Errorf("an instance to %s:%d: %t, want %t", tt.to, tt.port, got, tt.want)
		}
	}
	specs, err := s.HostSpecs(Resources{})
	if err != nil {
		t.Fatal(err)
	}
	fw := specs["srv-prod"].GetFirewall()
	if fw.GetInstancePool() != "10.210.0.0/16" || specs["srv-supervision"].GetFirewall().GetInstancePool() != "" {
		t.Errorf("pool %q on the host, %q elsewhere", fw.GetInstancePool(), specs["srv-supervision"].GetFirewall().GetInstancePool())
	}
	for _, r := range fw.GetRules() {
		if r.GetFlow() == "implied.instances" && r.GetHook() != v1.FirewallHook_FIREWALL_HOOK_FORWARD {
			t.Errorf("the host itself got a way that is for instances: %v", r)
		}
	}
	// Docker masks containers behind their host's address: that is what the router sees.
	seen := false
	for _, r := range specs["vrouter"].GetFirewall().GetRules() {
		seen = seen || strings.Contains(r.GetFlow()+r.GetReason(), "instances") && slices.Contains(r.GetFrom().GetPrefixes(), "10.0.10.20/32") &&
			slices.ContainsFunc(r.GetPorts(), func(p *v1.PortRange) bool { return p.GetFirst() == 465 })
	}
	if !seen {
		t.Error("the router lets nothing of the instances out")
	}
}

func TestFlowsToInstancesAddNothing(t *testing.T) {
	src := example(t, true)
	src.Content = []byte(strings.Replace(string(src.Content), "flows:\n", "flows:\n  - {name: to-instances, from: vpn, to: instances, ports: [80/tcp]}\n", 1))
	s, findings := Load(src)
	if s == nil {
		t.Fatalf("refused:\n%s", format(findings))
	}
	if !strings.Contains(format(findings), "nothing reaches an instance but the proxy") {
		t.Errorf("findings:\n%s", format(findings))
	}
	if _, ok := s.Allowed(netip.MustParseAddr("10.0.20.10"), netip.MustParseAddr("10.210.0.3"), "tcp", 80); ok {
		t.Error("the flow opens instances")
	}
}

func TestNamesThatTheSiteHasAreNoInstances(t *testing.T) {
	s := load(t, example(t, true))
	for _, name := range []string{"srv-prod", "smtp", "grafana"} {
		if s.NameProblem(name) == "" {
			t.Errorf("%s may be an instance", name)
		}
	}
	if got := s.NameProblem("acme"); got != "" {
		t.Errorf("acme: %s", got)
	}
	for _, domain := range []string{"nodots", "A.example.org", "x.projetpro.lab", "grafana.projetpro.lab", "b.dolibarr.projetpro.example", "bad_name.example", "-a.example"} {
		if s.DomainProblem(domain) == "" {
			t.Errorf("%s may be an instance's", domain)
		}
	}
	if got := s.DomainProblem("erp.acme.example"); got != "" {
		t.Errorf("erp.acme.example: %s", got)
	}
}

func TestImagesFollowTheVersion(t *testing.T) {
	for change, want := range map[string][2]string{
		"":                            {"infractl/dolibarr:19.0.4", "infractl/mariadb:10.11"},
		"app: dolibarr/dolibarr":      {"dolibarr/dolibarr:19.0.4", "infractl/mariadb:10.11"},
		"app: \"r.example:5000/x\"":   {"r.example:5000/x:19.0.4", "infractl/mariadb:10.11"},
		"app: \"x/y:z\", db: \"m:1\"": {"x/y:z", "m:1"},
	} {
		src := example(t, true)
		if change != "" {
			src.Content = []byte(strings.Replace(string(src.Content), "  prod: [srv-prod]\n", "  prod: [srv-prod]\n  images: {"+change+"}\n", 1))
		}
		app, db := load(t, src).InstanceImages("19.0.4")
		if app != want[0] || db != want[1] {
			t.Errorf("%s: %s and %s, want %v", change, app, db, want)
		}
	}
}

func TestMilliCPUs(t *testing.T) {
	for text, want := range map[string]uint32{"1": 1000, "0.5": 500, "2.25": 2250, "64": 64000, "0": 0, "0.05": 0, "65": 0, "1.2345": 0, "-1": 0, "": 0, "1e3": 0} {
		if got, ok := ParseMilliCPUs(text); ok != (want > 0) || ok && got != want {
			t.Errorf("%q: %d, %t; want %d", text, got, ok, want)
		}
	}
}
