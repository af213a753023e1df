package site

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// side is what a principal means: who is meant, and which addresses they have.
type side struct {
	// internet means every address outside the inside networks that is no node's.
	internet bool
	// prefixes are the addresses, sorted.
	prefixes []netip.Prefix
	// nodes are the nodes among them, in file order.
	nodes []string
	// machines says that the principal names nodes as such, so that their containers are meant too.
	machines bool
	// instances says that the prefixes are the networks of instances: others see the addresses of the hosts that carry them.
	instances bool
}

// side resolves a principal, false when there is none of that name.
func (s *Site) side(principal string) (side, bool) {
	switch principal {
	case "internet":
		return side{internet: true}, true
	case "all":
		return s.nodeSide(func(*Node) bool { return true }), true
	case "instances":
		if !s.dolibarr.managed {
			return side{}, false
		}
		return side{instances: true, prefixes: []netip.Prefix{s.dolibarr.pool}}, true
	}
	if name, ok := strings.CutPrefix(principal, "stack:"); ok {
		return side{}, slices.Contains(s.stacks, name)
	}
	if n, ok := s.Node(principal); ok {
		return s.nodeSide(func(o *Node) bool { return o.Name == n.Name }), true
	}
	if h, ok := s.Host(principal); ok {
		return side{prefixes: single(h.Addresses()...)}, true
	}
	if n, ok := s.Network(principal); ok {
		out := side{prefixes: n.prefixes()}
		for i := range s.Nodes {
			if slices.ContainsFunc(s.Nodes[i].Addresses(), n.Contains) {
				out.nodes = append(out.nodes, s.Nodes[i].Name)
			}
		}
		return out, true
	}
	if slices.Contains(roles(), principal) {
		out := s.nodeSide(func(o *Node) bool { return o.Role == principal })
		return out, len(out.nodes) > 0
	}
	return side{}, false
}

// probeSide is what a probe means; it is no principal of the file.
func probeSide(p *Probe) side { return side{prefixes: single(p.Address)} }

func (s *Site) nodeSide(in func(*Node) bool) side {
	out := side{machines: true}
	for i := range s.Nodes {
		if n := &s.Nodes[i]; in(n) {
			out.nodes = append(out.nodes, n.Name)
			out.prefixes = append(out.prefixes, single(n.Addresses()...)...)
		}
	}
	sortPrefixes(out.prefixes)
	return out
}

// covers reports whether the address belongs to the side.
func (s *Site) covers(d *side, a netip.Addr) bool {
	if d.internet {
		return !s.inside(a) && s.nodeAt(a) == nil && !s.dolibarr.pool.Contains(a)
	}
	return slices.ContainsFunc(d.prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// inside reports whether the address lies in an inside network.
func (s *Site) inside(a netip.Addr) bool {
	n := s.networkOf(a)
	return n != nil && !n.Outside
}

func (s *Site) networkOf(a netip.Addr) *Network {
	for i := range s.Networks {
		if s.Networks[i].Contains(a) {
			return &s.Networks[i]
		}
	}
	return nil
}

// nodeAt returns the node that has the address.
func (s *Site) nodeAt(a netip.Addr) *Node {
	for i := range s.Nodes {
		if slices.Contains(s.Nodes[i].Addresses(), a) {
			return &s.Nodes[i]
		}
	}
	return nil
}

// addressIn returns the address that the node uses towards an address of the network, invalid when it has none there.
func (n *Node) addressIn(network string, v4 bool) netip.Addr {
	for _, i := range n.Interfaces {
		if i.Network != network {
			continue
		}
		if v4 {
			return i.Address
		}
		return i.Address6
	}
	return netip.Addr{}
}

// sourceTowards returns the address that the node's connections to the address come from.
func (s *Site) sourceTowards(n *Node, to netip.Addr) netip.Addr {
	if net := s.networkOf(to); net != nil {
		if a := n.addressIn(net.Name, to.Is4()); a.IsValid() {
			return a
		}
	}
	if n.Role == RoleRouter && !s.inside(to) {
		for _, i := range n.Interfaces {
			if net, ok := s.Network(i.Network); ok && net.Outside && i.Address.IsValid() == to.Is4() {
				return cmp.Or(i.Address, i.Address6)
			}
		}
	}
	if to.Is6() {
		return n.main6
	}
	return n.main
}

func (n *Network) prefixes() []netip.Prefix {
	out := []netip.Prefix{n.Prefix}
	if n.Prefix6.IsValid() {
		out = append(out, n.Prefix6)
	}
	return out
}

func single(list ...netip.Addr) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list))
	for _, a := range list {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	sortPrefixes(out)
	return out
}

func sortPrefixes(list []netip.Prefix) {
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
}

// texts returns the sorted text forms, each once.
func texts(list []netip.Prefix) []string {
	list = slices.Clone(list)
	sortPrefixes(list)
	list = slices.Compact(list)
	out := make([]string, 0, len(list))
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}
