package flowcheck

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// maxListed bounds the observations that a result lists one by one.
const maxListed = 1000

// End is a place that connections are opened from and to.
type End struct {
	// Name is the node, probe or host.
	Name string
	// Agent is whose agent opens and listens there; for a host it is found out.
	Agent string
	// Address is its address.
	Address netip.Addr
	// Probe and Host say what it is; both unset means a node.
	Probe, Host bool
	// Outside says that a probe stands outside, or that this is the router's address there: only probes outside open
	// connections to it, and what comes to a published port is for the machine that the port leads to.
	Outside bool
}

// Matrix is what a check compares with.
type Matrix struct {
	Ends []End
	// Ports are those of interest; only the first port of a range is looked at.
	Ports []site.Port
	// Allowed says what the matrix wants.
	Allowed func(from, to netip.Addr, proto string, port uint16) (site.Flow, bool)
	// Published says which address gets what comes to a port of the router's outside address.
	Published func(proto string, port uint16) (netip.Addr, bool)
	// Notes are what people should know about the check.
	Notes []string
}

func (m *Matrix) has(name string) bool {
	return slices.ContainsFunc(m.Ends, func(e End) bool { return e.Name == name })
}

// MatrixOf returns the matrix of a site: all nodes, probes and unmanaged hosts, and every port that a flow names, with ssh's
// usual port and http beside them.
func MatrixOf(s *site.Site) Matrix {
	m := Matrix{Allowed: s.Allowed, Published: s.Published}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		m.Ends = append(m.Ends, End{Name: n.Name, Agent: n.Name, Address: n.MainAddress()})
		if n.Role != site.RoleRouter {
			continue
		}
		for _, a := range s.OutsideAddresses(n) {
			if a != n.MainAddress() {
				m.Ends = append(m.Ends, End{Name: n.Name + " outside", Agent: n.Name, Address: a, Outside: true})
			}
		}
	}
	for i := range s.Probes {
		p := &s.Probes[i]
		m.Ends = append(m.Ends, End{Name: p.Name, Agent: p.Name, Address: p.Address, Probe: true, Outside: p.Outside()})
	}
	for i := range s.Hosts {
		for _, a := range s.Hosts[i].Addresses() {
			m.Ends = append(m.Ends, End{Name: s.Hosts[i].Name, Address: a, Host: true})
		}
	}
	ports := map[site.Port]bool{
		{Proto: "tcp", First: 22, Last: 22}: true, {Proto: "tcp", First: 80, Last: 80}: true,
	}
	for _, f := range s.Flows() {
		for _, p := range f.Ports {
			// Both ends of a range stand for what is between them.
			for _, n := range []uint16{p.First, p.Last} {
				ports[site.Port{Proto: p.Proto, First: n, Last: n}] = true
			}
		}
	}
	for p := range ports {
		m.Ports = append(m.Ports, p)
	}
	slices.SortFunc(m.Ports, func(a, b site.Port) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.First, b.First))
	})
	if len(s.Probes) > 0 {
		m.Notes = append(m.Notes, "lab stand-ins: internet also has a plain route to the inside, as a hostile neighbour would; the vpn bridge stands for the tunnel")
	}
	return m
}

// wanted says what the matrix wants of a way, and who listens at its end.
func (m *Matrix) wanted(from, to *End, proto string, port uint16) (flow string, ok bool, listener *End) {
	if to.Outside && !to.Probe {
		if target, ok := m.Published(proto, port); ok {
			f, ok := m.Allowed(from.Address, target, proto, port)
			inside := *to
			if i := slices.IndexFunc(m.Ends, func(e End) bool { return e.Address == target && !e.Outside }); i >= 0 {
				inside.Agent = m.Ends[i].Agent
			}
			return f.Name, ok, &inside
		}
	}
	f, ok := m.Allowed(from.Address, to.Address, proto, port)
	return f.Name, ok, to
}

// looked reports whether the way from one end to another is looked at. The router's outside address is for those outside.
func looked(from, to *End) bool {
	switch {
	case from.Host, from.Outside && !from.Probe:
		return false
	case to.Outside && !to.Probe:
		return from.Outside
	}
	return from.Agent != to.Agent
}

// namePort is the port of name servers.
const namePort = 53

// judge compares what was seen with the matrix.
func (k *check) judge() {
	for _, s := range k.seen {
		open := false
		switch s.outcome {
		case v1.ProbeOutcome_PROBE_OUTCOME_OPEN, v1.ProbeOutcome_PROBE_OUTCOME_REFUSED, v1.ProbeOutcome_PROBE_OUTCOME_REJECTED:
			open = true
		case v1.ProbeOutcome_PROBE_OUTCOME_DROPPED:
			// Whoever owns a port of UDP need not answer a stranger: silence proves nothing. A name server answers everybody whom
			// it hears, if only with a refusal: where none is wanted its silence is the firewall's.
			if s.way.proto == "udp" && (s.way.port != namePort || s.way.wanted) && !k.udp[s.way.to.Agent][s.way.port] {
				k.unseen(s.way.observation(s.outcome, "no answer, and the port has an owner that need not give one"))
				continue
			}
		default:
			k.unseen(s.way.observation(s.outcome, s.detail))
			continue
		}
		switch {
		case open && s.way.wanted:
			k.result.OpenAsWanted++
		case !open && !s.way.wanted:
			k.result.ClosedAsWanted++
		case open:
			k.violation(s.way.observation(s.outcome, "open, and no flow allows it; "+s.detail))
		default:
			k.violation(s.way.observation(s.outcome, fmt.Sprintf("closed, and the flow %s allows it; %s", s.way.flow, s.detail)))
		}
	}
	sortObservations(k.result.Violations)
	sortObservations(k.result.Unseen)
	k.result.Violations = k.limit(k.result.Violations, "violations")
	k.result.Unseen = k.limit(k.result.Unseen, "unseen ways")
}

func (k *check) unseen(o *v1.FlowObservation) { k.result.Unseen = append(k.result.Unseen, o) }

func (k *check) violation(o *v1.FlowObservation) {
	k.result.Violations = append(k.result.Violations, o)
}

func (k *check) limit(list []*v1.FlowObservation, what string) []*v1.FlowObservation {
	if len(list) <= maxListed {
		return list
	}
	k.result.Notes = append(k.result.Notes, fmt.Sprintf("only the first %d of %d %s are listed", maxListed, len(list), what))
	return list[:maxListed]
}

func sortObservations(list []*v1.FlowObservation) {
	slices.SortStableFunc(list, func(a, b *v1.FlowObservation) int {
		return cmp.Or(cmp.Compare(a.GetFrom(), b.GetFrom()), cmp.Compare(a.GetTo(), b.GetTo()), cmp.Compare(a.GetPort(), b.GetPort()))
	})
}
