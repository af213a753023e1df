//go:build lab

package dns

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/labtest"
)

// site is the one lab of this package: the example's site with a second name server.
var site *demo.Site

func TestMain(m *testing.M) {
	os.Exit(demo.Suite{
		Name: "names", Limit: 8 * time.Minute,
		Change:  func(o *demo.Options) { o.Overlay = "rollout: {window: 10s}\n" },
		Prepare: prepare,
	}.Run(&site, m.Run))
}

// prepare adds the second name server and applies.
func prepare(ctx context.Context, s *demo.Site) error {
	text, err := os.ReadFile(s.File)
	if err != nil {
		return err
	}
	if err := s.WriteSite(strings.Replace(string(text), "  primary: srv-dhcp-dns\n", "  primary: srv-dhcp-dns\n  secondary: srv-supervision\n", 1)); err != nil {
		return err
	}
	if _, err := s.Must(ctx, "secret", "rotate", "dns-transfer"); err != nil {
		return err
	}
	return s.Apply(ctx)
}

func in(t *testing.T, vm string, argv ...string) (string, int) {
	t.Helper()
	return labtest.In(t, site.Lab, vm, argv...)
}

func dig(t *testing.T, vm string, args ...string) string {
	t.Helper()
	out, _ := in(t, vm, append([]string{"dig", "+short", "+time=2", "+tries=2"}, args...)...)
	return strings.TrimSpace(out)
}

func TestEveryNodeIsFoundForwardAndBack(t *testing.T) {
	addresses := map[string]string{"vrouter": "10.0.10.1", "client-relay": "10.0.10.4", services: "10.0.10.10", "srv-supervision": "10.0.10.11",
		"srv-prod": "10.0.10.20", "srv-pre-prod": "10.0.10.21", "vrouter-vpn": "10.0.20.1", "backup": "203.0.113.4"}
	for _, vm := range []string{demo.Relay, demo.Prod, demo.Router, services} {
		for name, address := range addresses {
			if got := dig(t, vm, name+".projetpro.lab"); got != address {
				t.Errorf("from %s: %s is %q, want %s", vm, name, got, address)
			}
			if !strings.HasPrefix(address, "10.") {
				continue // no network of ours: nobody's way back is ours to give
			}
			if got := dig(t, vm, "-x", address); got != name+".projetpro.lab." {
				t.Errorf("from %s: %s is %q, want %s", vm, address, got, name)
			}
		}
	}
	if got := dig(t, demo.Prod, "grafana.projetpro.lab"); !strings.Contains(got, "10.0.10.10") {
		t.Errorf("the alias is %q", got)
	}
}

func TestStrangersGetNothing(t *testing.T) {
	if out, code := in(t, demo.Internet, "dig", "+time=1", "+tries=1", "@192.168.8.30", "projetpro.lab", "SOA"); code == 0 {
		t.Errorf("the internet is answered:\n%s", out)
	}
	// A source outside of the inside networks that gets past the firewall is refused by bind itself.
	in(t, services, "ip", "address", "add", "198.51.100.5/32", "dev", "lo")
	for _, name := range []string{"example.org", "srv-prod.projetpro.lab"} {
		if out, _ := in(t, services, "dig", "+time=2", "+tries=1", "-b", "198.51.100.5", "@10.0.10.10", name); !strings.Contains(out, "status: REFUSED") {
			t.Errorf("a stranger that asks for %s gets\n%s", name, out)
		}
	}
	in(t, services, "ip", "address", "del", "198.51.100.5/32", "dev", "lo")
	if out, _ := in(t, demo.Prod, "dig", "+time=2", "+tries=1", "@10.0.10.10", "projetpro.lab", "AXFR"); !strings.Contains(out, "Transfer failed") {
		t.Errorf("a node without a key gets the zone:\n%s", out)
	}
	// The second node's address alone is not enough.
	if out, _ := in(t, "srv-supervision", "dig", "+time=2", "+tries=1", "@10.0.10.10", "projetpro.lab", "AXFR"); !strings.Contains(out, "Transfer failed") {
		t.Errorf("the second node gets the zone without its key:\n%s", out)
	}
}

func TestTheSecondServerHasACopy(t *testing.T) {
	want := dig(t, demo.Relay, "@10.0.10.10", "projetpro.lab", "SOA")
	deadline := time.Now().Add(40 * time.Second)
	for got := ""; ; time.Sleep(time.Second) {
		if got = dig(t, demo.Relay, "@10.0.10.11", "projetpro.lab", "SOA"); got == want && want != "" {
			break
		}
		if time.Now().After(deadline) {
			out, _ := in(t, "srv-supervision", "journalctl", "-u", "named", "-n", "30", "--no-pager")
			t.Fatalf("the second server has %q, the first %q\n%s", got, want, out)
		}
	}
	for { // zones are transferred one after the other
		r, err := site.Infractl(t.Context(), "dns", "check")
		if err == nil && r.Code == 0 && strings.Contains(r.Stdout, ", 0 not") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("dns check: code %d, %v\n%s%s", r.Code, err, r.Stdout, r.Stderr)
		}
		time.Sleep(time.Second)
	}
}

