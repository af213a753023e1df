package site

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/infractl/infractl/internal/site/yamltree"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// TunnelPeer is a machine of a person that may come in through the tunnel.
type TunnelPeer struct {
	// Name is its name, PublicKey its key in base64, Addresses are its addresses in the tunnel.
	Name, PublicKey string
	Addresses       []netip.Addr
}

// Tunnel is WireGuard on the router.
type Tunnel struct {
	// Interface is its interface, Port its UDP port.
	Interface string
	Port      uint16
	// Address is the router's address in the tunnel; its network is where the peers are.
	Address netip.Addr
	// Endpoint is the name or address by which peers reach the router from outside; empty means its outside address.
	Endpoint string
}

// Tunnel returns the tunnel, false for a site without one.
func (s *Site) Tunnel() (Tunnel, bool) { return s.tunnel, s.tunnel.Address.IsValid() }

// router derives what the site's router does beyond being a host, nil for all other nodes.
func (s *Site) router(n *Node, res Resources) *v1.RouterSpec {
	if n.Role != RoleRouter {
		return nil
	}
	spec := &v1.RouterSpec{Platform: n.Platform}
	for _, i := range n.Interfaces {
		net, _ := s.Network(i.Network)
		card := &v1.RouterInterface{Name: i.Name, Network: i.Network, Description: i.Description, Outside: net.Outside}
		for _, a := range validAddrs(i.Address, i.Address6) {
			card.Addresses = append(card.Addresses, net.within(a).String())
		}
		spec.Interfaces = append(spec.Interfaces, card)
		if net.Outside {
			spec.Routes = append(spec.Routes, &v1.RouterRoute{Prefix: "0.0.0.0/0", Via: net.Gateway.String()})
			spec.SourceNat = append(spec.SourceNat, s.sourceNAT(i.Name)...)
			spec.DestinationNat = append(spec.DestinationNat, s.destinationNAT(i.Name)...)
		}
	}
	spec.Wireguard = s.wireguard(res)
	return spec
}

// within returns an address of the network with the network's prefix length.
func (n *Network) within(a netip.Addr) netip.Prefix {
	if a.Is6() {
		return netip.PrefixFrom(a, n.Prefix6.Bits())
	}
	return netip.PrefixFrom(a, n.Prefix.Bits())
}

// sourceNAT lets the inside networks go out under the router's address. IPv6 needs none.
func (s *Site) sourceNAT(card string) []*v1.SourceNat {
	var out []*v1.SourceNat
	for _, n := range s.Networks {
		if !n.Outside && n.Prefix.IsValid() {
			out = append(out, &v1.SourceNat{Description: n.Name + " to the internet", Source: n.Prefix.String(), Interface: card})
		}
	}
	return out
}

// destinationNAT sends what flows let in from the internet to the machine that they name. Each port has one target; the file
// is refused otherwise.
func (s *Site) destinationNAT(card string) []*v1.DestinationNat {
	var out []*v1.DestinationNat
	for i := range s.flows {
		f := &s.flows[i]
		target, ok := s.published(f)
		if !ok {
			continue
		}
		for _, p := range f.Ports {
			out = append(out, &v1.DestinationNat{Description: f.Name, Interface: card, Protocol: p.Proto,
				Ports: &v1.PortRange{First: uint32(p.First), Last: uint32(p.Last)}, Target: target.String(), Flow: f.Name})
		}
	}
	return out
}

// published returns the inside IPv4 address that a flow from the internet goes to.
func (s *Site) published(f *flow) (netip.Addr, bool) {
	if !f.from.internet || f.Implied {
		return netip.Addr{}, false
	}
	var to netip.Addr
	if n, ok := s.Node(f.To); ok && n.Role != RoleRouter {
		to = n.main
	} else if h, ok := s.Host(f.To); ok {
		to = h.Address
	}
	return to, to.Is4() && s.inside(to)
}

// publishedOnce refuses two flows that would send one port of the outside address to two machines.
func (l *loader) publishedOnce() {
	taken := map[string]string{}
	for i := range l.site.flows {
		f := &l.site.flows[i]
		to, ok := l.site.published(f)
		if !ok {
			continue
		}
		for _, p := range f.Ports {
			for port := int(p.First); port <= int(p.Last); port++ {
				key := p.Proto + "/" + strconv.Itoa(port)
				if other := taken[key]; other != "" && other != to.String() {
					l.fail(yamltree.Join("flows", strconv.Itoa(i), "to"), "give one of them another port",
						"port %s from the internet goes to %s already, and cannot go to %s too", p, other, to)
					break
				}
				taken[key] = to.String()
			}
		}
	}
}

// wireguard derives the tunnel, nil for a site without one.
func (s *Site) wireguard(res Resources) *v1.WireguardSpec {
	if !s.tunnel.Address.IsValid() {
		return nil
	}
	net := s.networkOf(s.tunnel.Address)
	spec := &v1.WireguardSpec{Interface: s.tunnel.Interface, Port: uint32(s.tunnel.Port),
		Addresses: []string{net.within(s.tunnel.Address).String()}}
	for _, p := range res.Peers {
		peer := &v1.WireguardPeer{Name: p.Name, PublicKey: p.PublicKey}
		for _, a := range p.Addresses {
			if net.Contains(a) && !s.tunnelTaken(a) {
				peer.AllowedIps = append(peer.AllowedIps, netip.PrefixFrom(a, a.BitLen()).String())
			}
		}
		// A peer whose addresses the site has given to somebody else since is left out: two can't have one.
		if len(peer.AllowedIps) > 0 {
			spec.Peers = append(spec.Peers, peer)
		}
	}
	slices.SortFunc(spec.Peers, func(a, b *v1.WireguardPeer) int { return compareNames(a.Name, b.Name) })
	return spec
}

// tunnelTaken reports whether the site itself has given the tunnel's address to somebody: a node, host or probe.
func (s *Site) tunnelTaken(a netip.Addr) bool {
	return a == s.tunnel.Address || s.ownerName(a) != "" ||
		slices.ContainsFunc(s.Probes, func(p Probe) bool { return p.Address == a })
}

// FreeTunnelAddress returns the first address of the tunnel's network that neither the site nor one of taken has; false when
// there is none.
func (s *Site) FreeTunnelAddress(taken []netip.Addr) (netip.Addr, bool) {
	net := s.networkOf(s.tunnel.Address)
	if net == nil {
		return netip.Addr{}, false
	}
	for a := net.Prefix.Addr().Next(); net.Prefix.Contains(a); a = a.Next() {
		if usable(net, a) && !s.tunnelTaken(a) && !slices.Contains(taken, a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// TunnelAddressFree reports whether a peer may have the address.
func (s *Site) TunnelAddressFree(a netip.Addr, taken []netip.Addr) bool {
	net := s.networkOf(s.tunnel.Address)
	return net != nil && usable(net, a) && net.Contains(a) && !s.tunnelTaken(a) && !slices.Contains(taken, a)
}

func compareNames(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// TunnelEndpoint is how peers reach the router from outside: vpn.endpoint, else the router's outside address, else its main one.
func (s *Site) TunnelEndpoint() string {
	if s.tunnel.Endpoint != "" {
		return s.tunnel.Endpoint
	}
	r := s.Router()
	for _, i := range r.Interfaces {
		if net, ok := s.Network(i.Network); ok && net.Outside && i.Address.IsValid() {
			return i.Address.String()
		}
	}
	return r.main.String()
}
