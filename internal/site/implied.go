package site

import (
	"net/netip"
	"slices"
	"strings"
)

// implied collects the flows that roles bring.
type implied struct {
	s     *Site
	flows []flow
}

func tcp(ports ...uint16) []Port { return ports1("tcp", ports) }

func udp(ports ...uint16) []Port { return ports1("udp", ports) }

func ports1(proto string, list []uint16) []Port {
	out := make([]Port, 0, len(list))
	for _, p := range list {
		out = append(out, Port{proto, p, p})
	}
	return out
}

// add adds a flow between two principals that exist.
func (m *implied) add(name, from, to string, ports []Port, reason string) *flow {
	f := flow{Flow: Flow{
		Name: "implied." + name, From: from, To: to, Ports: ports, Implied: true, Reason: reason,
	}}
	f.from = m.s.principal(from)
	f.to = m.s.principal(to)
	m.flows = append(m.flows, f)
	return &m.flows[len(m.flows)-1]
}

// own adds a flow of infractl itself, which concerns hosts and not their containers.
func (m *implied) own(name, from, to string, ports []Port, reason string) {
	m.add(name, from, to, ports, reason).hostOnly = true
}

// watches adds a flow that Prometheus uses, from its container as well; at the other end it leads to the host, not to containers.
func (m *implied) watches(name, from, to string, ports []Port, reason string) {
	m.add(name, from, to, ports, reason).to.machines = false
}

// principal resolves what a flow names, probes included; an unknown name is nowhere.
func (s *Site) principal(name string) side {
	if probe, ok := strings.CutPrefix(name, "probe:"); ok {
		p, ok := s.Probe(probe)
		if !ok {
			return side{}
		}
		return probeSide(p)
	}
	result, _ := s.side(name)
	return result
}

// impliedFlows returns the flows that roles and sections bring, in the order of the design's table.
func (s *Site) impliedFlows() []flow {
	m := &implied{s: s}
	m.management()
	m.names()
	m.time()
	m.add("packages", "all", "internet", tcp(80, 443), "nodes fetch packages and container images")
	m.supervision()
	m.proxy()
	m.backup()
	m.instances()
	for i := range s.Probes {
		p := &s.Probes[i]
		m.own("probe-"+p.Name, "probe:"+p.Name, s.Server.Nodes[0], tcp(s.Server.Port, s.Server.EnrolPort),
			"a probe needs a session of its own")
	}
	m.add("always", "all", "all", nil,
		"loopback, replies on established connections, ICMP and IPv6 neighbour discovery always pass")
	return m.flows
}

func (m *implied) management() {
	s := m.s
	server := s.Server.Nodes[0]
	m.own("session", "all", server, tcp(s.Server.Port), "every node keeps a session with the server")
	for _, n := range s.Networks {
		if !n.Outside {
			m.own("enrol-"+n.Name, n.Name, server, tcp(s.Server.EnrolPort), "new machines in "+n.Name+" enrol with the server")
		}
	}
	if vpn := s.vpnNetwork(); vpn != "" {
		m.own("operators", vpn, server, tcp(s.Server.Port), "operators reach the server through the VPN")
	}
}

// vpnNetwork is the network of the tunnel: the one of vpn.address, else the inside network of that name.
func (s *Site) vpnNetwork() string {
	if n := s.networkOf(s.tunnel.Address); n != nil {
		return n.Name
	}
	if n, ok := s.Network("vpn"); ok && !n.Outside {
		return n.Name
	}
	return ""
}

func (m *implied) names() {
	d := m.s.DNS
	if d.Primary == "" {
		return
	}
	ports := append(udp(53), tcp(53)...)
	m.add("dns", "all", d.Primary, ports, "nodes ask the DNS node for names")
	if d.Secondary != "" {
		m.add("dns-secondary", "all", d.Secondary, ports, "nodes ask the second DNS node for names")
		m.add("dns-transfer", d.Secondary, d.Primary, ports, "the second DNS node fetches the zones")
		m.add("dns-notify", d.Primary, d.Secondary, ports, "the DNS node tells the second one of new zones")
	}
	if vpn := m.s.vpnNetwork(); vpn != "" {
		for _, node := range m.s.dnsNodes() {
			m.add("dns-"+vpn+"-"+node, vpn, node, ports, "people in the tunnel ask the DNS node for names")
		}
	}
	if server := m.s.Server.Nodes[0]; m.s.PublicDomain != "" {
		if len(d.Forwarders) > 0 {
			m.outwards("dns-public", server, d.Forwarders, ports, "the server checks public names at the outside resolvers")
		}
		if to := d.Updates.Server; to.IsValid() {
			m.outwards("dns-update", server, []netip.Addr{to}, ports, "the server sets public names by RFC 2136")
		}
	}
	for _, node := range slices.DeleteFunc([]string{d.Primary, d.Secondary}, func(n string) bool { return n == "" }) {
		name := "dns-out"
		if node == d.Secondary {
			name = "dns-secondary-out"
		}
		m.outwards(name, node, d.Forwarders, ports, "the DNS node asks outside resolvers")
	}
}

