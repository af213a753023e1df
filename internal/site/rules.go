package site

import (
	"net/netip"
	"slices"
	"strings"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// firewall derives what may pass on one node: incoming rules, then outgoing ones, then those of the router.
func (s *Site) firewall(n *Node) *v1.FirewallSpec {
	spec := &v1.FirewallSpec{DockerHost: n.DockerHost(), Router: n.Role == RoleRouter}
	spec.InsidePrefixes = texts(s.ours())
	b := &rules{s: s, node: n, own: single(n.Addresses()...)}
	if slices.Contains(s.instanceNodes, n.Name) {
		b.pool = []netip.Prefix{s.dolibarr.pool}
		spec.InstancePool = s.dolibarr.pool.String()
		spec.InsidePrefixes = texts(append(s.ours(), b.pool...)) // a customer's container is not the internet
	}
	for _, hook := range []func(*flow){b.input, b.output, b.forward} {
		for i := range s.flows {
			if f := &s.flows[i]; len(f.Ports) > 0 && !f.from.empty() && !f.to.empty() {
				if f.from.instances {
					f = b.seen(f)
				}
				hook(f)
			}
		}
	}
	for i := range s.flows {
		if f := &s.flows[i]; f.from.instances && len(b.pool) > 0 && len(f.Ports) > 0 && !f.to.empty() {
			b.instances(f)
		}
	}
	spec.Rules = b.list
	return spec
}

// ours is everything that is not internet: the inside networks, and the addresses that nodes have elsewhere.
func (s *Site) ours() []netip.Prefix {
	out := s.insidePrefixes()
	for i := range s.Nodes {
		for _, a := range s.Nodes[i].Addresses() {
			if !s.inside(a) {
				out = append(out, single(a)...)
			}
		}
	}
	return out
}

func (s *Site) insidePrefixes() []netip.Prefix {
	var out []netip.Prefix
	for i := range s.Networks {
		if !s.Networks[i].Outside {
			out = append(out, s.Networks[i].prefixes()...)
		}
	}
	return out
}

// rules collects the rules of one node.
type rules struct {
	s    *Site
	node *Node
	own  []netip.Prefix
	list []*v1.FirewallRule
	// pool are the networks of instances, on a node that carries some.
	pool []netip.Prefix
}

// seen is a flow from instances as other machines see it: Docker puts the host's address in place of the container's. The host itself
// gets no such way by it.
func (b *rules) seen(f *flow) *flow {
	out := *f
	carriers := slices.DeleteFunc(slices.Clone(b.s.instanceNodes), func(n string) bool { return n == b.node.Name })
	out.from = b.s.nodeSide(func(n *Node) bool { return slices.Contains(carriers, n.Name) })
	out.from.machines = false
	return &out
}

// instances accepts on a node that carries instances what these may open: to the host itself, or out of it.
func (b *rules) instances(f *flow) {
	from := endpoint(b.pool, false)
	if to := b.mine(&f.to); len(to) > 0 {
		b.add(v1.FirewallHook_FIREWALL_HOOK_INPUT, f, from, endpoint(to, false), nil, false)
	}
	if to := b.others(&f.to); f.to.internet || len(to) > 0 {
		b.add(v1.FirewallHook_FIREWALL_HOOK_FORWARD, f, from, endpoint(to, f.to.internet), f.to.nodes, false)
	}
}

// input accepts what comes to the node's addresses from others.
func (b *rules) input(f *flow) {
	to := b.mine(&f.to)
	from := b.others(&f.from)
	if len(to) > 0 && (f.from.internet || len(from) > 0) {
		b.add(v1.FirewallHook_FIREWALL_HOOK_INPUT, f, endpoint(from, f.from.internet), endpoint(to, false), f.from.nodes, f.to.machines)
	}
	// A flow between machines is also one from a host's own containers to the host: they come in by Docker's bridges, and the
	// rule names the host on both sides.
	if own := b.mine(&f.from); len(to) > 0 && len(own) > 0 && f.from.machines && !f.hostOnly && b.node.DockerHost() {
		b.add(v1.FirewallHook_FIREWALL_HOOK_INPUT, f, endpoint(own, false), endpoint(to, false), nil, false)
	}
}

// output accepts what the node itself sends to others.
func (b *rules) output(f *flow) {
	from := b.mine(&f.from)
	to := b.others(&f.to)
	if len(from) > 0 && (f.to.internet || len(to) > 0) {
		b.add(v1.FirewallHook_FIREWALL_HOOK_OUTPUT, f, endpoint(from, false), endpoint(to, f.to.internet), f.to.nodes, f.from.machines)
	}
}

// mine are the node's addresses on a side. Internet never means a node of ours.
func (b *rules) mine(d *side) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range b.own {
		if slices.ContainsFunc(d.prefixes, func(q netip.Prefix) bool { return q.Contains(p.Addr()) }) {
			out = append(out, p)
		}
	}
	return out
}

// others are the addresses on a side that are not the node's own.
func (b *rules) others(d *side) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(d.prefixes), func(p netip.Prefix) bool { return slices.Contains(b.own, p) })
}

