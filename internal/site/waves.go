package site

import (
	"slices"
	"strings"
	"time"
)

// Wave is one step of a rollout.
type Wave struct {
	// Number starts with 1.
	Number int
	// Nodes are its nodes.
	Nodes []string
	// MaxUnavailable is how many of them change at once.
	MaxUnavailable int
	// Reason says why they stand together.
	Reason string
	// Soak is how long the wave is watched before the next one begins.
	Soak time.Duration
	// Budgets are how many nodes of a role change at once, for the roles in the wave that have one.
	Budgets map[string]int
}

// Waves returns the order in which nodes change; only limits it to some nodes, nil means all. Pre-production is the canary.
// Router, relay, supervision and the server's node never share a wave; relay, server and router change alone, the router last:
// what could cut off the others changes when the change has proven itself elsewhere.
func (s *Site) Waves(only []string) []Wave {
	var out []Wave
	taken := map[string]bool{}
	wave := func(reason string, in func(*Node) bool) {
		w := Wave{Reason: reason}
		for i := range s.Nodes {
			n := &s.Nodes[i]
			if !taken[n.Name] && in(n) {
				taken[n.Name] = true
				if len(only) == 0 || slices.Contains(only, n.Name) {
					w.Nodes = append(w.Nodes, n.Name)
				}
			}
		}
		if len(w.Nodes) > 0 {
			w.Number = len(out) + 1
			w.MaxUnavailable = min(s.Rollout.MaxUnavailable, len(w.Nodes))
			w.Soak, w.Budgets = s.Rollout.Soak, s.budgets(w.Nodes)
			out = append(out, w)
		}
	}
	server := s.Server.Nodes[0]
	apart := func(n *Node) bool {
		return n.Name == server || n.Role == RoleRouter || n.Role == RoleRelay || n.Role == RoleSupervision
	}
	wave("the canary: pre-production first", func(n *Node) bool { return !apart(n) && n.Role == RolePreprod })
	// Several supervision nodes watch each other only while one of them is up: the first changes with the rest, each further
	// one by itself.
	var supervision []*Node
	for i := range s.Nodes {
		if n := &s.Nodes[i]; n.Role == RoleSupervision && n.Name != server {
			supervision = append(supervision, n)
		}
	}
	wave("nodes that customers use, and what watches them", func(n *Node) bool {
		return !apart(n) || len(supervision) > 0 && n == supervision[0]
	})
	for _, n := range supervision[min(1, len(supervision)):] {
		wave("one more node that watches the others", func(o *Node) bool { return o == n })
	}
	relay := s.Relay()
	if relay.Name != server {
		wave("the relay is the way in by SSH, so it changes alone", func(n *Node) bool { return n == relay && n.Role != RoleRouter })
	}
	if r := s.Router(); r == nil || r.Name != server {
		wave(serverReason(relay.Name == server), func(n *Node) bool { return n.Name == server })
	}
	wave("the router connects all networks, so it comes last", func(n *Node) bool { return n.Role == RoleRouter })
	return out
}

func serverReason(relay bool) string {
	what := []string{"the server's node"}
	if relay {
		what = append(what, "which is also the relay,")
	}
	return strings.Join(append(what, "changes alone"), " ")
}
