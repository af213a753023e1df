package vyos

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// The rule sets by where packets come from and go to. VyOS binds rule sets to interfaces, so that "internet" is what comes in
// by an outside interface, and no rule needs a negated group, which 1.3 does not know.
const (
	outsideIn    = "OUTSIDE-IN"    // from outside, through the router
	outsideLocal = "OUTSIDE-LOCAL" // from outside, to the router
	insideIn     = "INSIDE-IN"     // from inside, through the router
	insideLocal  = "INSIDE-LOCAL"  // from inside, to the router
	routerOut    = "ROUTER-OUT"    // from the router itself
	insideGroup  = "INFRACTL-INSIDE"
)

// sshPerMinute limits new SSH connections from one address; witnesses log in several times during one rollout. The kernel's list
// of 1.3 remembers 20 packets of an address unless its module is told otherwise, and refuses a rule that counts further.
const sshPerMinute = "20"

// families are the words of the two families.
type family struct {
	v4         bool
	old, name  string // "name" and "ipv4", "ipv6-name" and "ipv6"
	group      string
	icmp, last string
}

func families() []family {
	return []family{{true, "name", "ipv4", "network-group", "icmp", "4"}, {false, "ipv6-name", "ipv6", "ipv6-network-group", "ipv6-icmp", "6"}}
}

// firewall renders global switches, groups, rule sets and their bindings, for both families.
func (r *renderer) firewall() {
	spec := r.spec.GetFirewall()
	if spec == nil {
		return
	}
	global := "firewall"
	if r.v >= V14 {
		global = "firewall global-options"
	}
	for _, s := range [][2]string{{"all-ping", "enable"}, {"broadcast-ping", "disable"}, {"receive-redirects", "disable"},
		{"send-redirects", "disable"}, {"source-validation", "loose"}, {"syn-cookies", "enable"}, {"twa-hazards-protection", "enable"}} {
		r.set(global+" "+s[0], s[1])
	}
	groups := map[string]bool{}
	for _, f := range families() {
		b := &ruleSets{renderer: r, f: f, next: map[string]int{}, groups: groups, known: map[string]bool{}}
		b.inside = b.group(insideGroup, spec.GetInsidePrefixes())
		b.begin()
		b.fill(spec.GetRules())
		b.bind()
	}
	if r.v == V13 {
		r.note("VyOS 1.3 filters nothing that the router itself sends: the outgoing flows of the router are not enforced there")
	}
}

// ruleSets fills the rule sets of one family.
type ruleSets struct {
	*renderer
	f      family
	next   map[string]int
	groups map[string]bool
	known  map[string]bool
	inside bool
}

// name of a rule set: the families have name spaces of their own only from 1.4 on.
func (b *ruleSets) name(set string) string {
	if b.f.v4 {
		return set
	}
	return set + "-6"
}

func (b *ruleSets) path(set string) string {
	if b.v >= V14 {
		return "firewall " + b.f.name + " name " + b.name(set)
	}
	return "firewall " + b.f.old + " " + b.name(set)
}

func (b *ruleSets) sets() []string {
	sets := []string{outsideIn, outsideLocal, insideIn, insideLocal}
	if b.v >= V14 {
		sets = append(sets, routerOut)
	}
	return sets
}

// rule adds a rule to a set and returns its path.
func (b *ruleSets) rule(set, action, description string) string {
	b.next[set] += 10
	base := b.path(set) + " rule " + strconv.Itoa(b.next[set])
	b.set(base+" action", action)
	if description != "" {
		b.set(base+" description", cut(description, 255))
	}
	return base
}

func (b *ruleSets) state(base string, states ...string) {
	for _, s := range states {
		if b.v >= V14 {
			b.set(base+" state", s)
		} else {
			b.set(base+" state "+s, "enable")
		}
	}
}

