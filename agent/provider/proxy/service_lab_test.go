//go:build lab

package proxy

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// TestServiceOfDebian changes the machine that it runs on: package internal/lab/proxies runs it in a machine of the lab.
func TestServiceOfDebian(t *testing.T) {
	if os.Getenv("INFRACTL_VM") == "" {
		t.Fatal("it runs in a machine of the lab alone")
	}
	ctx := context.Background()
	systemctl := func(args ...string) string {
		out, _ := exec.Command("systemctl", args...).CombinedOutput() // its exit code says the same
		return strings.TrimSpace(string(out))
	}
	backend := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer backend.Close()
	p := New(Config{Host: host.New(host.Config{})})
	spec := specFor(DriverCaddy, nil, target("in.example.test", backend.Listener.Addr().String(), true))
	spec.ListenAddresses = []string{"127.0.0.1"}

	before, err := os.ReadFile(caddyFile)
	must(t, err)
	must(t, os.WriteFile(caddyFile, append(before, "# by hand\n"...), 0o644))
	if _, err := p.Plan(ctx, want(spec)); !errs.Is(err, errs.Precondition) {
		t.Errorf("a Caddyfile of somebody's: %v", err)
	}
	must(t, os.WriteFile(caddyFile, before, 0o644))

	pl, err := p.Plan(ctx, want(spec))
	must(t, err)
	snapshot, err := p.Snapshot(ctx, pl)
	must(t, err)
	applyReal(t, p, spec)
	if got := systemctl("is-enabled", "caddy.service"); got != "enabled" {
		t.Errorf("caddy.service is %s", got)
	}
	pid := systemctl("show", "-P", "MainPID", "caddy.service")
	spec.Hosts = append(spec.Hosts, target("two.example.test", backend.Listener.Addr().String(), true))
	applyReal(t, p, spec)
	if now := systemctl("show", "-P", "MainPID", "caddy.service"); now != pid {
		t.Errorf("a change of hosts restarted caddy: %s, then %s", pid, now)
	}
	systemctl("restart", "caddy.service") // as at boot
	must(t, p.Verify(ctx, want(spec)))

	for range 2 {
		must(t, p.Rollback(ctx, snapshot))
		if got := systemctl("is-active", "caddy.service"); got != "inactive" {
			t.Errorf("after the rollback caddy.service is %s", got)
		}
		for _, f := range []string{caddyConf, caddyDropIn, caddyLink, recordFile} {
			if _, err := os.Lstat(f); err == nil {
				t.Errorf("%s is left", f)
			}
		}
	}
	applyReal(t, p, spec)
}
