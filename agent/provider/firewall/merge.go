package firewall

import (
	"cmp"
	"net/netip"
	"slices"
)

// widen returns what lets pass all that old or new let pass. Where old has no chain, what stood there before still decides.
// It is idempotent: widening the result to new again gives the result.
func widen(old, wanted RuleSet) RuleSet {
	// An instance gets no further way by a widening: no instance ever had one that the pool closes.
	out := RuleSet{Version: 1, Docker: old.Docker || wanted.Docker, Router: old.Router || wanted.Router,
		InstancePool: cmp.Or(wanted.InstancePool, old.InstancePool)}
	merge := func(o, w *Hook) *Hook {
		if o == nil {
			return &Hook{Accepts: w.Accepts, Tail: TailReturn}
		}
		return &Hook{Accepts: union(w.Accepts, o.Accepts), Tail: o.Tail, Exempt: o.Exempt}
	}
	out.Input, out.Output, out.Forward = merge(old.Input, wanted.Input), merge(old.Output, wanted.Output),
		merge(old.Forward, wanted.Forward)
	return out
}

// union returns the wanted accepts and, marked as old, those of old that are not among them.
func union(wanted, old []Accept) []Accept {
	list := slices.Clone(wanted)
	for _, a := range old {
		a.Old = true
		list = append(list, a)
	}
	// The wanted one of two equal accepts comes first only if the sort is told so: drop the old one here.
	keys := map[string]bool{}
	for _, a := range wanted {
		keys[a.key()] = true
	}
	list = slices.DeleteFunc(list, func(a Accept) bool { return a.Old && keys[a.key()] })
	return tidy(list)
}

// narrow returns the wanted rule set and what must stand for laggards: old accepts towards them, and, at a hook that had no
// chain of ours before, all their packets. It is idempotent.
func narrow(old, wanted RuleSet, laggards []string) RuleSet {
	laggards = sorted(laggards)
	at := map[string][]string{}
	for _, peer := range laggards {
		if at[peer] = addressesOf(peer, wanted); len(at[peer]) == 0 {
			at[peer] = addressesOf(peer, old)
		}
	}
	leave := func(o, w *Hook, side func(Accept) [][]string) *Hook {
		out := &Hook{Accepts: w.Accepts, Tail: TailDrop}
		if o == nil {
			// Nothing of ours was ever widened here; without laggards this is a plan that looks at both passes at once.
			o = &Hook{Tail: TailReturn}
		}
		var left []Accept
		for _, a := range o.Accepts {
			if standsFor(a, laggards, at, side) {
				left = append(left, a)
			}
		}
		out.Accepts = union(w.Accepts, left)
		if o.Tail == TailDrop {
			for _, e := range o.Exempt {
				if slices.Contains(laggards, e.Peer) {
					out.Exempt = append(out.Exempt, e)
				}
			}
			return out
		}
		for _, peer := range laggards {
			if len(at[peer]) == 0 {
				return &Hook{Accepts: out.Accepts, Tail: TailReturn} // it can't be told apart: all waits for it
			}
			out.Exempt = append(out.Exempt, Exempt{Peer: peer, Prefixes: at[peer]})
		}
		return out
	}
	return RuleSet{
		Version: 1, Docker: wanted.Docker, Router: wanted.Router, InstancePool: wanted.InstancePool,
		Input:  leave(old.Input, wanted.Input, func(a Accept) [][]string { return [][]string{a.From.Prefixes} }),
		Output: leave(old.Output, wanted.Output, func(a Accept) [][]string { return [][]string{a.To.Prefixes} }),
		Forward: leave(old.Forward, wanted.Forward, func(a Accept) [][]string {
			return [][]string{a.From.Prefixes, a.To.Prefixes}
		}),
	}
}

// standsFor reports whether an old accept must stay for a laggard: it names it, or, when it names nobody (first boot), its
// other end is the laggard's very address. A network that names nobody waits for nobody.
func standsFor(a Accept, laggards []string, at map[string][]string, side func(Accept) [][]string) bool {
	for _, peer := range laggards {
		if slices.Contains(a.Peers, peer) {
			return true
		}
		if len(a.Peers) > 0 {
			continue
		}
		for _, list := range side(a) {
			if slices.ContainsFunc(list, func(p string) bool { return isHost(p) && slices.Contains(at[peer], p) }) {
				return true
			}
		}
	}
	return false
}

// addressesOf finds a peer's addresses: from the lines that name it alone, else from those that name it among others.
func addressesOf(peer string, rs RuleSet) []string {
	var alone, among []string
	take := func(h *Hook, ends func(Accept) []string) {
		if h == nil {
			return
		}
		for _, a := range h.Accepts {
			switch {
			case !slices.Contains(a.Peers, peer):
			case len(a.Peers) == 1:
				alone = append(alone, ends(a)...)
			default:
				among = append(among, ends(a)...)
			}
		}
	}
	take(rs.Input, func(a Accept) []string { return a.From.Prefixes })
	take(rs.Output, func(a Accept) []string { return a.To.Prefixes })
	if len(alone)+len(among) == 0 {
		take(rs.Forward, func(a Accept) []string { return append(slices.Clone(a.From.Prefixes), a.To.Prefixes...) })
	}
	for _, list := range [][]string{alone, among} {
		if hosts := slices.DeleteFunc(slices.Clone(list), func(s string) bool { return !isHost(s) }); len(hosts) > 0 {
			return sorted(hosts)
		}
	}
	return sorted(append(alone, among...))
}

func isHost(s string) bool {
	p, err := netip.ParsePrefix(s)
	return err == nil && p.IsSingleIP()
}
