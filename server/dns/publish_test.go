package dns

import (
	"context"
	"encoding/base64"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	mdns "github.com/miekg/dns"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/secret"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/zone/zonetest"
)

// registrar is a name server that takes signed updates.
type registrar struct {
	mu     sync.Mutex
	served map[string][]mdns.RR
	port   string
}

func newRegistrar(t *testing.T, key string) *registrar {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	udp, err := net.ListenPacket("udp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	r := &registrar{served: map[string][]mdns.RR{}, port: port}
	for _, s := range []*mdns.Server{{Listener: l}, {PacketConn: udp}} {
		s.Handler, s.TsigSecret = r, map[string]string{"infractl.": key}
		// By itself the library refuses updates.
		s.MsgAcceptFunc = func(mdns.Header) mdns.MsgAcceptAction { return mdns.MsgAccept }
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return r
}

func (r *registrar) ServeDNS(w mdns.ResponseWriter, m *mdns.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := new(mdns.Msg)
	a.SetReply(m)
	if m.Opcode != mdns.OpcodeUpdate {
		a.Answer = r.served[m.Question[0].Name+mdns.TypeToString[m.Question[0].Qtype]]
	} else if m.IsTsig() == nil || w.TsigStatus() != nil {
		a.Rcode = mdns.RcodeNotAuth
	} else if !r.same(m.Answer) {
		a.Rcode = mdns.RcodeNXRrset
		a.SetTsig("infractl.", mdns.HmacSHA256, 300, time.Now().Unix())
	} else {
		for _, rr := range m.Ns {
			id := rr.Header().Name + mdns.TypeToString[rr.Header().Rrtype]
			if rr.Header().Class == mdns.ClassANY {
				delete(r.served, id)
			} else {
				r.served[id] = append(r.served[id], rr)
			}
		}
		a.SetTsig("infractl.", mdns.HmacSHA256, 300, time.Now().Unix())
	}
	_ = w.WriteMsg(a)
}

// same reports whether the records that an update asks for first are there, and no others of their names.
func (r *registrar) same(wanted []mdns.RR) bool {
	for _, w := range wanted {
		have := r.served[w.Header().Name+mdns.TypeToString[w.Header().Rrtype]]
		if len(have) != len(wanted) || !slices.ContainsFunc(have, func(h mdns.RR) bool { return zonetest.Data(h) == zonetest.Data(w) }) {
			return false
		}
	}
	return true
}

type oneSecret string

func (o oneSecret) Own(context.Context, string) (secret.Value, error) {
	return secret.New([]byte(o)), nil
}

func TestPublicRecordsAreSetBySignedUpdates(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte("marker-of-the-update-key"))
	r := newRegistrar(t, key)
	s := loadSite(t, "domain: erp.corp.example}", "domain: erp.corp.example, dns: {provider: rfc2136, server: 127.0.0.1, key: {secret: registrar}}}")
	records := newRig(t).store
	f := fixed{s, site.Resources{Instances: []site.Instance{{Mode: running, Name: "a"}, {Mode: running, Name: "b", Domains: []string{"erp.customer.example"}}}}}
	publisher := func(secret string) *Publisher {
		return NewPublisher(PublisherConfig{Sites: f, Secrets: oneSecret(secret), Store: records, Clock: clock.System{}, Log: hclog.NewNullLogger(), Port: r.port})
	}
	for name, wrong := range map[string]string{"another key": "infractl:" + base64.StdEncoding.EncodeToString([]byte("no")), "no key": "infractl"} {
		if n, err := publisher(wrong).Publish(t.Context()); err == nil || n != 0 || strings.Contains(err.Error(), "marker") {
			t.Errorf("%s: %d names, %v", name, n, err)
		}
	}
	rr, err := mdns.NewRR("a.erp.corp.example. 60 IN A 192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.served["a.erp.corp.example.A"] = []mdns.RR{rr}
	r.mu.Unlock()
	p := publisher("infractl:" + key)
	if n, err := p.Publish(t.Context()); n != 2 || err != nil {
		t.Fatalf("%d names, %v", n, err)
	}
	r.mu.Lock()
	for _, name := range []string{"a.erp.corp.example.A", "b.erp.corp.example.A"} {
		if got := r.served[name]; len(got) != 1 || zonetest.Data(got[0]) != "203.0.113.80" {
			t.Errorf("%s is %v", name, got)
		}
	}
	r.mu.Unlock()
	if n, err := p.Publish(t.Context()); n != 0 || err != nil {
		t.Errorf("the second time %d names, %v", n, err)
	}
	r.mu.Lock()
	if len(r.served) != 2 {
		t.Errorf("a customer's own domain was set: %v", r.served)
	}
	r.mu.Unlock()
	// What it has set goes when nobody wants it any more; what somebody else has changed since, or made, stays.
	other, err := mdns.NewRR("b.erp.corp.example. 60 IN A 192.0.2.9")
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.served["b.erp.corp.example.A"], r.served["www.corp.example.A"] = []mdns.RR{other}, []mdns.RR{other}
	r.mu.Unlock()
	whole := f.site
	f.site = loadSite(t, "domain: erp.corp.example}", "domain: other.corp.example, dns: {provider: rfc2136, server: 127.0.0.1, key: {secret: registrar}}}")
	if n, err := publisher("infractl:" + key).Retract(t.Context()); n != 0 || err != nil {
		t.Errorf("instances that are there, with another site file: %d names, %v", n, err)
	}
	f.site, f.res = whole, site.Resources{}
	if n, err := publisher("infractl").Retract(t.Context()); n != 0 || err == nil {
		t.Errorf("without a key: %d names, %v", n, err)
	}
	if n, err := publisher("infractl:" + key).Retract(t.Context()); n != 1 || err != nil {
		t.Errorf("two names less: %d names, %v", n, err)
	}
	if n, err := publisher("infractl:" + key).Publish(t.Context()); n != 0 || err != nil {
		t.Errorf("once more: %d names, %v", n, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if left := slices.Sorted(maps.Keys(r.served)); !slices.Equal(left, []string{"b.erp.corp.example.A", "www.corp.example.A"}) {
		t.Errorf("there is left %v", left)
	}
}
