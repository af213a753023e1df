package site

import (
	"fmt"
	"net/netip"
	"slices"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Flow is one line of the matrix of who may talk to whom.
type Flow struct {
	// Name is the flow's name; implied ones start with "implied.".
	Name string
	// From and To are principals: a node, an entry of hosts, a role, a network, internet, all, stack:NAME, instances; in
	// implied flows also probe:NAME.
	From, To string
	// Ports are the destination ports. The line of what always passes has none.
	Ports []Port
	// Implied says that a role brings it; otherwise the file says so.
	Implied bool
	// Reason says why, for people.
	Reason string
	// Where is file:line:column, for flows of the file.
	Where string
}

// Port is a range of destination ports.
type Port struct {
	// Proto is tcp or udp.
	Proto string
	// First and Last are the ends of the range, equal for a single port.
	First, Last uint16
}

// String returns the form of the file: 443/tcp, 1000-1010/udp.
func (p Port) String() string {
	if p.First == p.Last {
		return fmt.Sprintf("%d/%s", p.First, p.Proto)
	}
	return fmt.Sprintf("%d-%d/%s", p.First, p.Last, p.Proto)
}

// Contains reports whether the port is in the range.
func (p Port) Contains(proto string, port uint16) bool {
	return p.Proto == proto && p.First <= port && port <= p.Last
}

// ToProto returns the flow's message.
func (f Flow) ToProto() *v1.Flow {
	ports := make([]string, 0, len(f.Ports))
	for _, p := range f.Ports {
		ports = append(ports, p.String())
	}
	return &v1.Flow{
		Name: f.Name, From: f.From, To: f.To, Ports: ports, Implied: f.Implied, Reason: f.Reason, Where: f.Where,
	}
}

// flow is a line of the matrix with its two sides resolved.
type flow struct {
	Flow
	from, to side
	// hostOnly says that the flow concerns hosts alone, never their containers: infractl's own ways.
	hostOnly bool
}

// matches reports whether the line covers the port.
func (f *flow) matches(proto string, port uint16) bool {
	return slices.ContainsFunc(f.Ports, func(p Port) bool { return p.Contains(proto, port) })
}

// Flows returns the matrix: the flows of the file in its order, then the implied ones.
func (s *Site) Flows() []Flow {
	out := make([]Flow, 0, len(s.flows))
	for _, f := range s.flows {
		line := f.Flow
		line.Ports = slices.Clone(line.Ports)
		out = append(out, line)
	}
	return out
}

// Allowed reports whether the matrix lets from open a connection to the port of to, and the first flow that does. Between
// two addresses of one node everything is allowed.
func (s *Site) Allowed(from, to netip.Addr, proto string, port uint16) (Flow, bool) {
	if n := s.nodeAt(from); n != nil && n == s.nodeAt(to) {
		return Flow{Name: "implied.loopback", From: n.Name, To: n.Name, Implied: true, Reason: "a node may talk to itself"}, true
	}
	for i := range s.flows {
		f := &s.flows[i]
		if f.matches(proto, port) && s.covers(&f.from, from) && s.covers(&f.to, to) {
			return f.Flow, true
		}
	}
	return Flow{}, false
}