// forward accepts on the router what passes from one network to another. Packets from and to the router itself never pass
// here, and a machine in two networks does not need it.
func (b *rules) forward(f *flow) {
	if b.node.Role != RoleRouter {
		return
	}
	type pair struct {
		from     *v1.Endpoint
		to       []netip.Prefix
		internet bool
	}
	var pairs []pair
	for _, zone := range b.zones() {
		to := b.within(f.to, zone)
		toInternet := f.to.internet && zone == ""
		if len(to) == 0 && !toInternet {
			continue
		}
		from := b.crossing(f.from, zone)
		fromInternet := f.from.internet && zone != ""
		if len(from) == 0 && !fromInternet {
			continue
		}
		p := pair{endpoint(from, fromInternet), to, toInternet}
		at := slices.IndexFunc(pairs, func(q pair) bool { return sameEndpoint(p.from, q.from) && !p.internet && !q.internet })
		if at >= 0 {
			pairs[at].to = append(pairs[at].to, p.to...)
			continue
		}
		pairs = append(pairs, p)
	}
	peers := append(slices.Clone(f.from.nodes), f.to.nodes...)
	for _, p := range pairs {
		b.add(v1.FirewallHook_FIREWALL_HOOK_FORWARD, f, p.from, endpoint(p.to, p.internet), peers, false)
	}
}

// zones are the inside networks, and everything outside as the empty name.
func (b *rules) zones() []string {
	var out []string
	for _, n := range b.s.Networks {
		if !n.Outside {
			out = append(out, n.Name)
		}
	}
	return append(out, "")
}

func (s *Site) zone(a netip.Addr) string {
	if n := s.networkOf(a); n != nil && !n.Outside {
		return n.Name
	}
	return ""
}

// within are the addresses of a side in one zone, without the router's.
func (b *rules) within(d side, zone string) []netip.Prefix {
	return slices.DeleteFunc(b.others(&d), func(p netip.Prefix) bool { return b.s.zone(p.Addr()) != zone })
}

// crossing are the addresses of a side whose packets to the zone pass the router.
func (b *rules) crossing(d side, zone string) []netip.Prefix {
	return slices.DeleteFunc(b.others(&d), func(p netip.Prefix) bool {
		if b.s.zone(p.Addr()) == zone {
			return true
		}
		n := b.s.nodeAt(p.Addr())
		return p.IsSingleIP() && n != nil && slices.ContainsFunc(n.Addresses(), func(a netip.Addr) bool { return b.s.zone(a) == zone })
	})
}

func (b *rules) add(hook v1.FirewallHook, f *flow, from, to *v1.Endpoint, peers []string, machines bool) {
	peers = slices.DeleteFunc(slices.Clone(peers), func(p string) bool { return p == b.node.Name })
	slices.Sort(peers)
	peers = slices.Compact(peers)
	for _, g := range b.groups(f) {
		rule := &v1.FirewallRule{
			Hook: hook, Protocol: g.proto, Ports: g.ports, From: from, To: to, Flow: f.Name, Reason: f.Reason, Peers: peers,
			Containers: machines && b.node.DockerHost() && !f.hostOnly && !g.ssh,
		}
		if !b.merge(rule) {
			b.list = append(b.list, rule)
		}
	}
}

// merge adds the reason to a rule that accepts the same already.
func (b *rules) merge(r *v1.FirewallRule) bool {
	for _, o := range b.list {
		if o.Hook == r.Hook && o.Protocol == r.Protocol && o.Containers == r.Containers &&
			sameEndpoint(o.From, r.From) && sameEndpoint(o.To, r.To) && samePorts(o.Ports, r.Ports) {
			if !strings.Contains(o.Reason, r.Reason) {
				o.Reason += "; " + r.Reason
			}
			return true
		}
	}
	return false
}

type portGroup struct {
	proto string
	ssh   bool
	ports []*v1.PortRange
}

// groups are the ports of a flow by protocol, SSH apart: it never concerns containers.
func (b *rules) groups(f *flow) []portGroup {
	var out []portGroup
	for _, p := range f.Ports {
		isSSH := p.Contains("tcp", b.s.SSH.Port)
		at := slices.IndexFunc(out, func(g portGroup) bool { return g.proto == p.Proto && g.ssh == isSSH })
		if at < 0 {
			out = append(out, portGroup{proto: p.Proto, ssh: isSSH})
			at = len(out) - 1
		}
		out[at].ports = append(out[at].ports, &v1.PortRange{First: uint32(p.First), Last: uint32(p.Last)})
	}
	for _, g := range out {
		slices.SortFunc(g.ports, func(a, b *v1.PortRange) int { return int(a.First) - int(b.First) })
	}
	return out
}

func endpoint(prefixes []netip.Prefix, internet bool) *v1.Endpoint {
	if internet {
		return &v1.Endpoint{Internet: true}
	}
	return &v1.Endpoint{Prefixes: texts(prefixes)}
}

func sameEndpoint(a, b *v1.Endpoint) bool {
	return a.GetInternet() == b.GetInternet() && slices.Equal(a.GetPrefixes(), b.GetPrefixes())
}

func samePorts(a, b []*v1.PortRange) bool {
	return slices.EqualFunc(a, b, func(x, y *v1.PortRange) bool { return x.First == y.First && x.Last == y.Last })
}
