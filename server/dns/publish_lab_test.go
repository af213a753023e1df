//go:build lab

package dns

import (
	"context"
	"encoding/base64"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	mdns "github.com/miekg/dns"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/zone"
)

// registrarConf is the bind of a registrar: the public domain, whose addresses below erp.corp.example the key may set, and nothing else.
const registrarConf = `key "infractl" { algorithm hmac-sha256; secret "KEY"; };
options { directory "DIR"; pid-file "DIR/named.pid"; session-keyfile none; listen-on port PORT { 127.0.0.1; }; listen-on-v6 { none; };
 recursion no; allow-query { any; }; dnssec-validation no; };
controls { };
zone "corp.example" { type primary; file "DIR/corp.zone"; update-policy { grant infractl subdomain erp.corp.example. A AAAA; }; };
`

const registrarZone = `$TTL 60
@ IN SOA ns.registrar.example. admin.registrar.example. 1 3600 600 86400 60
@ IN NS ns.registrar.example.
www IN A 192.0.2.8
a.erp IN A 192.0.2.1
a.erp IN TXT "kept"
`

// realRegistrar starts bind as a program of its own, on a free port, and returns the port. It runs on a machine of the lab with bind9
// (internal/lab/dns starts the test there), and leaves that machine's own name server alone.
func realRegistrar(t *testing.T, key string) string {
	t.Helper()
	if os.Getenv("INFRACTL_REAL_BIND") == "" {
		t.Fatal("INFRACTL_REAL_BIND is not set: this test needs a machine with bind9")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"named.conf": strings.NewReplacer("KEY", key, "DIR", dir, "PORT", port).Replace(registrarConf), "corp.zone": registrarZone} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var said strings.Builder
	cmd := exec.Command("/usr/sbin/named", "-g", "-n", "1", "-c", filepath.Join(dir, "named.conf"))
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("named:\n%s", &said)
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := zone.Serial(t.Context(), zone.OverNetwork, net.JoinHostPort("127.0.0.1", port), "corp.example"); err == nil {
			return port
		}
		if time.Now().After(deadline) {
			t.Fatal("named does not serve the zone")
		}
	}
}

// TestRealBindTakesSignedUpdates lets a bind decide: what is signed with its key and allowed by its policy is taken, and nothing else is.
func TestRealBindTakesSignedUpdates(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte("a secret of the registrar's, thirty-two"))
	port := realRegistrar(t, key)
	s := loadSite(t, "domain: erp.corp.example}", "domain: erp.corp.example, dns: {provider: rfc2136, server: 127.0.0.1, key: {secret: registrar}}}")
	instances := []site.Instance{{Mode: running, Name: "a"}, {Mode: running, Name: "b", Domains: []string{"erp.customer.example"}}}
	records := newRig(t).store
	publish := func(secret string, clk clock.Clock) (int, error) {
		return NewPublisher(PublisherConfig{Sites: fixed{s, site.Resources{Instances: instances}}, Secrets: oneSecret(secret), Store: records, Clock: clk,
			Log: hclog.NewNullLogger(), Port: port}).Publish(t.Context())
	}
	served := func(name, kind string) string {
		got := zone.AskAll(t.Context(), zone.OverNetwork, net.JoinHostPort("127.0.0.1", port), []zone.Question{{Name: name, Type: kind}}, false)[0]
		if got.Err != nil {
			t.Errorf("%s %s: %v", name, kind, got.Err)
		}
		return strings.Join(got.Values, " ")
	}
	for outcome, c := range map[string]struct {
		secret string
		clock  clock.Clock
	}{
		"another key":        {"infractl:" + base64.StdEncoding.EncodeToString([]byte("no")), clock.System{}},
		"another key's name": {"somebody:" + key, clock.System{}},
		"a wrong clock":      {"infractl:" + key, clock.NewFake(time.Now().Add(-time.Hour))},
	} {
		if n, err := publish(c.secret, c.clock); err == nil || n != 0 || strings.Contains(err.Error(), key) {
			t.Errorf("%s: %d names, %v", outcome, n, err)
		}
	}
	if got := served("a.erp.corp.example", "A"); got != "192.0.2.1" {
		t.Errorf("refused updates changed a name to %q", got)
	}
	if n, err := publish("infractl:"+key, clock.System{}); n != 2 || err != nil {
		t.Fatalf("%d names, %v", n, err)
	}
	for name, want := range map[string]string{"a.erp.corp.example": "203.0.113.80", "b.erp.corp.example": "203.0.113.80", "www.corp.example": "192.0.2.8"} {
		if got := served(name, "A"); got != want {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
	if got := served("a.erp.corp.example", "TXT"); got != "kept" {
		t.Errorf("a record of another type is %q", got)
	}
	if n, err := publish("infractl:"+key, clock.System{}); n != 0 || err != nil {
		t.Errorf("the second time: %d names, %v", n, err)
	}
	instances = append(instances, site.Instance{Mode: running, Name: "c"})
	if n, err := publish("infractl:"+key, clock.System{}); n != 1 || err != nil {
		t.Errorf("one more instance: %d names, %v", n, err)
	}
	// One that goes is removed, and one that somebody else has changed since is left alone.
	if err := update(t, port, key, "b.erp.corp.example. 60 IN A 192.0.2.77"); err != nil {
		t.Fatal(err)
	}
	instances = instances[:1]
	if n, err := publish("infractl:"+key, clock.System{}); n != 1 || err != nil {
		t.Errorf("two instances less: %d names, %v", n, err)
	}
	for name, want := range map[string]string{"a.erp.corp.example": "203.0.113.80", "b.erp.corp.example": "192.0.2.77 203.0.113.80", "c.erp.corp.example": ""} {
		if got := served(name, "A"); got != want {
			t.Errorf("afterwards %s is %q, want %q", name, got, want)
		}
	}
	if err := update(t, port, key, "www.corp.example. 60 IN A 203.0.113.80"); err == nil {
		t.Error("the trial's key may set what its policy does not name: the trial proves less than it says")
	}
}

// update sends one record as the publisher does.
func update(t *testing.T, port, key, record string) error {
	t.Helper()
	rr, err := mdns.NewRR(record)
	if err != nil {
		t.Fatal(err)
	}
	m := new(mdns.Msg)
	m.SetUpdate("corp.example.")
	m.Insert([]mdns.RR{rr})
	m.SetTsig("infractl.", mdns.HmacSHA256, 300, time.Now().Unix())
	answer, err := sendUpdate(context.Background(), m, net.JoinHostPort("127.0.0.1", port), map[string]string{"infractl.": key})
	if err == nil && answer.Rcode != mdns.RcodeSuccess {
		err = errs.New(errs.Denied, "%s", mdns.RcodeToString[answer.Rcode])
	}
	return err
}
