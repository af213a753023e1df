//go:build lab

package dns

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/zone"
	"github.com/infractl/infractl/internal/zone/zonetest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// These tests run as root on a machine of the lab with systemd and bind9, which they change (internal/lab/dns starts them there).
const (
	listen   = "10.99.99.1" // ours, on the loopback interface
	stranger = "198.51.100.5"
	second   = "198.51.100.6"
)

func realProvider(t *testing.T, s server) *Provider {
	t.Helper()
	if os.Getenv("INFRACTL_REAL_BIND") == "" {
		t.Fatal("INFRACTL_REAL_BIND is not set: these tests change the machine's name server")
	}
	for _, a := range []string{listen, stranger, second} {
		out, err := exec.CommandContext(t.Context(), "ip", "address", "replace", a+"/32", "dev", "lo").CombinedOutput()
		if err != nil {
			t.Fatalf("ip address: %v: %s", err, out)
		}
	}
	return New(Config{Host: host.New(host.Config{}), Fetcher: s})
}

func realSpec(zones ...*v1.DnsZone) *v1.DnsSpec {
	return &v1.DnsSpec{ListenAddresses: []string{listen}, Forwarders: []string{"203.0.113.1"}, RecursionFrom: []string{"10.99.99.0/24"},
		ValidateExcept: []string{"corp.lab"}, Zones: zones, TransferTo: []string{second}, TransferKey: &v1.SecretRef{Name: "dns-transfer", Version: "v1"}}
}

// ways are a zone of n customers, and the way back of its server.
func (s server) ways(serial uint32, n int) []*v1.DnsZone {
	var hosts []string
	for i := range n {
		hosts = append(hosts, fmt.Sprintf("customer-%05d", i))
	}
	back := &zone.Zone{Name: "10.0.10.in-addr.arpa", Primary: "srv.corp.lab", Contact: "hostmaster.corp.lab"}
	back.Add(zone.Record{Name: back.Name, Type: "NS", Value: "localhost"}, zone.Record{Name: "10.10.0.10.in-addr.arpa", Type: "PTR", Value: "srv.corp.lab"})
	text := back.Text()
	s.contents[zone.Digest(text)] = text
	return []*v1.DnsZone{{Name: back.Name, Serial: serial, ContentDigest: zone.Digest(text)}, s.corp("", "corp.lab", serial, hosts...)}
}

// from asks bind from an address.
func from(t *testing.T, source string, m *mdns.Msg) *mdns.Msg {
	t.Helper()
	c := mdns.Client{Timeout: 3 * time.Second, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}}
	answer, _, err := c.ExchangeContext(t.Context(), m, zone.Port53(listen))
	if err != nil {
		t.Fatalf("from %s: %v", source, err)
	}
	return answer
}

func question(name string, kind uint16) *mdns.Msg {
	m := new(mdns.Msg)
	m.SetQuestion(name, kind)
	return m
}

func TestRealBind(t *testing.T) {
	s := server{map[string][]byte{}}
	p := realProvider(t, s)
	w := want(realSpec(s.ways(2026112400, 3)...))
	apply(t, p, w)
	again, err := p.Plan(t.Context(), w)
	must(t, err)
	if len(again.Changes) > 0 {
		t.Errorf("the second plan is not empty: %v", again.Changes)
	}
	if a := from(t, listen, question("10.10.0.10.in-addr.arpa.", mdns.TypePTR)); len(a.Answer) != 1 {
		t.Errorf("the way back: %v", a)
	}
	if a := from(t, stranger, question("example.org.", mdns.TypeA)); a.Rcode != mdns.RcodeRefused {
		t.Errorf("a stranger's question is answered: %v", a)
	}
	if a := from(t, stranger, question("srv.corp.lab.", mdns.TypeA)); a.Rcode != mdns.RcodeRefused {
		t.Errorf("a stranger sees an inside name: %v", a)
	}
	version := question("version.bind.", mdns.TypeTXT)
	version.Question[0].Qclass = mdns.ClassCHAOS
	if a := from(t, listen, version); len(a.Answer) != 0 {
		t.Errorf("the version is told: %v", a)
	}
	for name, c := range map[string]struct {
		source string
		key    string
		ok     bool
	}{"second node with the key": {second, "v1", true}, "second node without": {second, "", false}, "stranger with the key": {listen, "v1", false},
		"second node with another key": {second, "v0", false}} {
		if got := transfer(t, c.source, c.key); got != c.ok {
			t.Errorf("transfer, %s: %v, want %v", name, got, c.ok)
		}
	}
	edit(t, p, w)
	refusedQuietly(t, p, s, w)
}

