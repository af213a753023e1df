//go:build lab

package dns

import (
	"encoding/base64"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/infractl/infractl/internal/zone"
	"github.com/infractl/infractl/internal/zone/zonetest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestRealViews(t *testing.T) {
	s := server{map[string][]byte{}}
	p := realProvider(t, s)
	const acme = "_acme-challenge.erp.corp.example"
	spec := realSpec(s.corp(inside, "corp.lab", 2026112600, "a"), s.dynamic(inside, acme), s.corp(outside, "corp.example", 2026112600, "www"), s.dynamic(outside, acme))
	spec.TransferTo, spec.TransferKey = nil, nil
	spec.Views = []*v1.DnsView{{Name: inside, Clients: []string{"10.99.99.0/24"}, Recursion: true}, {Name: outside}}
	w := want(spec)
	apply(t, p, w)
	rcode := func(source, name string, kind uint16) int {
		a := from(t, source, question(name, kind))
		if a.Rcode == mdns.RcodeSuccess && len(a.Answer) == 0 {
			return mdns.RcodeNXRrset
		}
		return a.Rcode
	}
	for _, c := range []struct {
		source, name string
		kind         uint16
		want         int
	}{
		{listen, "a.corp.lab.", mdns.TypeA, mdns.RcodeSuccess},
		{stranger, "a.corp.lab.", mdns.TypeA, mdns.RcodeRefused},
		{stranger, "1.20.0.10.in-addr.arpa.", mdns.TypePTR, mdns.RcodeRefused},
		{stranger, "www.corp.example.", mdns.TypeA, mdns.RcodeSuccess},
		{stranger, "example.org.", mdns.TypeA, mdns.RcodeRefused},
		{stranger, acme + ".", mdns.TypeTXT, mdns.RcodeNXRrset},
	} {
		if got := rcode(c.source, c.name, c.kind); got != c.want {
			t.Errorf("%s asks for %s: %s, want %s", c.source, c.name, mdns.RcodeToString[got], mdns.RcodeToString[c.want])
		}
	}
	// What is changed inside with the key, the world sees; without the key nothing changes, and nothing but TXT.
	for _, u := range []struct {
		line, key string
		want      int
	}{
		{acme + ". 60 IN TXT proof", "v1", mdns.RcodeSuccess},
		{acme + ". 60 IN TXT other", "", mdns.RcodeRefused},
		{"x." + acme + ". 60 IN A 10.6.6.6", "v1", mdns.RcodeRefused},
	} {
		if got := changeByKey(t, acme, u.line, u.key); got != u.want {
			t.Errorf("%s: %s, want %s", u.line, mdns.RcodeToString[got], mdns.RcodeToString[u.want])
		}
	}
	if a := from(t, stranger, question(acme+".", mdns.TypeTXT)); len(a.Answer) != 1 || zonetest.Data(a.Answer[0]) != "proof" {
		t.Errorf("the world sees %v", a)
	}
	pl, err := p.Plan(t.Context(), w)
	must(t, err)
	if len(pl.Changes) > 0 {
		t.Errorf("a change by RFC 2136 is no drift: %v", pl.Changes)
	}
}

// dynamic is a zone that changes by RFC 2136.
func (s server) dynamic(view, name string) *v1.DnsZone {
	z := &zone.Zone{Name: name, Primary: "ns1.corp.example", Contact: "hostmaster.corp.example"}
	z.Add(zone.Record{Name: name, Type: "NS", Value: "ns1.corp.example"})
	text := z.Text()
	s.contents[zone.Digest(text)] = text
	return &v1.DnsZone{Name: name, View: view, Serial: 1, ContentDigest: zone.Digest(text), Dynamic: true, UpdateKey: &v1.SecretRef{Name: "acme", Version: "v1"}}
}

func changeByKey(t *testing.T, name, line, key string) int {
	t.Helper()
	m := new(mdns.Msg)
	m.SetUpdate(name + ".")
	rr, err := mdns.NewRR(line)
	must(t, err)
	m.Insert([]mdns.RR{rr})
	c := mdns.Client{Net: "tcp", Timeout: 3 * time.Second}
	if key != "" {
		c.TsigSecret = map[string]string{updateKey + ".": base64.StdEncoding.EncodeToString([]byte(tsig + key))}
		m.SetTsig(updateKey+".", mdns.HmacSHA256, 300, time.Now().Unix())
	}
	a, _, err := c.ExchangeContext(t.Context(), m, loopback)
	must(t, err)
	return a.Rcode
}
