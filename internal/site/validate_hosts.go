package site

import (
	"net/netip"
	"slices"

	"github.com/infractl/infractl/internal/site/yamltree"
)

func (l *loader) hosts() {
	for _, p := range l.file.Hosts {
		path := yamltree.Join("hosts", p.Key)
		if !l.name(path, "host", p.Key) {
			continue
		}
		h := Host{Name: p.Key, Address: p.Value.Address.Addr, Address6: p.Value.Address6.Addr}
		l.hostAddress(path+"/address", h.Address, true)
		l.hostAddress(path+"/address6", h.Address6, false)
		l.site.Hosts = append(l.site.Hosts, h)
	}
}

func (l *loader) hostAddress(path string, a netip.Addr, v4 bool) {
	if !a.IsValid() {
		return
	}
	if a.Is4() != v4 {
		l.fail(path, "address is IPv4, address6 is IPv6", "%s has the wrong family", a)
		return
	}
	if n := l.networkOf(a); n != nil && !usable(n, a) {
		l.fail(path, "", "address %s is the first or the last one of network %s", a, n.Name)
	}
	l.reachable(path, a)
	l.unique(path, a, nil)
}

// reachable refuses addresses that no other machine can have.
func (l *loader) reachable(path string, a netip.Addr) {
	for _, n := range never() {
		if n.Contains(a) {
			l.fail(path, "", "%s lies in %s: no other machine can have it", a, n)
		}
	}
}

// gateways finds out which networks are outside, and gives every node its main address.
func (l *loader) gateways() {
	s := l.site
	for i := range s.Networks {
		n := &s.Networks[i]
		if !n.Gateway.IsValid() {
			continue
		}
		owner := l.owner(n.Gateway)
		node, ok := s.Node(owner)
		n.Outside = !ok
		if ok && node.Role != RoleRouter {
			l.fail(yamltree.Join("networks", n.Name, "gateway"), "the router is the gateway of inside networks",
				"gateway %s is %s, which is no router", n.Gateway, owner)
		}
	}
	relay := ""
	if r := s.Relay(); r != nil {
		relay = l.firstInside(r)
	}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		inside := l.firstInside(n)
		if inside == "" {
			if len(n.Interfaces) > 0 && !l.failed() {
				hint := "a network whose gateway is none of the nodes is outside; correct the gateway or the address"
				if s.Router() == nil {
					hint = "without a router, leave the network's gateway out"
				}
				l.failKey(yamltree.Join("nodes", n.Name), hint,
					"node %s has no address in an inside network", n.Name)
			}
			continue
		}
		for _, f := range n.Interfaces {
			if f.Network == relay || f.Network == inside && !n.main.IsValid() {
				n.main, n.main6 = f.Address, f.Address6
				if !n.main.IsValid() {
					n.main = f.Address6
				}
			}
		}
	}
	if r := s.Router(); r != nil && relay != "" && !l.failed() && !slices.ContainsFunc(r.Interfaces, func(f Interface) bool { return f.Network == relay }) {
		l.failKey(yamltree.Join("nodes", r.Name), "give it an interface there: the relay manages it",
			"router %s has no address in the relay's network %s", r.Name, relay)
	}
}

// firstInside returns the first inside network of a node.
func (l *loader) firstInside(n *Node) string {
	for _, f := range n.Interfaces {
		if net, ok := l.site.Network(f.Network); ok && !net.Outside {
			return net.Name
		}
	}
	return ""
}

func (l *loader) probes() {
	for _, p := range l.overlay.Probes {
		path := yamltree.Join("probes", p.Key)
		if !isLabel(p.Key) {
			l.fail(path, labelHint, "%q is no name for a probe", p.Key)
			continue
		}
		probe := Probe{Name: p.Key, Network: p.Value.Network, Address: p.Value.Address.Addr}
		if probe.Network == "outside" {
			probe.Network = ""
		}
		if probe.Address.IsValid() {
			l.probeAddress(path, &probe)
		}
		if _, ok := l.site.Node(p.Key); ok {
			l.fail(path, "give it another name", "%s is a node", p.Key)
		}
		l.site.Probes = append(l.site.Probes, probe)
	}
}

func (l *loader) probeAddress(path string, p *Probe) {
	at := path + "/address"
	net := l.networkOf(p.Address)
	switch {
	case p.Network == "" && net != nil && !net.Outside:
		l.fail(at, "name its network", "probe %s is outside, but %s lies in network %s", p.Name, p.Address, net.Name)
	case p.Network != "":
		if named, ok := l.site.Network(p.Network); !ok {
			l.unknownNetwork(path+"/network", p.Network)
		} else if !usable(named, p.Address) {
			l.fail(at, "", "address %s is none that a machine can have in network %s", p.Address, p.Network)
		}
	}
	l.reachable(at, p.Address)
	if _, ok := l.site.Node(l.owner(p.Address)); ok {
		l.fail(at, "", "address %s belongs to %s already", p.Address, l.owner(p.Address))
	}
}

// principals checks that every name means one thing.
func (l *loader) principals() {
	s := l.site
	taken := map[string]string{}
	claim := func(path, kind, name string) {
		if slices.Contains(reserved(), name) {
			l.failKey(path, "choose another name", "%s is a reserved word", name)
			return
		}
		if slices.Contains(roles(), name) && (kind != "node" || !l.onlyOfRole(name)) {
			l.failKey(path, "choose another name", "%s is a role", name)
			return
		}
		if other := taken[name]; other != "" {
			l.failKey(path, "choose another name", "%s is the name of a %s already", name, other)
			return
		}
		taken[name] = kind
	}
	for _, n := range s.Networks {
		claim(yamltree.Join("networks", n.Name), "network", n.Name)
	}
	for _, n := range s.Nodes {
		claim(yamltree.Join("nodes", n.Name), "node", n.Name)
	}
	for _, h := range s.Hosts {
		claim(yamltree.Join("hosts", h.Name), "host", h.Name)
	}
}

// onlyOfRole reports whether the node of that name is the only one with the role of that name: then both mean the same.
func (l *loader) onlyOfRole(name string) bool {
	n, ok := l.site.Node(name)
	if !ok || n.Role != name {
		return false
	}
	return !slices.ContainsFunc(l.site.Nodes, func(o Node) bool { return o.Role == name && o.Name != name })
}
