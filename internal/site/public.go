package site

import (
	"net/netip"

	"github.com/infractl/infractl/internal/zone"
)

// PublicAddress is the address under which the world reaches the site: that of the file, else the router's outside one; invalid
// without either.
func (s *Site) PublicAddress() netip.Addr {
	if s.publicAddress.IsValid() {
		return s.publicAddress
	}
	if r := s.Router(); r != nil {
		for _, i := range r.Interfaces {
			if net, ok := s.Network(i.Network); ok && net.Outside && i.Address.IsValid() {
				return i.Address
			}
		}
	}
	return netip.Addr{}
}

// PublicRecords are the records that the world must find: what to set at the registrar, or what the outside view answers. Names of the
// inside domain are never among them.
func (s *Site) PublicRecords(res Resources) []zone.Record {
	to := s.PublicAddress()
	if !to.IsValid() {
		return nil
	}
	var out []zone.Record
	for _, n := range s.servedNames(res) {
		if !zone.Within(n.name, s.Domain) {
			out = append(out, address(n.name, n.reason, to))
		}
	}
	if s.DNS.AcmeKey != "" && s.PublicDomain != "" && !zone.Within(s.proxyDomain, s.Domain) {
		out = append(out, zone.Record{Name: AcmeLabel + "." + s.proxyDomain, Type: "NS", Value: s.publicServer(), Reason: "dns.acme"},
			address(s.publicServer(), "dns.acme", to))
	}
	return out
}

// publicServer is the name server's name for the world.
func (s *Site) publicServer() string { return "ns1." + s.PublicDomain }

// public is the zone that the world is answered from, where the site asks for it.
func (z *zones) public(res Resources) {
	s := z.s
	if !s.DNS.Views || s.PublicDomain == "" || !s.PublicAddress().IsValid() {
		return
	}
	out := &zone.Zone{Name: s.PublicDomain, View: ViewOutside, Primary: s.publicServer(), Contact: "hostmaster." + s.PublicDomain}
	out.Add(zone.Record{Name: s.PublicDomain, Type: "NS", Value: s.publicServer(), Reason: "dns.views"},
		address(s.publicServer(), "dns.views", s.PublicAddress()))
	for _, r := range s.PublicRecords(res) {
		if zone.Within(r.Name, s.PublicDomain) {
			out.Add(r)
		}
	}
	z.all = append(z.all, out)
	if acme, ok := z.acme(ViewOutside); ok {
		z.all = append(z.all, acme)
	}
}

// acme is the small zone for proofs to a certificate authority. In two views it is one: the outside sees the inside's.
func (z *zones) acme(view string) (*zone.Zone, bool) {
	s := z.s
	if s.DNS.AcmeKey == "" || s.proxyDomain == "" {
		return nil, false
	}
	out := &zone.Zone{Name: AcmeLabel + "." + s.proxyDomain, View: view, Primary: z.server, Contact: "hostmaster." + s.Domain, Dynamic: true}
	if s.DNS.Views && s.PublicDomain != "" {
		out.Primary, out.Contact = s.publicServer(), "hostmaster."+s.PublicDomain
	}
	out.Add(zone.Record{Name: out.Name, Type: "NS", Value: out.Primary, Reason: "dns.acme"})
	return out, true
}
