package vyos

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// Config checks a whole configuration: every line by itself, and what no path can say: that nothing is set twice, that rule
// sets and interfaces that are named exist, that no two interfaces lie in one network, and that tunnels are complete. It
// returns all faults, each Invalid, with the line's number from 1 as its place.
func (c *Checker) Config(lines []Line) []error {
	var faults []error
	fault := func(i int, format string, args ...any) {
		faults = append(faults, errs.New(errs.Invalid, format, args...).At(lineNumber(i)))
	}
	set := map[string]int{}
	for i, l := range lines {
		e, err := c.find(l)
		if err != nil {
			faults = append(faults, errs.New(errs.Invalid, "%w", err).At(lineNumber(i)))
			continue
		}
		key := strings.Join(l, "\x00")
		if !e.repeats && strings.HasPrefix(e.path[len(e.path)-1], "<") {
			key = strings.Join(l[:len(l)-1], "\x00")
		}
		if at, ok := set[key]; ok {
			fault(i, "%s is set by line %d already", strings.Join(l[:len(l)-1], " "), at+1)
		}
		set[key] = i
	}
	t := tree{lines}
	c.references(t, fault)
	c.interfaces(t, fault)
	c.tunnels(t, fault)
	return faults
}

// tree is a configuration to look things up in.
type tree struct{ lines []Line }

// values returns the words behind a path in which "*" stands for any word, with the numbers of their lines.
func (t tree) values(path string) (words []string, at []int) {
	want := strings.Fields(path)
	for i, l := range t.lines {
		if len(l) > len(want) && fitsPath(want, l) {
			words, at = append(words, l[len(want)]), append(at, i)
		}
	}
	return words, at
}

// names returns the words in place of the first "*" of a path, each once.
func (t tree) names(path string) []string {
	want := strings.Fields(path)
	star := slices.Index(want, "*")
	var out []string
	for _, l := range t.lines {
		if len(l) >= len(want) && fitsPath(want, l) && !slices.Contains(out, l[star]) {
			out = append(out, l[star])
		}
	}
	return out
}

func fitsPath(want []string, l Line) bool {
	for i, w := range want {
		if w != "*" && w != l[i] {
			return false
		}
	}
	return true
}

// references: what rules and interfaces name exists.
func (c *Checker) references(t tree, fault func(int, string, ...any)) {
	look := func(used string, have []string, what string) {
		words, at := t.values(used)
		for i, w := range words {
			if !slices.Contains(have, strings.TrimPrefix(w, "!")) {
				fault(at[i], "there is no %s %s", what, w)
			}
		}
	}
	for _, f := range []struct{ old, family, group string }{{"name", "ipv4", "network-group"}, {"ipv6-name", "ipv6", "ipv6-network-group"}} {
		sets, prefix := t.names("firewall "+f.old+" *"), "firewall "+f.old
		if c.version >= V14 {
			sets, prefix = t.names("firewall "+f.family+" name *"), "firewall "+f.family+" name"
			for _, hook := range []string{"forward", "input", "output"} {
				look("firewall "+f.family+" "+hook+" filter rule * jump-target", sets, "rule set")
			}
		}
		for _, kind := range []string{"ethernet", "wireguard"} {
			look("interfaces "+kind+" * firewall in "+f.old, sets, "rule set")
			look("interfaces "+kind+" * firewall local "+f.old, sets, "rule set")
		}
		groups := t.names("firewall group " + f.group + " *")
		name := f.group
		if c.version >= V14 {
			name = "network-group"
		}
		for _, side := range []string{"source", "destination"} {
			look(prefix+" * rule * "+side+" group "+name, groups, "group")
		}
	}
	cards := append(t.names("interfaces ethernet *"), t.names("interfaces wireguard *")...)
	out, in := "nat source rule * outbound-interface", "nat destination rule * inbound-interface"
	if c.version >= V14 {
		out, in = out+" name", in+" name"
	}
	look(out, cards, "interface")
	look(in, cards, "interface")
}

// interfaces: no two lie in one network.
func (c *Checker) interfaces(t tree, fault func(int, string, ...any)) {
	type place struct {
		prefix netip.Prefix
		card   string
	}
	var places []place
	for i, l := range t.lines {
		if len(l) != 5 || l[0] != "interfaces" || l[3] != "address" {
			continue
		}
		p, err := netip.ParsePrefix(l[4])
		if err != nil {
			continue
		}
		for _, other := range places {
			if other.card != l[2] && other.prefix.Overlaps(p) {
				fault(i, "the network of %s overlaps that of %s (%s)", l[4], other.card, other.prefix)
			}
		}
		places = append(places, place{p, l[2]})
	}
}

// tunnels: each has a peer, and each peer addresses of its own and a key.
func (c *Checker) tunnels(t tree, fault func(int, string, ...any)) {
	for _, card := range t.names("interfaces wireguard *") {
		base := "interfaces wireguard " + card
		at := slices.IndexFunc(t.lines, func(l Line) bool { return len(l) > 2 && l[1] == "wireguard" && l[2] == card })
		peers := t.names(base + " peer *")
		if len(peers) == 0 {
			fault(at, "the tunnel %s has no peer, and VyOS refuses one without", card)
		}
		key := "public-key"
		if c.version == V13 {
			key = "pubkey"
		}
		for _, p := range peers {
			if ips, _ := t.values(base + " peer " + p + " allowed-ips"); len(ips) == 0 {
				fault(at, "peer %s of %s has no allowed-ips", p, card)
			}
			if keys, _ := t.values(base + " peer " + p + " " + key); len(keys) == 0 {
				fault(at, "peer %s of %s has no key", p, card)
			}
		}
	}
}
