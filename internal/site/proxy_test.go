package site

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// proxySpec is the proxy of the example with its site file changed first.
func proxySpec(t *testing.T, res Resources, change ...string) (map[string]*v1.HostSpec, *Site) {
	t.Helper()
	src := example(t, true)
	src.Content = []byte(strings.NewReplacer(change...).Replace(string(src.Content)))
	s := load(t, src)
	specs, err := s.HostSpecs(res)
	if err != nil {
		t.Fatal(err)
	}
	return specs, s
}

const account = "driver: npm\n  api_user: infractl@projetpro.example\n  api_password: {secret: npm-infractl}"

const running = v1.InstanceMode_INSTANCE_MODE_RUNNING

func proxyResources() Resources {
	return Resources{Secrets: map[string]string{"npm-infractl": "v7"}, Instances: []Instance{
		{Name: "acme", Node: "srv-prod", Mode: running, Domains: []string{"acme.dolibarr.projetpro.example", "ERP.acme.example"}},
		{Name: "beta", Node: "srv-pre-prod", Mode: v1.InstanceMode_INSTANCE_MODE_SUSPENDED},
		{Name: "new", Node: "srv-prod", Mode: v1.InstanceMode_INSTANCE_MODE_CLOSED},
		{Name: "gone", Node: "no-such-node", Mode: running},
		{Name: "thief", Node: "srv-prod", Mode: running, Domains: []string{"grafana.projetpro.lab"}},
	}}
}

func TestProxyIsDerived(t *testing.T) {
	for name, change := range map[string][]string{
		"npm":   {"driver: npm ", account + " "},
		"caddy": {"driver: npm ", "driver: caddy ", "allow: [vpn]", "allow: [vpn, client-relay, backup]"},
	} {
		specs, _ := proxySpec(t, proxyResources(), change...)
		for node, spec := range specs {
			if node != "srv-dhcp-dns" && spec.GetProxy() != nil {
				t.Errorf("%s has a proxy", node)
			}
		}
		content, err := protojson.Marshal(specs["srv-dhcp-dns"].GetProxy())
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer // protojson varies its spaces on purpose
		if err := json.Indent(&b, content, "", " "); err != nil {
			t.Fatal(err)
		}
		golden(t, "proxy-"+name+".json", b.String()+"\n")
		if got := slices.Contains(specs["srv-dhcp-dns"].GetPackages().GetPresent(), "caddy"); got != (name == "caddy") {
			t.Errorf("%s: package caddy %t", name, got)
		}
	}
}

func TestProxyWithoutAccountIsNotManaged(t *testing.T) {
	specs, s := proxySpec(t, Resources{})
	if specs["srv-dhcp-dns"].GetProxy() != nil || !slices.Contains(s.NotManaged, "proxy") {
		t.Errorf("proxy %v, not managed %v", specs["srv-dhcp-dns"].GetProxy(), s.NotManaged)
	}
	_, s = proxySpec(t, Resources{}, "driver: npm ", account+" ")
	if slices.Contains(s.NotManaged, "proxy") {
		t.Error("not managed, with an account")
	}
}

func TestProxySecretMustBeThere(t *testing.T) {
	_, s := proxySpec(t, Resources{}, "driver: npm ", account+" ")
	if got := format(s.MissingSecrets(Resources{})); !strings.Contains(got, "the reverse proxy needs the secret npm-infractl") {
		t.Errorf("missing secrets:\n%s", got)
	}
	if got := format(s.MissingSecrets(proxyResources())); strings.Contains(got, "npm-infractl") {
		t.Errorf("it is there:\n%s", got)
	}
}

func TestProxyWildcardNeedsTheAcmeZone(t *testing.T) {
	specs, _ := proxySpec(t, Resources{}, "driver: npm ", "driver: caddy ",
		"  primary: srv-dhcp-dns\n", "  primary: srv-dhcp-dns\n  acme: {key: {secret: acme-update}}\n")
	if got := specs["srv-dhcp-dns"].GetProxy().GetWildcard(); got != "dolibarr.projetpro.example" {
		t.Errorf("wildcard %q", got)
	}
}

func TestProxyAccountIsWholeAndForNginxProxyManager(t *testing.T) {
	for change, want := range map[string]string{
		"driver: npm\n  api_user: infractl@projetpro.example": "belong together",
		"driver: npm\n  api_password: {secret: npm-infractl}": "belong together",
		strings.Replace(account, "npm", "caddy", 1):           "belong to the driver npm",
	} {
		src := example(t, false)
		src.Content = []byte(strings.Replace(string(src.Content), "driver: npm ", change+" ", 1))
		s, findings := Load(src)
		if got := format(errorsOnly(findings)); s != nil || !strings.Contains(got, want) {
			t.Errorf("%q:\n%s", change, got)
		}
	}
}

func TestPortsOfTheAuthority(t *testing.T) {
	for directory, want := range map[string]string{
		"":                               "[80 443]",
		"https://acme.example/directory": "[80 443]",
		"https://acme.example:443/dir":   "[80 443]",
		"https://203.0.113.7:14000/dir":  "[80 443 14000]",
		"https://acme.example:0/dir":     "[80 443]",
		"https://acme.example:70000/dir": "[80 443]",
		"no address: at all":             "[80 443]",
	} {
		if got := fmt.Sprint(proxyPart{directory: directory}.acmePorts()); got != want {
			t.Errorf("%q: got %s, want %s", directory, got, want)
		}
	}
}
