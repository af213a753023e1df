package site

import (
	"net/netip"
	"slices"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Witness is one proof that a node is reachable after a change. It holds when one of its ways opens.
type Witness struct {
	// From is the preferred witness, a node or a probe; empty when nobody can be it.
	From string
	// Kind is how to look.
	Kind v1.ProbeKind
	// To is the node that the preferred way goes to.
	To string
	// Alternatives are all ways that prove the same, best first; the first one is From to To. It is empty when there is no
	// possible witness: the operator replaces it.
	Alternatives []Way
	// Reason says what it proves.
	Reason string
}

// Way is one connection that a witness can open.
type Way struct {
	// From is a node or a probe.
	From string
	// To is a node.
	To string
	// Address and Port are where the connection goes.
	Address netip.Addr
	Port    uint16
}

// Witnesses returns the proofs that a lockout commit of the node needs, nil for a node that does not exist.
func (s *Site) Witnesses(node string) []Witness {
	n, ok := s.Node(node)
	if !ok {
		return nil
	}
	w := &witnesses{s: s, node: n}
	if n.Role == RoleRelay {
		w.relay()
	} else {
		w.add(v1.ProbeKind_PROBE_KIND_SSH_LOGIN, "the relay can log in", w.login(s.Relay(), n))
	}
	if n.Name == s.Server.Nodes[0] {
		w.server()
	}
	if n.Role == RoleRouter {
		w.router()
	}
	return w.list
}

type witnesses struct {
	s    *Site
	node *Node
	list []Witness
}

func (w *witnesses) add(kind v1.ProbeKind, reason string, ways []Way) {
	out := Witness{Kind: kind, Reason: reason, Alternatives: ways, To: w.node.Name}
	if len(ways) > 0 {
		out.From, out.To = ways[0].From, ways[0].To
	}
	w.list = append(w.list, out)
}

// login is the way by which one node logs in on another, nothing when no agent can open it.
func (w *witnesses) login(from, to *Node) []Way {
	if !from.Linux() {
		return nil
	}
	return []Way{{from.Name, to.Name, to.main, w.s.SSH.Port}}
}

// relay: it still gets in elsewhere, and somebody still gets in on it.
func (w *witnesses) relay() {
	for i := range w.s.Networks {
		net := &w.s.Networks[i]
		if net.Outside {
			continue
		}
		var ways []Way
		others := 0
		for _, n := range w.preferred() {
			if n.Name != w.node.Name && net.Contains(n.main) {
				others++
				if n.Linux() {
					ways = append(ways, w.login(w.node, n)...)
				}
			}
		}
		if others > 0 {
			w.add(v1.ProbeKind_PROBE_KIND_SSH_LOGIN, "the relay can log in on a node of "+net.Name, ways)
		}
	}
	var ways []Way
	for _, probes := range []bool{true, false} {
		for _, c := range w.s.logins(w.node) {
			if c.probe == probes {
				ways = append(ways, Way{c.name, w.node.Name, w.node.main, w.s.SSH.Port})
			}
		}
	}
	w.add(v1.ProbeKind_PROBE_KIND_SSH_LOGIN, "people can log in on the relay", ways)
}

// server: the others still reach it.
func (w *witnesses) server() {
	var ways []Way
	for _, n := range w.preferred() {
		if n.Name != w.node.Name && n.Linux() {
			ways = append(ways, w.toServer(n.Name))
		}
	}
	w.add(v1.ProbeKind_PROBE_KIND_SERVER, "other nodes reach the server", ways)
}

func (w *witnesses) toServer(from string) Way {
	server := w.s.ServerNode()
	return Way{from, server.Name, server.main, w.s.Server.Port}
}

// router: the server is still reachable from every network that it joins, and the world can still get in.
func (w *witnesses) router() {
	server := w.s.ServerNode()
	for _, i := range w.node.Interfaces {
		net, ok := w.s.Network(i.Network)
		if !ok {
			continue
		}
		var ways []Way
		there := 0
		for _, n := range w.preferred() {
			if n.Name != w.node.Name && n.Name != server.Name && slices.ContainsFunc(n.Addresses(), net.Contains) {
				there++
				if n.Linux() {
					ways = append(ways, w.toServer(n.Name))
				}
			}
		}
		for _, p := range w.s.Probes {
			if net.Contains(p.Address) {
				there++
				ways = append(ways, w.toServer(p.Name))
			}
		}
		if there > 0 {
			w.add(v1.ProbeKind_PROBE_KIND_SERVER, "the server is reachable from "+net.Name, ways)
		}
	}
	w.outside()
}

// outside: the first TCP flow from the internet still gets through, seen by the probes that stand there.
func (w *witnesses) outside() {
	target, port, ok := w.s.firstFromInternet()
	if !ok {
		return
	}
	var ways []Way
	for _, p := range w.s.Probes {
		if p.Outside() {
			ways = append(ways, Way{p.Name, target.Name, target.main, port})
		}
	}
	if len(ways) > 0 {
		w.add(v1.ProbeKind_PROBE_KIND_TCP, "the world reaches "+target.Name, ways)
	}
}

// firstFromInternet returns where the first TCP flow from the internet to a node behind the router goes.
func (s *Site) firstFromInternet() (*Node, uint16, bool) {
	for i := range s.flows {
		f := &s.flows[i]
		if !f.from.internet {
			continue
		}
		for _, name := range f.to.nodes {
			n, _ := s.Node(name)
			for _, p := range f.Ports {
				if n.Role != RoleRouter && p.Proto == "tcp" && s.covers(&f.to, n.main) {
					return n, p.First, true
				}
			}
		}
	}
	return nil, 0, false
}

// preferred returns the nodes, those first whose absence matters least.
func (w *witnesses) preferred() []*Node {
	var out []*Node
	for _, role := range []string{RolePreprod, RoleProd, RoleServices, RoleSupervision, RoleRelay, RoleRouter} {
		for i := range w.s.Nodes {
			if w.s.Nodes[i].Role == role {
				out = append(out, &w.s.Nodes[i])
			}
		}
	}
	return out
}