func transfer(t *testing.T, source, key string) bool {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 3 * time.Second}
	conn, err := d.DialContext(t.Context(), "tcp", zone.Port53(listen))
	must(t, err)
	tr := &mdns.Transfer{Conn: &mdns.Conn{Conn: conn}}
	m := new(mdns.Msg)
	m.SetAxfr("corp.lab.")
	if key != "" {
		tr.TsigSecret = map[string]string{transferKey + ".": base64.StdEncoding.EncodeToString([]byte(tsig + key))}
		m.SetTsig(transferKey+".", mdns.HmacSHA256, 300, time.Now().Unix())
	}
	parts, err := tr.In(m, zone.Port53(listen))
	if err != nil {
		return false
	}
	records := 0
	for e := range parts {
		if e.Error != nil {
			return false
		}
		records += len(e.RR)
	}
	return records > 4
}

// edit changes a zone by hand: it shows, and the next apply mends it.
func edit(t *testing.T, p *Provider, w wish) {
	t.Helper()
	file := zoneDir + "/corp.lab.zone"
	text, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, []byte(strings.Replace(string(text), "10.0.20.1", "10.6.6.6", 1)), 0o644))
	pl, err := p.Plan(t.Context(), w)
	must(t, err)
	// The mended zone gets a new serial too: who copied the edited one must see it.
	if len(pl.Changes) != 1 || !strings.Contains(strings.Join(pl.Changes[0].GetBefore(), "\n"), "customer-00000.corp.lab. 3600 IN A 10.6.6.6") {
		t.Errorf("the edit does not show: %v", pl.Changes)
	}
	apply(t, p, w)
	if a := from(t, listen, question("customer-00000.corp.lab.", mdns.TypeA)); len(a.Answer) != 1 || zonetest.Data(a.Answer[0]) != "10.0.20.1" {
		t.Errorf("after the mending: %v", a)
	}
}

// refusedQuietly gives bind a zone that its checker takes and that cannot be read: bind says "queued".
func refusedQuietly(t *testing.T, p *Provider, s server, old wish) {
	t.Helper()
	w := want(realSpec(s.ways(2026112405, 4)...)) // above what the mending made of 2026112400
	pl, err := p.Plan(t.Context(), w)
	must(t, err)
	snapshot, err := p.Snapshot(t.Context(), pl)
	must(t, err)
	p.cfg.Wait = time.Second
	cut := New(Config{Fetcher: s, Wait: time.Second, Host: host.New(host.Config{Runner: spoiling{p.host}})})
	if err := cut.Apply(t.Context(), pl); err == nil || !strings.Contains(err.Error(), "still serves zone") {
		t.Errorf("got %v", err)
	}
	must(t, p.Rollback(context.Background(), snapshot))
	p.cfg.Wait = 10 * time.Second
	must(t, p.Verify(t.Context(), old))
}

// spoiling breaks the zone's file after all checks, before bind reads it.
type spoiling struct{ real *host.Host }

func (r spoiling) Run(ctx context.Context, cmd host.Cmd) (host.Output, error) {
	if cmd.Argv[0] == "rndc" && cmd.Argv[1] == "reconfig" {
		if err := os.WriteFile(zoneDir+"/corp.lab.zone", []byte("corp.lab. IN A 10.0\n"), 0o644); err != nil {
			return host.Output{}, err
		}
	}
	return r.real.RunCmd(ctx, cmd)
}

func TestRealManyNames(t *testing.T) {
	s := server{map[string][]byte{}}
	p := realProvider(t, s)
	apply(t, p, want(realSpec(s.ways(2026112500, 1)...)))
	started := time.Now()
	w := want(realSpec(s.ways(2026112501, 5000)...))
	must(t, p.Stage(t.Context(), w.Spec))
	apply(t, p, w)
	fmt.Printf("FIGURE live_s %.3f\n", time.Since(started).Seconds())
	one := want(realSpec(s.ways(2026112502, 5001)...))
	started = time.Now()
	must(t, p.Stage(t.Context(), one.Spec))
	apply(t, p, one)
	fmt.Printf("FIGURE one_more_s %.3f\n", time.Since(started).Seconds())
	started = time.Now()
	pl, err := p.Plan(t.Context(), one)
	must(t, err)
	if len(pl.Changes) > 0 {
		t.Errorf("the plan is not empty: %v", pl.Changes)
	}
	fmt.Printf("FIGURE noop_plan_ms %.1f\n", float64(time.Since(started).Microseconds())/1000)
}
