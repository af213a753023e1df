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
}

// Matrix is what a check compares with.
type Matrix struct {
	Ends []End
	// Ports are those of interest; only the first port of a range is looked at.
	Ports []site.Port
	// Allowed says what the matrix wants.
	Allowed func(from, to netip.Addr, proto string, port uint16) (site.Flow, bool)
	// Notes are what people should know about the check.
	Notes []string
}

func (m *Matrix) has(name string) bool {
	return slices.ContainsFunc(m.Ends, func(e End) bool { return e.Name == name })
}

// MatrixOf returns the matrix of a site: all nodes, probes and unmanaged hosts, and every port that a flow names, with ssh's
// usual port and http beside them.
func MatrixOf(s *site.Site) Matrix {
	m := Matrix{Allowed: s.Allowed}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		m.Ends = append(m.Ends, End{Name: n.Name, Agent: n.Name, Address: n.MainAddress()})
	}
	for i := range s.Probes {
		p := &s.Probes[i]
		m.Ends = append(m.Ends, End{Name: p.Name, Agent: p.Name, Address: p.Address, Probe: true})
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
		m.Notes = append(m.Notes, "lab stand-ins: internet has a plain route in place of NAT; the vpn bridge stands for the tunnel")
	}
	return m
}

// judge compares what was seen with the matrix.
func (k *check) judge() {
	for _, s := range k.seen {
		open := false
		switch s.outcome {
		case v1.ProbeOutcome_PROBE_OUTCOME_OPEN, v1.ProbeOutcome_PROBE_OUTCOME_REFUSED, v1.ProbeOutcome_PROBE_OUTCOME_REJECTED:
			open = true
		case v1.ProbeOutcome_PROBE_OUTCOME_DROPPED:
			if s.way.proto == "udp" && !k.udp[s.way.to.Agent][s.way.port] {
				// Whoever owns the port need not answer a stranger: silence proves nothing.
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
