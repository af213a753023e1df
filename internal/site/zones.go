package site

import (
	"net/netip"
	"slices"

	"github.com/infractl/infractl/internal/zone"
)

// The views of the name service, where the site has two.
const (
	ViewInside  = "inside"
	ViewOutside = "outside"
)

// AcmeLabel stands before the names whose control is proven to a certificate authority by DNS.
const AcmeLabel = "_acme-challenge"

// Zones returns the zones that the site's name server holds, sorted by view and name; none without a DNS node. Records are complete:
// each address of ours has a name, and each name of it goes back. What an instance has that cannot be a name is left out; package
// instance has refused it.
func (s *Site) Zones(res Resources) []*zone.Zone {
	primary, ok := s.Node(s.DNS.Primary)
	if !ok {
		return nil
	}
	z := &zones{s: s, server: s.full(primary.Name)}
	z.reverse()
	z.domain()
	z.instances(res)
	z.public(res)
	slices.SortFunc(z.all, func(a, b *zone.Zone) int {
		if c := compareNames(a.View, b.View); c != 0 {
			return c
		}
		return compareNames(a.Name, b.Name)
	})
	for _, one := range z.all {
		one.Sort()
	}
	return z.all
}

// full is a name of ours with the domain.
func (s *Site) full(name string) string { return name + "." + s.Domain }

type zones struct {
	s      *Site
	server string // the primary's full name
	all    []*zone.Zone
}

func (z *zones) inside() string {
	if z.s.DNS.Views {
		return ViewInside
	}
	return ""
}

// add begins an inside zone.
func (z *zones) add(name string) *zone.Zone {
	one := &zone.Zone{Name: name, View: z.inside(), Primary: z.server, Contact: "hostmaster." + z.s.Domain}
	for _, node := range z.s.dnsNodes() {
		one.Add(zone.Record{Name: name, Type: "NS", Value: z.s.full(node), Reason: "dns"})
	}
	z.all = append(z.all, one)
	return one
}

// dnsNodes are the nodes with a name server.
func (s *Site) dnsNodes() []string {
	return slices.DeleteFunc([]string{s.DNS.Primary, s.DNS.Secondary}, func(n string) bool { return n == "" })
}

// reverse begins a zone for each inside network, or several.
func (z *zones) reverse() {
	for _, p := range z.s.insidePrefixes() {
		for _, name := range zone.ReverseZones(p) {
			if !slices.ContainsFunc(z.all, func(o *zone.Zone) bool { return o.Name == name }) {
				z.add(name)
			}
		}
	}
}

// machine adds a name with its addresses, and those that are inside their way back.
func (z *zones) machine(to *zone.Zone, name, reason string, addrs ...netip.Addr) {
	for _, a := range validAddrs(addrs...) {
		to.Add(address(name, reason, a))
		back := zone.ReverseName(a)
		for _, r := range z.all {
			if zone.Within(back, r.Name) {
				r.Add(zone.Record{Name: back, Type: "PTR", Value: name, Reason: reason})
			}
		}
	}
}

func address(name, reason string, a netip.Addr) zone.Record {
	kind := "A"
	if a.Is6() {
		kind = "AAAA"
	}
	return zone.Record{Name: name, Type: kind, Value: a.String(), Reason: reason}
}

// domain is the zone of the inside names. A machine's name has its main addresses, those that others use; each further inside network
// of it has a name of its own, NAME-NETWORK. Addresses outside have none: they are nobody's business in here.
func (z *zones) domain() {
	s := z.s
	d := z.add(s.Domain)
	for i := range s.Nodes {
		n := &s.Nodes[i]
		z.machine(d, s.full(n.Name), "node "+n.Name, n.main, n.main6)
		for _, c := range n.Interfaces {
			if net, ok := s.Network(c.Network); ok && !net.Outside {
				further := slices.DeleteFunc(validAddrs(c.Address, c.Address6), func(a netip.Addr) bool { return a == n.main || a == n.main6 })
				z.machine(d, s.full(n.Name+"-"+net.Name), "node "+n.Name, further...)
			}
		}
	}
	if r := s.Router(); r != nil && s.tunnel.Address.IsValid() && s.ownerName(s.tunnel.Address) == "" {
		z.machine(d, s.full(r.Name+"-"+s.networkOf(s.tunnel.Address).Name), "vpn", s.tunnel.Address)
	}
	for i := range s.Hosts {
		h := &s.Hosts[i]
		z.machine(d, s.full(h.Name), "host "+h.Name, h.Addresses()...)
	}
	for _, a := range s.DNS.Aliases {
		d.Add(zone.Record{Name: s.full(a.Name), Type: "CNAME", Value: s.full(a.Target), Reason: "alias of " + a.Target})
	}
	proxy, ok := s.Node(s.proxyNode)
	if !ok {
		return
	}
	for _, t := range s.proxyTargets {
		// A name that is there already is decided by what put it there.
		if zone.Within(t.name, s.Domain) && zone.IsHostName(t.name) && !has(d, t.name) {
			d.Add(zone.Record{Name: t.name, Type: "CNAME", Value: s.full(proxy.Name), Reason: "name of the proxy"})
		}
	}
}

func has(z *zone.Zone, name string) bool {
	return slices.ContainsFunc(z.Records, func(r zone.Record) bool { return r.Name == name })
}

// instances is the zone of the customers' names as they are inside: they lead to the proxy itself, not to the address that the world
// sees.
func (z *zones) instances(res Resources) {
	s := z.s
	proxy, ok := s.Node(s.proxyNode)
	if !ok || s.proxyDomain == "" {
		return
	}
	to := z.add(s.proxyDomain)
	if zone.Within(s.proxyDomain, s.Domain) {
		for _, parent := range z.all {
			if parent.Name == s.Domain && parent != to {
				for _, node := range s.dnsNodes() {
					parent.Add(zone.Record{Name: s.proxyDomain, Type: "NS", Value: s.full(node), Reason: "proxy.domain"})
				}
			}
		}
	}
	for _, n := range s.servedNames(res) {
		if n.name != s.proxyDomain && zone.Within(n.name, s.proxyDomain) {
			for _, a := range validAddrs(proxy.main, proxy.main6) {
				to.Add(address(n.name, n.reason, a))
			}
		}
	}
	if acme, ok := z.acme(z.inside()); ok {
		z.all = append(z.all, acme)
		to.Add(zone.Record{Name: acme.Name, Type: "NS", Value: acme.Primary, Reason: "dns.acme"}) // what the zone says of itself, in both views
	}
}

type servedName struct{ name, reason string }

// servedNames are the names that the proxy answers to and that are none of the inside domain, sorted.
func (s *Site) servedNames(res Resources) []servedName {
	var out []servedName
	add := func(name, reason string) {
		if zone.IsHostName(name) && !zone.Within(name, s.Domain) {
			out = append(out, servedName{name, reason})
		}
	}
	for _, t := range s.proxyTargets {
		add(t.name, "name of the proxy")
	}
	for i := range res.Instances {
		n := &res.Instances[i]
		if !n.shown() {
			continue
		}
		for _, d := range s.InstanceDomains(n) {
			add(d, "instance "+n.Name)
		}
	}
	slices.SortStableFunc(out, func(a, b servedName) int { return compareNames(a.name, b.name) })
	return slices.CompactFunc(out, func(a, b servedName) bool { return a.name == b.name })
}
