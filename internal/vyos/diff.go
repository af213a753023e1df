package vyos

import (
	"slices"
	"strings"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Paths are parts of a configuration, as the words that their lines begin with; "*" stands for any word.
type Paths [][]string

// Has reports whether a line lies in one of the parts.
func (p Paths) Has(l Line) bool {
	return slices.ContainsFunc(p, func(path []string) bool { return len(l) >= len(path) && fitsPath(path, l) })
}

// Owned returns the parts of a router's configuration that a spec decides alone: lines there that it does not want are removed.
// All others (passwords for the console, interfaces that the site does not name, services of other kinds) stay as they are.
func Owned(spec *v1.HostSpec, v Version) Paths {
	var p Paths
	add := func(paths ...string) {
		for _, path := range paths {
			p = append(p, strings.Fields(path))
		}
	}
	add("nat source", "nat destination", "protocols static route", "system config-management commit-revisions",
		"system host-name", "system domain-name", "system time-zone", "system name-server",
		"system login user * full-name", "system login user * authentication public-keys",
		"system syslog global facility all", "system syslog local facility all",
		"system ntp server", "service ntp server", "service ntp allow-client")
	if spec.GetSshd() != nil {
		add("service ssh port", "service ssh listen-address", "service ssh disable-password-authentication",
			"service ssh client-keepalive-interval", "service ssh access-control")
	}
	if spec.GetFirewall() != nil {
		add("firewall name", "firewall ipv6-name", "firewall ipv4", "firewall ipv6", "firewall group network-group", "firewall group ipv6-network-group")
		for _, s := range []string{"all-ping", "broadcast-ping", "receive-redirects", "send-redirects", "source-validation", "syn-cookies",
			"twa-hazards-protection"} {
			add("firewall "+s, "firewall global-options "+s)
		}
	}
	for _, c := range spec.GetRouter().GetInterfaces() {
		base := "interfaces ethernet " + c.GetName()
		add(base+" address", base+" description", base+" firewall in", base+" firewall local")
		if c.GetMac() != "" {
			add(base + " hw-id")
		}
	}
	if w := spec.GetRouter().GetWireguard(); w != nil {
		add("interfaces wireguard " + w.GetInterface())
	}
	return p
}

// Difference is what leads from one configuration to another. The deletions come first.
type Difference struct {
	Delete, Set []Line
}

// Empty reports whether there is nothing to do.
func (d Difference) Empty() bool { return len(d.Delete) == 0 && len(d.Set) == 0 }

// Diff compares the parts of two configurations that are owned. What is gone is deleted as high up as nothing else hangs
// there, because VyOS keeps empty nodes; a leaf that gets another value is not deleted before.
func (c *Checker) Diff(have, want []Line, owned Paths) Difference {
	wanted, above, old := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, l := range want {
		wanted[key(l)] = true
		prefixes(l, func(p string) { above[p] = true })
	}
	for _, l := range have {
		old[key(l)] = true
		if !owned.Has(l) {
			prefixes(l, func(p string) { above[p] = true })
		}
	}
	var d Difference
	deleted := map[string]bool{}
	for _, l := range have {
		if wanted[key(l)] || !owned.Has(l) || c.replaced(l, above) {
			continue
		}
		n := 1
		for n < len(l) && above[key(l[:n])] {
			n++
		}
		if k := key(l[:n]); !deleted[k] {
			deleted[k] = true
			d.Delete = append(d.Delete, slices.Clone(l[:n]))
		}
	}
	for _, l := range want {
		if !old[key(l)] {
			d.Set = append(d.Set, l)
		}
	}
	return d
}

// replaced reports whether a line sets a leaf that takes one value and gets another one.
func (c *Checker) replaced(l Line, wanted map[string]bool) bool {
	e, err := c.find(l)
	return err == nil && !e.repeats && strings.HasPrefix(e.path[len(e.path)-1], "<") && wanted[key(l[:len(l)-1])]
}

// Applied is what VyOS makes of a configuration with a difference: a deletion takes all that hangs below, a leaf of one value
// keeps the last. Fakes and tests use it.
func Applied(c *Checker, have []Line, d Difference) []Line {
	out := slices.Clone(have)
	for _, del := range d.Delete {
		out = slices.DeleteFunc(out, func(l Line) bool { return len(l) >= len(del) && slices.Equal(l[:len(del)], del) })
	}
	for _, l := range d.Set {
		e, err := c.find(l)
		single := err == nil && !e.repeats && strings.HasPrefix(e.path[len(e.path)-1], "<")
		out = slices.DeleteFunc(out, func(o Line) bool {
			return len(o) == len(l) && (slices.Equal(o, l) || single && slices.Equal(o[:len(o)-1], l[:len(l)-1]))
		})
		out = append(out, l)
	}
	return out
}

func key(l Line) string { return strings.Join(l, "\x00") }

// prefixes calls f with every part of a line from its start, the whole line too.
func prefixes(l Line, f func(string)) {
	whole, end := key(l), -1
	for _, w := range l {
		end += 1 + len(w)
		f(whole[:end])
	}
}

// secretWords are the leaves whose values nobody may see.
func secretWords() []string {
	return []string{"private-key", "preshared-key", "encrypted-password", "plaintext-password", "password", "community", "secret"}
}

// Redacted returns the command with secret values hidden.
func (l Line) Redacted() string {
	out := slices.Clone(l)
	for i := 1; i < len(out); i++ {
		if slices.Contains(secretWords(), out[i-1]) && out[i] != "default" {
			out[i] = "(hidden)"
		}
	}
	return out.String()
}