// begin makes the sets: closed, but for replies and ICMP.
func (b *ruleSets) begin() {
	for _, set := range b.sets() {
		b.set(b.path(set)+" default-action", "drop")
		b.state(b.rule(set, "accept", "replies"), "established", "related")
		b.state(b.rule(set, "drop", "what belongs to nothing"), "invalid")
		icmp := b.rule(set, "accept", "ICMP")
		b.set(icmp+" protocol", b.f.icmp)
		if set == outsideLocal && b.f.v4 {
			b.set(icmp+" icmp type-name", "echo-request")
			b.state(icmp, "new")
		}
	}
}

// target is a set that a rule belongs to, and which of its sides the set says already.
type target struct {
	set                    string
	sourceDone, targetDone bool
}

// fill puts every rule into its sets: first those between our own networks, then a drop of all others to them, then what goes
// to the internet.
func (b *ruleSets) fill(rules []*v1.FirewallRule) {
	for _, toInternet := range []bool{false, true} {
		if toInternet && b.inside {
			for _, set := range b.sets() {
				if set == insideIn || set == routerOut {
					base := b.rule(set, "drop", "nothing else between our own networks")
					b.set(base+" destination group "+b.groupWord(), insideGroup+b.suffix())
				}
			}
		}
		for _, rule := range rules {
			if rule.GetTo().GetInternet() == toInternet {
				for _, t := range b.targets(rule) {
					b.flow(rule, t)
				}
			}
		}
	}
}

func (b *ruleSets) targets(rule *v1.FirewallRule) []target {
	internet := rule.GetFrom().GetInternet()
	switch rule.GetHook() {
	case v1.FirewallHook_FIREWALL_HOOK_INPUT:
		if internet {
			return []target{{set: outsideLocal, sourceDone: true}}
		}
		return []target{{set: insideLocal}}
	case v1.FirewallHook_FIREWALL_HOOK_FORWARD:
		if internet {
			return []target{{set: outsideIn, sourceDone: true}}
		}
		return []target{{set: insideIn, targetDone: rule.GetTo().GetInternet()}}
	case v1.FirewallHook_FIREWALL_HOOK_OUTPUT:
		if b.v >= V14 {
			return []target{{set: routerOut, sourceDone: true, targetDone: rule.GetTo().GetInternet()}}
		}
	}
	return nil
}

// flow renders one rule of the spec into a set: one rule per range of ports.
func (b *ruleSets) flow(rule *v1.FirewallRule, t target) {
	from, okFrom := b.side(rule.GetFrom(), t.sourceDone)
	to, okTo := b.side(rule.GetTo(), t.targetDone)
	if !okFrom || !okTo {
		return // it concerns the other family alone
	}
	for _, p := range rule.GetPorts() {
		if rule.GetHook() == v1.FirewallHook_FIREWALL_HOOK_INPUT && rule.GetProtocol() == "tcp" && p.GetFirst() == r32(b.spec.GetSshd().GetPort()) {
			b.slow(t.set, p)
		}
		base := b.rule(t.set, "accept", rule.GetFlow())
		b.set(base+" protocol", rule.GetProtocol())
		b.set(base+" destination port", portText(p))
		b.state(base, "new")
		b.match(base+" source", from)
		b.match(base+" destination", to)
	}
}

func r32(n uint32) uint32 { return max(n, 1) }

// slow drops an address that opens too many SSH connections in a minute.
func (b *ruleSets) slow(set string, p *v1.PortRange) {
	key := set + "/" + portText(p)
	if b.known[key] {
		return
	}
	b.known[key] = true
	base := b.rule(set, "drop", "too many logins from one address")
	b.set(base+" protocol", "tcp")
	b.set(base+" destination port", portText(p))
	b.set(base+" recent count", sshPerMinute)
	if b.v >= V14 {
		b.set(base+" recent time", "minute")
	} else {
		b.set(base+" recent time", "60")
	}
	b.state(base, "new")
}

