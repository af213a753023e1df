package site

import (
	"net/netip"
	"slices"
)

// Published returns the inside address that a port of the router's outside address leads to, false where it leads nowhere.
func (s *Site) Published(proto string, port uint16) (netip.Addr, bool) {
	for i := range s.flows {
		to, ok := s.published(&s.flows[i])
		if ok && slices.ContainsFunc(s.flows[i].Ports, func(p Port) bool {
			return p.Proto == proto && p.First <= port && port <= p.Last
		}) {
			return to, true
		}
	}
	return netip.Addr{}, false
}

// OutsideAddresses returns the node's IPv4 addresses in networks that lead out of the site.
func (s *Site) OutsideAddresses(n *Node) []netip.Addr {
	var out []netip.Addr
	for _, i := range n.Interfaces {
		if net, ok := s.Network(i.Network); ok && net.Outside && i.Address.Is4() {
			out = append(out, i.Address)
		}
	}
	return out
}
