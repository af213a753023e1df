package imports

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

func (b *builder) card(name string) *card {
	if at := slices.IndexFunc(b.cards, func(c *card) bool { return c.name == name }); at >= 0 {
		return b.cards[at]
	}
	c := &card{name: name}
	b.cards = append(b.cards, c)
	return c
}

func (b *builder) interfaces(c *command) bool {
	w := c.words
	if m := match(w, "interfaces ethernet * address *"); m != nil {
		p, err := netip.ParsePrefix(m[1])
		k := b.card(m[0])
		switch {
		case err != nil:
			c.say(NotUnderstood, "a router of a site has fixed addresses")
		case k.address.IsValid():
			c.say(NotUnderstood, "a second address of one interface: a site file has one per family")
		default:
			k.address = p
			c.say(Used, "nodes.interfaces."+m[0])
		}
	} else if m := match(w, "interfaces ethernet * description *"); m != nil {
		b.card(m[0]).description = m[1]
		c.say(Used, "nodes.interfaces."+m[0]+".description")
	} else if m := match(w, "interfaces ethernet * hw-id *"); m != nil {
		c.say(Dropped, "ties a name to one card: left to the router, since a cloned one has other cards")
	} else if m := match(w, "interfaces ethernet * firewall * * *"); m != nil {
		b.bound[m[3]] = m[0] + " " + m[1]
		c.say(Used, "rule sets and their places are made from flows")
	} else if m := match(w, "interfaces wireguard * address *"); m != nil {
		if p, err := netip.ParsePrefix(m[1]); err == nil {
			b.tunnel = &card{name: m[0], address: p}
			c.say(Used, "vpn.address")
		}
	} else if m := match(w, "interfaces wireguard * port *"); m != nil {
		b.tunnelPort = m[1]
		c.say(Used, "vpn.port")
	} else if under(w, "interfaces wireguard") && slices.Contains(w, "private-key") {
		c.say(Dropped, "the key stays on the router, which goes on using it")
	} else if under(w, "interfaces wireguard") && slices.Contains(w, "peer") && len(w) > 4 {
		c.say(Dropped, "peers are no part of the file: infractl vpn peer add "+peerName(w[4]))
	} else if under(w, "interfaces wireguard") && slices.Contains(w, "firewall") {
		c.say(Used, "rule sets and their places are made from flows")
	} else {
		return false
	}
	return true
}

func peerName(s string) string { return strings.ReplaceAll(strings.ToLower(s), "_", "-") }

// networks names the networks: wan is the one that the default route leaves by, all others are LANs.
func (b *builder) networks() {
	for _, c := range b.commands {
		if m := match(c.words, "protocols static route 0.0.0.0/0 next-hop *"); m != nil {
			b.gateway, _ = netip.ParseAddr(m[0])
		}
	}
	lans := 0
	for _, k := range b.cards {
		if !k.address.IsValid() {
			continue
		}
		if k.outside = b.gateway.IsValid() && k.address.Contains(b.gateway); k.outside {
			k.network = "wan"
			continue
		}
		if lans++; lans == 1 {
			k.network = "lan"
		} else {
			k.network = "lan" + strconv.Itoa(lans)
		}
	}
}

func (b *builder) routes() {
	for _, c := range b.commands {
		w := c.words
		if !under(w, "protocols static route") || len(w) < 5 {
			continue
		}
		to, err := netip.ParsePrefix(w[3])
		if err != nil {
			continue
		}
		connected := slices.ContainsFunc(b.cards, func(k *card) bool { return k.address.IsValid() && k.address.Masked() == to })
		outside := slices.ContainsFunc(b.cards, func(k *card) bool { return k.outside })
		switch {
		case to.Bits() == 0 && w[4] == "next-hop" && outside:
			c.say(Used, "networks.wan.gateway")
		case w[4] == "description":
			c.say(Dropped, "a description of a route; 1.3 does not even take it")
		case connected:
			c.say(Dropped, "the network is connected: a route to it by the router's own address does nothing")
		default:
			c.say(NotUnderstood, "a site file has no routes but the default one")
		}
	}
}

// tunnels gives the tunnel a network of its own where it shares one.
func (b *builder) tunnels() {
	if b.tunnel == nil {
		return
	}
	overlaps := func(p netip.Prefix) bool {
		return slices.ContainsFunc(b.cards, func(k *card) bool { return k.address.IsValid() && k.address.Overlaps(p) })
	}
	if !overlaps(b.tunnel.address) {
		return
	}
	old := b.tunnel.address
	for third := 20; third < 255; third++ {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(third), 1}), 24)
		if !overlaps(p) {
			b.tunnel.address = p
			break
		}
	}
	for _, c := range b.commands {
		if m := match(c.words, "interfaces wireguard * address *"); m != nil {
			c.say(Corrected, "it overlaps a LAN, and two connected routes for one prefix do not work: "+b.tunnel.address.String())
		}
	}
	b.note("the tunnel moved from " + old.String() + " to " + b.tunnel.address.String() + ": every client needs a new configuration")
}

// translations turn destination NAT into flows, and source NAT into nothing: inside networks always go out that way.
func (b *builder) translations() {
	for _, id := range b.order {
		r := b.rules[id]
		kind, _, _ := strings.Cut(id, "/")
		switch kind {
		case "nat source":
			_, named := r.values["source address"]
			for _, c := range r.lines {
				c.say(Used, "inside networks always go out under the router's address")
				if c.words[len(c.words)-1] == "masquerade" && !named {
					c.say(Corrected, "without a source address everything was masqueraded: now the inside networks are, by name")
				}
			}
		case "nat destination":
			b.forward(r)
		}
	}
}

func (b *builder) forward(r *rule) {
	to, err := netip.ParseAddr(r.values["translation address"])
	protocol, ports := r.values["protocol"], r.values["destination port"]
	if err != nil || (protocol != "tcp" && protocol != "udp") || ports == "" || strings.ContainsAny(ports, "!") {
		for _, c := range r.lines {
			c.say(NotUnderstood, "only one address with ports of tcp or udp becomes a flow")
		}
		return
	}
	f := b.flow("internet", b.hostOf(to))
	for _, p := range strings.Split(ports, ",") {
		f.ports = append(f.ports, p+"/"+protocol)
	}
	for _, c := range r.lines {
		c.say(Used, "flow "+f.name)
	}
}

// hostOf names the machine with an address.
func (b *builder) hostOf(a netip.Addr) string {
	if at := slices.IndexFunc(b.hosts, func(h host) bool { return h.address == a }); at >= 0 {
		return b.hosts[at].name
	}
	name := "host-" + strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
	b.hosts = append(b.hosts, host{name, a})
	return name
}

// flow finds or makes the flow between two.
func (b *builder) flow(from, to string) *flow {
	name := from + "-to-" + to
	if at := slices.IndexFunc(b.flows, func(f flow) bool { return f.name == name }); at >= 0 {
		return &b.flows[at]
	}
	b.flows = append(b.flows, flow{name: name, from: from, to: to})
	return &b.flows[len(b.flows)-1]
}