func TestAHandEditIsShownAndMended(t *testing.T) {
	const file = "/var/lib/bind/infractl/projetpro.lab.zone"
	if out, code := in(t, services, "sed", "-i", "s/10.0.10.20$/10.0.10.66/", file); code != 0 {
		t.Fatal(out)
	}
	r, err := site.Infractl(t.Context(), "plan", "-f", site.File, "--overlay", site.Overlay)
	if err != nil || !strings.Contains(r.Stdout, "srv-prod.projetpro.lab. 3600 IN A 10.0.10.66") {
		t.Errorf("the plan does not show the edit: code %d, %v\n%s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	if out, _ := in(t, services, "grep", "-c", "10.0.10.66", file); strings.TrimSpace(out) != "1" {
		t.Errorf("planning changed the file: %s", out)
	}
	if err := site.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, _ := in(t, services, "grep", "-c", "10.0.10.66", file); strings.TrimSpace(out) != "0" {
		t.Errorf("the edit is still there: %s", out)
	}
	if got := dig(t, demo.Relay, "srv-prod.projetpro.lab"); got != "10.0.10.20" {
		t.Errorf("srv-prod is %q", got)
	}
}

// TestTheWorldSeesThePublicZoneAlone gives the site views, and a zone that proves names to a certificate authority. It comes last.
func TestTheWorldSeesThePublicZoneAlone(t *testing.T) {
	const proof = "_acme-challenge.dolibarr.projetpro.example"
	withViews(t)
	world := func(args ...string) string {
		out, _ := in(t, demo.Internet, append([]string{"dig", "+time=2", "+tries=2", "+norec", "@192.168.8.30"}, args...)...)
		return out
	}
	for _, c := range []struct {
		question []string
		want     string
	}{
		{[]string{"ns1.projetpro.example"}, "192.168.8.30"},
		{[]string{"projetpro.example", "SOA", "+tcp"}, "hostmaster.projetpro.example."},
		{[]string{"nothing.projetpro.example"}, "status: NXDOMAIN"},
		{[]string{proof, "TXT"}, "status: NOERROR"},
		{[]string{"srv-prod.projetpro.lab"}, "status: REFUSED"},
		{[]string{"-x", "10.0.10.20"}, "status: REFUSED"},
		{[]string{"example.org", "+rec"}, "status: REFUSED"},
		{[]string{"version.bind", "CH", "TXT"}, "REFUSED"},
		{[]string{"projetpro.example", "AXFR"}, "Transfer failed"},
	} {
		if out := world(c.question...); !strings.Contains(out, c.want) || strings.Contains(out, "10.0.10.") && c.want == "192.168.8.30" {
			t.Errorf("the world asks for %v, and gets, without %q:\n%s", c.question, c.want, out)
		}
	}
	key := base64.StdEncoding.EncodeToString([]byte(acmeSecret))
	update := "server 10.0.10.10\nzone " + proof + "\nupdate add " + proof + " 60 TXT proven\nsend\n"
	if err := site.Lab.VM(services).WriteFile(t.Context(), "/root/update", 0o600, []byte("key hmac-sha256:infractl-acme "+key+"\n"+update)); err != nil {
		t.Fatal(err)
	}
	if out, code := in(t, services, "nsupdate", "/root/update"); code != 0 {
		t.Errorf("an update with the key: %s", out)
	}
	if out := world("+short", proof, "TXT"); strings.TrimSpace(out) != `"proven"` {
		t.Errorf("the world sees as proof %q", out)
	}
	TestEveryNodeIsFoundForwardAndBack(t)
	TestTheSecondServerHasACopy(t)
	if out, err := site.Must(t.Context(), "diff"); err != nil {
		t.Errorf("a second look finds differences: %v\n%s", err, out)
	}
}

// acmeSecret signs updates of proofs.
const acmeSecret = "a secret of this lab, thirty-two"

func withViews(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(site.File)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.Replace(string(text), "  primary: srv-dhcp-dns\n",
		"  primary: srv-dhcp-dns\n  views: true\n  acme: {key: {secret: acme-update}}\n", 1)
	edited = strings.Replace(edited, "\nssh:\n", "  - {name: world-dns, from: internet, to: srv-dhcp-dns, ports: [53/udp, 53/tcp]}\n\nssh:\n", 1)
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(acmeSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := site.Must(t.Context(), "secret", "set", "acme-update", "-f", file); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if err := site.WriteSite(edited); err != nil {
		t.Fatal(err)
	}
	if err := site.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
}
