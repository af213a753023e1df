package sitetest

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
)

// machineEdits are those that change machines, addresses and networks.
func machineEdits() []func(*editor) {
	return []func(*editor){
		(*editor).moveNode, (*editor).addNode, (*editor).addNode, (*editor).removeNode, (*editor).renameNode, (*editor).moveHost,
		(*editor).addHost, (*editor).removeHost, (*editor).addNetwork, (*editor).addLeg, (*editor).dropGateway,
		(*editor).narrowNetwork, (*editor).addIPv6,
	}
}

// address draws an address, mostly in one of the networks.
func (e *editor) address() sitefile.Addr {
	if len(e.file.Networks) == 0 || e.chance(8) {
		return sitefile.Addr{Addr: netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + e.IntN(254))})}
	}
	return e.addressIn(pick(e, e.file.Networks).Value.CIDR.Prefix)
}

func (e *editor) addressIn(p netip.Prefix) sitefile.Addr {
	a := p.Addr().As4()
	a[3] += byte(1 + e.IntN(253))
	return sitefile.Addr{Addr: netip.AddrFrom4(a)}
}

func (e *editor) node() *yamltree.Pair[sitefile.Node] {
	return &e.file.Nodes[e.IntN(len(e.file.Nodes))]
}

func (e *editor) moveNode() {
	if n := &e.node().Value; n.Address.IsValid() {
		n.Address = e.address()
	}
}

func (e *editor) addNode() {
	e.file.Nodes = append(e.file.Nodes, yamltree.Pair[sitefile.Node]{
		Key: fmt.Sprintf("node-%d", e.IntN(10000)),
		Value: sitefile.Node{
			Role: pick(e, []string{"services", "supervision", "prod", "preprod"}), Address: e.address(),
		},
	})
}

func (e *editor) removeNode() {
	name := e.node().Key
	e.file.Nodes = slices.DeleteFunc(e.file.Nodes, func(p yamltree.Pair[sitefile.Node]) bool { return p.Key == name })
	f := e.file
	f.Flows = slices.DeleteFunc(f.Flows, func(x sitefile.Flow) bool { return x.From == name || x.To == name })
	f.Proxy, f.Patching, f.Stacks, f.Dolibarr = nil, nil, nil, nil
	if f.Monitoring != nil && f.Monitoring.Node == name {
		f.Monitoring = nil
	}
	if f.DNS != nil && e.chance(2) {
		f.DNS = nil
	}
}

// renameNode gives a node another name, in flows too. Other sections that name it are dropped.
func (e *editor) renameNode() {
	n := e.node()
	old, now := n.Key, fmt.Sprintf("renamed-%d", e.IntN(10000))
	n.Key = now
	f := e.file
	for i := range f.Flows {
		if f.Flows[i].From == old {
			f.Flows[i].From = now
		}
		if f.Flows[i].To == old {
			f.Flows[i].To = now
		}
	}
	f.Proxy, f.Patching, f.Stacks, f.Dolibarr, f.Monitoring, f.DNS = nil, nil, nil, nil, nil, nil
}

func (e *editor) moveHost() {
	if len(e.file.Hosts) > 0 {
		e.file.Hosts[e.IntN(len(e.file.Hosts))].Value.Address = e.address()
	}
}

func (e *editor) addHost() {
	e.file.Hosts = append(e.file.Hosts, yamltree.Pair[sitefile.Host]{
		Key: fmt.Sprintf("host-%d", e.IntN(10000)), Value: sitefile.Host{Address: e.address()},
	})
}

func (e *editor) removeHost() {
	if len(e.file.Hosts) == 0 {
		return
	}
	name := pick(e, e.file.Hosts).Key
	e.file.Hosts = slices.DeleteFunc(e.file.Hosts, func(p yamltree.Pair[sitefile.Host]) bool { return p.Key == name })
	e.file.Flows = slices.DeleteFunc(e.file.Flows, func(x sitefile.Flow) bool { return x.From == name || x.To == name })
	e.file.Backup = nil
}

// router returns the router's interfaces, nil where it has none.
func (e *editor) router() *sitefile.Node {
	for i := range e.file.Nodes {
		if n := &e.file.Nodes[i].Value; n.Role == "router" && len(n.Interfaces) > 0 {
			return n
		}
	}
	return nil
}

// addNetwork adds an inside network behind the router.
func (e *editor) addNetwork() {
	r := e.router()
	if r == nil {
		return
	}
	i := e.IntN(200)
	name := fmt.Sprintf("dmz-%d", i)
	prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 7, byte(i), 0}), 24)
	gateway := sitefile.Addr{Addr: prefix.Addr().Next()}
	e.file.Networks = append(e.file.Networks, yamltree.Pair[sitefile.Network]{
		Key: name, Value: sitefile.Network{CIDR: sitefile.Prefix{Prefix: prefix}, Gateway: gateway},
	})
	r.Interfaces = append(r.Interfaces, yamltree.Pair[sitefile.Interface]{
		Key: fmt.Sprintf("eth%d", 10+i), Value: sitefile.Interface{Network: name, Address: gateway},
	})
}

// addLeg gives a node an interface in a second network.
func (e *editor) addLeg() {
	n := &e.node().Value
	net := pick(e, e.file.Networks)
	if n.Address.IsValid() {
		for _, o := range e.file.Networks {
			if o.Value.CIDR.Contains(n.Address.Addr) {
				n.Interfaces = yamltree.Map[sitefile.Interface]{{Key: "eth0", Value: sitefile.Interface{Network: o.Key, Address: n.Address}}}
				n.Address = sitefile.Addr{}
			}
		}
	}
	n.Interfaces = append(n.Interfaces, yamltree.Pair[sitefile.Interface]{
		Key: fmt.Sprintf("leg%d", e.IntN(100)), Value: sitefile.Interface{Network: net.Key, Address: e.addressIn(net.Value.CIDR.Prefix)},
	})
}

// dropGateway makes an outside network an inside one.
func (e *editor) dropGateway() {
	e.file.Networks[e.IntN(len(e.file.Networks))].Value.Gateway = sitefile.Addr{}
}

func (e *editor) narrowNetwork() {
	n := &e.file.Networks[e.IntN(len(e.file.Networks))].Value
	if p := n.CIDR.Prefix; p.Bits() < 28 {
		n.CIDR.Prefix = netip.PrefixFrom(p.Addr(), p.Bits()+1)
	}
}

// addIPv6 gives every network and every node IPv6 addresses.
func (e *editor) addIPv6() {
	f := e.file
	number := 0
	address := func(a netip.Addr) sitefile.Addr {
		for i, n := range f.Networks {
			if n.Value.CIDR.Contains(a) {
				number++
				return sitefile.Addr{Addr: netip.AddrFrom16([16]byte{0: 0xfd, 3: byte(i), 15: byte(number)})}
			}
		}
		return sitefile.Addr{}
	}
	for i := range f.Networks {
		f.Networks[i].Value.CIDR6.Prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 3: byte(i)}), 64)
	}
	for i := range f.Nodes {
		n := &f.Nodes[i].Value
		if e.chance(5) {
			continue // not every machine has IPv6
		}
		if n.Address.IsValid() {
			n.Address6 = address(n.Address.Addr)
		}
		for j := range n.Interfaces {
			n.Interfaces[j].Value.Address6 = address(n.Interfaces[j].Value.Address.Addr)
		}
	}
}