// outwards adds a flow to internet, and one to each of the addresses that is inside.
func (m *implied) outwards(name, from string, addrs []netip.Addr, ports []Port, reason string) {
	outside := len(addrs) == 0
	for _, a := range addrs {
		if owner := m.s.ownerName(a); owner != "" && m.s.inside(a) {
			m.add(name+"-"+owner, from, owner, ports, reason)
		} else {
			outside = true
		}
	}
	if outside {
		m.add(name, from, "internet", ports, reason)
	}
}

// ownerName is the node or host that has the address.
func (s *Site) ownerName(a netip.Addr) string {
	if n := s.nodeAt(a); n != nil {
		return n.Name
	}
	for i := range s.Hosts {
		if slices.Contains(s.Hosts[i].Addresses(), a) {
			return s.Hosts[i].Name
		}
	}
	return ""
}

func (m *implied) time() {
	s := m.s
	from, reason := "all", "nodes take the time from the site's servers"
	if r := s.Router(); r != nil {
		m.own("time", "all", r.Name, udp(123), "nodes take the time from the router")
		from, reason = r.Name, "the router takes the time from the site's servers"
	}
	var addrs []netip.Addr
	for _, n := range s.NTP {
		if a, err := netip.ParseAddr(n); err == nil {
			addrs = append(addrs, a)
		} else if owner, ok := s.machine(n); ok {
			addrs = append(addrs, owner)
		} else {
			addrs = append(addrs, netip.IPv4Unspecified()) // a name outside
		}
	}
	at := len(m.flows)
	m.outwards("time-out", from, addrs, udp(123), reason)
	for i := range m.flows[at:] {
		m.flows[at+i].hostOnly = true
	}
}

// machine returns the main address of the node or host of that name.
func (s *Site) machine(name string) (netip.Addr, bool) {
	if n, ok := s.Node(name); ok {
		return n.main, true
	}
	if h, ok := s.Host(name); ok {
		return h.Addresses()[0], true
	}
	return netip.Addr{}, false
}

func (m *implied) supervision() {
	s := m.s
	from := s.monitoringNode
	if from == "" && s.withRole(RoleSupervision) != nil {
		from = RoleSupervision
	}
	if from == "" {
		return
	}
	m.watches("metrics", from, "all", tcp(9100, 9323), "supervision reads the metrics of nodes and of Docker")
	m.watches("discovery", from, s.Server.Nodes[0], tcp(s.Server.Port), "supervision asks the server what to watch, and for its metrics")
}

func (m *implied) proxy() {
	s := m.s
	if s.proxyNode == "" {
		return
	}
	m.add("acme", s.proxyNode, "internet", tcp(s.proxyPart.acmePorts()...), "the proxy gets its certificates by ACME")
	for _, n := range s.instanceNodes {
		m.add("front-"+n, s.proxyNode, n, tcp(FrontPort), "the proxy passes customers' requests to the front of "+n)
	}
	for _, t := range s.proxyTargets {
		m.add("proxy-"+strings.ReplaceAll(t.name, ".", "-"), s.proxyNode, t.host, tcp(t.port), "the proxy serves "+t.name)
	}
}

// instances reach nothing but what a customer's Dolibarr needs: no host, no other instance, no network of the site.
func (m *implied) instances() {
	s := m.s
	if !s.dolibarr.managed {
		return
	}
	m.add("instances", "instances", "internet", tcp(443, 465, 587), "instances call services and send mail")
	for _, node := range s.dnsNodes() {
		m.add("instances-dns-"+node, "instances", node, append(udp(53), tcp(53)...), "instances ask the DNS node for names")
	}
}

func (m *implied) backup() {
	s := m.s
	if len(s.copies) == 0 {
		return
	}
	sources := slices.Clone(s.instanceNodes)
	if server := s.Server.Nodes[0]; !slices.Contains(sources, server) {
		sources = append(sources, server)
	}
	for _, c := range s.copies {
		to := c.host
		if to == "" {
			to = "internet"
		}
		for _, n := range sources {
			if n != to {
				m.add("backup-"+c.name+"-"+n, n, to, tcp(c.port), "backups of "+n+" go to the copy "+c.name)
			}
		}
	}
}
