//go:build lab

package dns

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab/demo"
)

// site is the one lab of this package: the example's site with a second name server.
var site *demo.Site

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	bin := os.Getenv("INFRACTL_BIN")
	if bin == "" {
		fmt.Fprintln(os.Stderr, "INFRACTL_BIN must name the folder of the built programs; use make e2e")
		return 1
	}
	dir, err := os.MkdirTemp("", "infractl-names-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	site, err = demo.Boot(ctx, demo.Options{Root: "../../..", Bin: bin, Dir: dir, Name: "names", Out: os.Stderr,
		Overlay: "rollout: {window: 10s}\n"})
	if site != nil {
		defer site.Down(context.Background()) // the next lab of this name removes what stayed
	}
	if err == nil {
		err = prepare(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the site did not come up:", err)
		if site != nil {
			site.Explain(context.Background(), os.Stderr)
		}
		return 1
	}
	code := m.Run()
	if code != 0 {
		site.Explain(context.Background(), os.Stderr)
	}
	return code
}

// prepare adds the second name server and applies.
func prepare(ctx context.Context) error {
	text, err := os.ReadFile(site.File)
	if err != nil {
		return err
	}
	if err := site.WriteSite(strings.Replace(string(text), "  primary: srv-dhcp-dns\n", "  primary: srv-dhcp-dns\n  secondary: srv-supervision\n", 1)); err != nil {
		return err
	}
	if _, err := site.Must(ctx, "secret", "rotate", "dns-transfer"); err != nil {
		return err
	}
	return site.Apply(ctx)
}

func in(t *testing.T, vm string, argv ...string) (string, int) {
	t.Helper()
	r, err := site.Lab.VM(vm).Exec(t.Context(), argv...)
	if err != nil {
		t.Fatalf("%s: %v: %v", vm, argv, err)
	}
	return r.Stdout + r.Stderr, r.Code
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
