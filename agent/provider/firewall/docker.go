package firewall

import (
	"fmt"
	"slices"
	"strings"
)

// forward renders the chain of FORWARD. On a Docker host the verdict for what may pass to or from a bridge is RETURN, so that
// Docker's own chains still decide; the decision then stands in the chains -FWD-IN and -FWD-OUT, reached by goto, so that
// RETURN in them leaves to the caller of INFRACTL-FWD.
func (r *renderer) forward() {
	h := r.rs.Forward
	if !r.rs.Docker {
		lines := r.always(accepted)
		if r.rs.Router {
			for _, a := range h.Accepts {
				lines = append(lines, r.accept(a)...)
			}
		}
		r.finish(chainFwd, lines, r.tail(h, "-s", "-d"))
		return
	}
	lines := r.dockerAlways()
	for _, in := range bridges() {
		for _, out := range bridges() {
			lines = append(lines, fmt.Sprintf("-i %s -o %s %s", in, out, returned)) // Docker keeps its networks apart itself
		}
	}
	for _, b := range bridges() {
		lines = append(lines, "-o "+b+" -g "+chainFwd+"-IN")
	}
	for _, b := range bridges() {
		lines = append(lines, "-i "+b+" -g "+chainFwd+"-OUT")
	}
	if r.rs.Router {
		for _, a := range h.Accepts {
			lines = append(lines, r.accept(a)...)
		}
	}
	r.finish(chainFwd, lines, r.tail(h, "-s", "-d"))
	r.bridged(chainFwd+"-IN", r.inbound())
	r.bridged(chainFwd+"-OUT", r.outbound())
}

// dockerAlways are the lines that always pass: left to Docker, but on a router, whose own traffic Docker knows nothing of,
// only where a bridge is concerned.
func (r *renderer) dockerAlways() []string {
	if !r.rs.Router {
		return r.always(returned)
	}
	var lines []string
	for _, b := range bridges() {
		for _, side := range []string{"-i ", "-o "} {
			for _, line := range r.always(returned) {
				lines = append(lines, side+b+" "+line)
			}
		}
	}
	return append(lines, r.always(accepted)...)
}

// bridgeRule is an accept in -FWD-IN or -FWD-OUT: its conditions, and the networks that it excludes as not the internet.
type bridgeRule struct {
	matches  []string
	comment  string
	excluded []string
}

// inbound are the accepts for packets from outside to a bridge: published ports, and forward rules.
func (r *renderer) inbound() []bridgeRule {
	var list []bridgeRule
	if r.rs.Input != nil {
		for _, a := range r.rs.Input.Accepts {
			if a.Containers && r.applies(a) {
				list = append(list, r.bridgeRule(a, r.published(a)))
			}
		}
	}
	return append(list, r.forwarded()...)
}

// outbound are the accepts for packets from a bridge to outside. The host's own address as source means nothing there: the
// translation comes later.
func (r *renderer) outbound() []bridgeRule {
	var list []bridgeRule
	if r.rs.Output != nil {
		for _, a := range r.rs.Output.Accepts {
			a.From = Endpoint{}
			if a.Containers && r.applies(a) {
				list = append(list, r.bridgeRule(a, r.notInstances(r.matches(a))))
			}
		}
	}
	return append(list, r.forwarded()...)
}

// notInstances leaves customers' instances out of conditions that hold for containers: a node or a role in a flow never means them.
func (r *renderer) notInstances(matches []string) []string {
	if r.rs.InstancePool == "" || r.family == v6 {
		return matches
	}
	for i, m := range matches {
		matches[i] = "! -s " + r.rs.InstancePool + " " + m
	}
	return matches
}

func (r *renderer) forwarded() []bridgeRule {
	var list []bridgeRule
	for _, a := range r.rs.Forward.Accepts {
		if r.applies(a) {
			list = append(list, r.bridgeRule(a, r.matches(a)))
		}
	}
	return list
}

func (r *renderer) bridgeRule(a Accept, matches []string) bridgeRule {
	b := bridgeRule{matches: matches, comment: comment(a)}
	if a.From.Internet {
		for _, p := range r.own(a.From.Inside) {
			b.excluded = append(b.excluded, "-s "+p)
		}
	}
	if a.To.Internet {
		for _, p := range r.own(a.To.Inside) {
			b.excluded = append(b.excluded, "-d "+p)
		}
	}
	return b
}

// bridged renders -FWD-IN or -FWD-OUT. Rules about the internet stand in a chain per set of excluded networks: an excluded
// packet goes on to the next of them, and the last one leads to the tail.
func (r *renderer) bridged(name string, rules []bridgeRule) {
	tail := r.tail(r.rs.Forward, "-s", "-d")
	var lines []string
	var sets []string
	inSet := map[string][]bridgeRule{}
	for _, b := range rules {
		set := strings.Join(b.excluded, "\n")
		if set == "" {
			lines = append(lines, b.lines()...)
			continue
		}
		if !slices.Contains(sets, set) {
			sets = append(sets, set)
		}
		inSet[set] = append(inSet[set], b)
	}
	if len(sets) == 0 {
		r.finish(name, lines, tail)
		return
	}
	r.finish(name, lines, []string{"-g " + name + "-NET"})
	for i, set := range sets {
		here, next := netName(name, i), netName(name, i+1)
		if i == len(sets)-1 {
			next = name + "-END"
		}
		var lines []string
		for _, match := range inSet[set][0].excluded {
			lines = append(lines, match+" -g "+next)
		}
		for _, b := range inSet[set] {
			lines = append(lines, b.lines()...)
		}
		r.finish(here, lines, []string{"-g " + next})
	}
	r.finish(name+"-END", nil, tail)
}

func netName(name string, i int) string {
	if i == 0 {
		return name + "-NET"
	}
	return fmt.Sprintf("%s-NET%d", name, i+1)
}

func (b bridgeRule) lines() []string {
	list := make([]string, 0, len(b.matches))
	for _, m := range b.matches {
		list = append(list, m+" "+b.comment+" "+returned)
	}
	return list
}
