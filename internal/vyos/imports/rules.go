package imports

import (
	"net/netip"
	"slices"
	"strings"
)

// ruleOf puts a command to the rule that it belongs to.
func (b *builder) ruleOf(c *command) bool {
	w := c.words
	for _, head := range []string{"nat source rule", "nat destination rule"} {
		if under(w, head) && len(w) > 4 {
			b.add(strings.TrimSuffix(head, " rule")+"/"+w[3], w[4:], c)
			return true
		}
	}
	for _, head := range []string{"firewall name", "firewall ipv6-name", "firewall ipv4 name", "firewall ipv6 name"} {
		n := len(strings.Fields(head))
		if under(w, head) && len(w) > n+3 && w[n+1] == "rule" {
			b.add("set/"+w[n]+"/"+w[n+2], w[n+3:], c)
			return true
		}
		if under(w, head) && len(w) == n+3 && w[n+1] == "default-action" {
			if c.say(Used, "everything that no flow names is dropped"); w[n+2] == "accept" {
				c.say(Corrected, "everything that no flow names is dropped, here too")
			}
			return true
		}
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, hook := range []string{"forward", "input", "output"} {
			if under(w, "firewall "+family+" "+hook+" filter rule") {
				if m := match(w, "firewall "+family+" "+hook+" filter rule * jump-target *"); m != nil {
					b.bound[m[1]] = b.jumpCard(family, hook, m[0]) + " " + map[string]string{"forward": "in", "input": "local", "output": "out"}[hook]
				}
				c.say(Used, "rule sets and their places are made from flows")
				return true
			}
		}
	}
	return false
}

// jumpCard is the interface of a jump, "" for all of them.
func (b *builder) jumpCard(family, hook, number string) string {
	for _, c := range b.commands {
		if m := match(c.words, "firewall "+family+" "+hook+" filter rule "+number+" inbound-interface name *"); m != nil {
			return m[0]
		}
	}
	return ""
}

func (b *builder) add(id string, words []string, c *command) {
	r := b.rules[id]
	if r == nil {
		r = &rule{values: map[string]string{}}
		b.rules[id] = r
		b.order = append(b.order, id)
	}
	r.lines = append(r.lines, c)
	if len(words) > 1 {
		r.values[strings.Join(words[:len(words)-1], " ")] = words[len(words)-1]
	}
}

// filters decides about every rule of the firewall, and about where the rule sets are bound.
func (b *builder) filters() {
	for _, id := range b.order {
		parts := strings.Split(id, "/")
		if parts[0] != "set" {
			continue
		}
		r := b.rules[id]
		class, why := b.decide(parts[1], r)
		for _, c := range r.lines {
			c.say(class, why)
		}
	}
	for _, c := range b.commands {
		if m := match(c.words, "interfaces ethernet * firewall local *  *"); m != nil && strings.HasPrefix(m[2], "OUTSIDE") && !b.card(m[0]).outside {
			c.say(Corrected, "it filtered the LAN and left the outside open: each side has rule sets of its own now")
		}
	}
}

// decide says what becomes of a rule of a rule set.
func (b *builder) decide(set string, r *rule) (Class, string) {
	v := r.values
	protocol, port := v["protocol"], v["destination port"]
	outside, direction := b.place(set)
	_, related := v["state related"]
	_, established := v["state established"]
	icmp := strings.Contains(protocol, "icmp")
	ssh := port == "22" || port != "" && port == b.sshPort
	switch {
	case v["recent count"] != "":
		return Used, "logins are always slowed down where a flow lets them in"
	case v["action"] == "drop" || v["action"] == "reject":
		return Used, "everything that no flow names is dropped"
	case v["action"] != "accept":
		return NotUnderstood, "nothing in a site file says this"
	case icmp:
		return Used, "ICMP is always let in"
	case port == "" && (related || established || v["state"] != ""):
		return Used, "replies always pass"
	case protocol == "udp" && port == "161":
		return Dropped, "SNMP is dropped on purpose: the router is watched by its agent"
	case protocol == "udp" && port != "" && port == b.tunnelPort && outside && direction == "local":
		f := b.flow("internet", b.name())
		f.ports = append(f.ports, port+"/udp")
		return Used, "flow " + f.name
	case outside && ssh:
		return Dropped, "SSH from outside: only the relay logs in on other nodes, and people reach it by the tunnel"
	case direction == "local" && ssh:
		return Dropped, "SSH to the router comes from the relay alone: the flow bastion"
	case outside && direction == "in" && port != "":
		return b.published(protocol, port)
	case port != "" && (v["source address"] != "" || v["destination address"] != ""):
		return b.between(v, direction)
	}
	return NotUnderstood, "it says too little, or too much, for a flow"
}

