package site

import (
	"net/netip"

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

// Witnesses returns the proofs that a lockout commit of the node needs.
func (s *Site) Witnesses(node string) []Witness { return nil }