// side returns the prefixes of a side in this family; false when it has none there.
func (b *ruleSets) side(e *v1.Endpoint, done bool) ([]string, bool) {
	if done || len(e.GetPrefixes()) == 0 {
		return nil, true
	}
	var out []string
	for _, p := range e.GetPrefixes() {
		if is4(p) == b.f.v4 {
			out = append(out, p)
		}
	}
	return out, len(out) > 0
}

// match matches one address or network by itself, and several by a group that is named by what is in it.
func (b *ruleSets) match(base string, prefixes []string) {
	switch len(prefixes) {
	case 0:
	case 1:
		b.set(base+" address", strings.TrimSuffix(strings.TrimSuffix(prefixes[0], "/32"), "/128"))
	default:
		sum := sha256.Sum256([]byte(strings.Join(prefixes, " ")))
		name := "NET-" + strings.ToUpper(hex.EncodeToString(sum[:5]))
		b.group(name, prefixes)
		b.set(base+" group "+b.groupWord(), name+b.suffix())
	}
}

func (b *ruleSets) suffix() string {
	if b.f.v4 {
		return ""
	}
	return "-6"
}

func (b *ruleSets) groupWord() string {
	if b.v >= V14 {
		return "network-group"
	}
	return b.f.group
}

// group makes a group of the prefixes of this family once, and reports whether there is any.
func (b *ruleSets) group(name string, prefixes []string) bool {
	any := false
	made := b.groups[name+b.suffix()]
	b.groups[name+b.suffix()] = true
	for _, p := range prefixes {
		if is4(p) != b.f.v4 {
			continue
		}
		any = true
		if !made {
			b.set("firewall group "+b.f.group+" "+name+b.suffix()+" network", p)
		}
	}
	return any
}

// bind lets the sets decide: on 1.3 at each interface, from 1.4 on by jumps from the hooks.
func (b *ruleSets) bind() {
	cards := b.spec.GetRouter().GetInterfaces()
	tunnel := b.spec.GetRouter().GetWireguard()
	if len(tunnel.GetPeers()) == 0 {
		tunnel = nil
	}
	if b.v == V13 {
		for _, c := range cards {
			in, local := insideIn, insideLocal
			if c.GetOutside() {
				in, local = outsideIn, outsideLocal
			}
			b.bindCard("ethernet "+c.GetName(), in, local)
		}
		if tunnel != nil {
			b.bindCard("wireguard "+tunnel.GetInterface(), insideIn, insideLocal)
		}
		return
	}
	n := 0
	loopback := func(hook, side string) {
		n += 10
		base := "firewall " + b.f.name + " " + hook + " filter rule " + strconv.Itoa(n)
		b.set(base+" action", "accept")
		b.set(base+" "+side+"-interface name", "lo")
	}
	jump := func(hook, set, card string) {
		n += 10
		base := "firewall " + b.f.name + " " + hook + " filter rule " + strconv.Itoa(n)
		b.set(base+" action", "jump")
		b.set(base+" jump-target", b.name(set))
		if card != "" {
			b.set(base+" inbound-interface name", card)
		}
	}
	// The outside ones first; whatever else comes in, loopback excepted, counts as inside and meets closed sets too.
	outside := slices.DeleteFunc(slices.Clone(cards), func(c *v1.RouterInterface) bool { return !c.GetOutside() })
	for _, hook := range []struct{ name, outside, inside string }{{"forward", outsideIn, insideIn}, {"input", outsideLocal, insideLocal}} {
		n = 0
		for _, c := range outside {
			jump(hook.name, hook.outside, c.GetName())
		}
		if hook.name == "input" {
			loopback("input", "inbound")
		}
		jump(hook.name, hook.inside, "")
	}
	n = 0
	loopback("output", "outbound") // the router's own services talk to each other there
	jump("output", routerOut, "")
}

func (b *ruleSets) bindCard(card, in, local string) {
	b.set("interfaces "+card+" firewall in "+b.f.old, b.name(in))
	b.set("interfaces "+card+" firewall local "+b.f.old, b.name(local))
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n]
}