// place says whether a rule set filters what comes from outside, and whether it is for the router ("local") or through it ("in").
// A set that is called OUTSIDE is meant for the outside, wherever it was bound.
func (b *builder) place(set string) (outside bool, direction string) {
	name, direction, _ := strings.Cut(b.bound[set], " ")
	for _, k := range b.cards {
		outside = outside || k.name == name && k.outside
	}
	return outside || strings.HasPrefix(set, "OUTSIDE"), direction
}

// published is a port that is open from outside; a flow needs the machine behind it.
func (b *builder) published(protocol, port string) (Class, string) {
	for _, f := range b.flows {
		if f.from == "internet" && slices.Contains(f.ports, port+"/"+protocol) {
			return Used, "flow " + f.name
		}
	}
	b.note("port " + port + "/" + protocol + " was open from outside and led nowhere: add {name: NAME, from: internet, to: MACHINE, ports: [" +
		port + "/" + protocol + "]} if it should")
	return Dropped, "no destination NAT sends the port anywhere: add a flow that names the machine"
}

// between makes a flow of a rule that names both of its ends.
func (b *builder) between(v map[string]string, direction string) (Class, string) {
	for key := range v {
		if strings.Contains(key, " group ") || strings.HasSuffix(key, " port-group") {
			return NotUnderstood, "groups are not read: write the flow by hand"
		}
	}
	from, okFrom := b.principal(v["source address"])
	if v["source address"] == "" { // anybody: only for what the router itself sends is it known who that is
		from, okFrom = b.name(), direction == "out"
	}
	to, okTo := b.principal(v["destination address"])
	if !okFrom || !okTo || v["protocol"] != "tcp" && v["protocol"] != "udp" {
		return NotUnderstood, "no node, host or network is meant by its addresses"
	}
	f := b.flow(from, to)
	for _, p := range strings.Split(v["destination port"], ",") {
		if text := p + "/" + v["protocol"]; !slices.Contains(f.ports, text) {
			f.ports = append(f.ports, text)
		}
	}
	return Used, "flow " + f.name
}

// principal names what an address of a rule means.
func (b *builder) principal(text string) (string, bool) {
	if text == "" {
		return "internet", true
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		for _, k := range append(slices.Clone(b.cards), b.tunnelCard()...) {
			if k.address.IsValid() && k.address.Masked() == p {
				return k.network, true
			}
		}
		return "", false
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return "", false
	}
	for _, k := range b.cards {
		if k.address.Addr() == a {
			return b.name(), true
		}
	}
	return b.hostOf(a), true
}

func (b *builder) tunnelCard() []*card {
	if b.tunnel == nil {
		return nil
	}
	return []*card{{address: b.tunnel.address, network: "vpn"}}
}

func (b *builder) name() string {
	if b.router == "" {
		return "vrouter"
	}
	return b.router
}

// opened adds the tunnel's port where no rule opened it.
func (b *builder) opened() {
	if b.tunnel == nil || slices.ContainsFunc(b.flows, func(f flow) bool { return f.from == "internet" && f.to == b.name() }) {
		return
	}
	f := b.flow("internet", b.name())
	f.ports = append(f.ports, b.portOfTunnel()+"/udp")
	b.note("no rule let the tunnel's port in from outside; the flow " + f.name + " does")
}

func (b *builder) portOfTunnel() string {
	if b.tunnelPort == "" {
		return "51820"
	}
	return b.tunnelPort
}
