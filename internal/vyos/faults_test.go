package vyos

import (
	"slices"
	"strings"
	"testing"
)

// output is a rendered configuration to ask questions of.
type output struct {
	t     tree
	v     Version
	lines []string
}

func (o output) has(path string) bool {
	words, _ := o.t.values(path)
	return len(words) > 0
}

func (o output) is(path string, want ...string) bool {
	got, _ := o.t.values(path)
	return slices.Equal(got, want)
}

// set is where a rule set of IPv4 stands in the release.
func (o output) set(name string) string {
	if o.v == V13 {
		return "firewall name " + name
	}
	return "firewall ipv4 name " + name
}

// accepts reports whether a rule set opens a port.
func (o output) accepts(set, protocol, port string) bool {
	for _, l := range o.t.lines {
		text := strings.Join(l, " ")
		if rule, ok := strings.CutSuffix(text, " destination port "+port); ok && strings.HasPrefix(text, o.set(set)+" rule ") &&
			o.is(rule+" action", "accept") && o.is(rule+" protocol", protocol) {
			return true
		}
	}
	return false
}

func (o output) switched(name, value string) bool {
	if o.v == V13 {
		return o.is("firewall "+name, value)
	}
	return o.is("firewall global-options "+name, value)
}

// bound reports whether packets from an interface to the router (local) or through it (in) meet a rule set.
func (o output) bound(card, direction, set string) bool {
	if o.v == V13 {
		return o.is("interfaces ethernet "+card+" firewall "+direction+" name", set)
	}
	hook := map[string]string{"in": "forward", "local": "input"}[direction]
	for _, l := range o.t.lines {
		text := strings.Join(l, " ")
		if rule, ok := strings.CutSuffix(text, " jump-target "+set); ok && strings.HasPrefix(text, "firewall ipv4 "+hook+" filter ") {
			name := "firewall ipv4 " + hook + " filter"
			return o.is(rule+" inbound-interface name", card) || strings.HasPrefix(rule, name) && !o.has(rule+" inbound-interface name")
		}
	}
	return false
}

// TestFaultsOfTheOriginalAreCorrected names each fault of the original configuration that is not one of syntax, and looks at
// what is rendered instead from the example site, which describes the same infrastructure.
func TestFaultsOfTheOriginalAreCorrected(t *testing.T) {
	faults := []struct {
		name string
		ok   func(o output) bool
	}{
		{"the filter for the router itself was bound to the LAN: now the WAN has its own", func(o output) bool {
			return o.bound("eth0", "local", outsideLocal) && o.bound("eth1", "local", insideLocal)
		}},
		{"time from the LAN was dropped: now the router answers it", func(o output) bool { return o.accepts(insideLocal, "udp", "123") }},
		{"80 and 443 were accepted and forwarded nowhere: now NAT sends them to the services VM", func(o output) bool {
			return o.is("nat destination rule * destination port", "80", "443") &&
				o.is("nat destination rule * translation address", "10.0.10.10", "10.0.10.10") &&
				o.accepts(outsideIn, "tcp", "80") && o.accepts(outsideIn, "tcp", "443")
		}},
		{"SSH was open from outside: now only the relay's flow opens it, from inside", func(o output) bool {
			for _, port := range []string{"22", "202"} {
				if o.accepts(outsideIn, "tcp", port) || o.accepts(outsideLocal, "tcp", port) {
					return false
				}
			}
			return o.accepts(insideLocal, "tcp", "202")
		}},
		{"the tunnel's port was closed: now it is open", func(o output) bool { return o.accepts(outsideLocal, "udp", "51820") }},
		{"SNMP was open without a service: now it is not", func(o output) bool {
			return !slices.ContainsFunc(o.t.lines, func(l Line) bool { return slices.Contains(l, "161") || slices.Contains(l, "snmp") })
		}},
		{"everything was masqueraded: now each inside network is named", func(o output) bool {
			return o.is("nat source rule * source address", "10.0.10.0/24", "10.0.20.0/24")
		}},
		{"the tunnel overlapped the LAN: now it has a network of its own", func(o output) bool {
			return o.is("interfaces wireguard wg0 address", "10.0.20.1/24") && o.is("interfaces ethernet eth1 address", "10.0.10.1/24")
		}},
		{"the peer's address was not in allowed-ips: now both come from one pool", func(o output) bool {
			return o.is("interfaces wireguard wg0 peer laptop allowed-ips", "10.0.20.2/32")
		}},
		{"keys lay in /etc/wireguard, readable by all: now no file and no line of ours has one", func(o output) bool {
			got, _ := o.t.values("interfaces wireguard wg0 private-key")
			return len(got) == 0 || o.v == V13 && slices.Equal(got, []string{"default"})
		}},
		{"one domain had two names: now it has one", func(o output) bool { return o.is("system domain-name", "projetpro.lab") }},
		{"IPv6 was not filtered: now every rule set has its twin, and it is bound", func(o output) bool {
			for _, set := range []string{outsideIn, outsideLocal, insideIn, insideLocal} {
				path := "firewall ipv6 name " + set + "-6 default-action"
				if o.v == V13 {
					path = "firewall ipv6-name " + set + "-6 default-action"
				}
				if !o.is(path, "drop") {
					return false
				}
			}
			if o.v == V13 {
				return o.is("interfaces ethernet eth0 firewall local ipv6-name", "OUTSIDE-LOCAL-6")
			}
			return o.is("firewall ipv6 input filter rule 10 jump-target", "OUTSIDE-LOCAL-6")
		}},
		{"sources were not validated and redirects were sent: now they are, and are not", func(o output) bool {
			return o.switched("source-validation", "loose") && o.switched("send-redirects", "disable")
		}},
		{"SSH listened everywhere, with passwords: now on the LAN's address, without", func(o output) bool {
			return o.is("service ssh listen-address", "10.0.10.1") && slices.Contains(o.lines, "set service ssh disable-password-authentication") &&
				o.is("service ssh port", "202")
		}},
		{"a route led to the LAN's own address: now there is none", func(o output) bool {
			return o.is("protocols static route * next-hop", "192.168.8.1")
		}},
		{"the user had a level that no release knows: now it has none", func(o output) bool { return !o.has("system login user * level") }},
		{"logins were not slowed down where they are let in: now they are", func(o output) bool {
			return o.has(o.set(insideLocal) + " rule * recent count")
		}},
	}
	for _, v := range Versions() {
		r, err := Render(example(t), v, Options{})
		if err != nil {
			t.Fatal(err)
		}
		o := output{tree{r.Lines}, v, nil}
		for _, l := range r.Lines {
			o.lines = append(o.lines, l.String())
		}
		for _, f := range faults {
			t.Run(v.String()+"/"+f.name, func(t *testing.T) {
				if !f.ok(o) {
					t.Error("it is not so")
				}
			})
		}
	}
	// The faults are real: the original has them, by the same questions.
	var lines []Line
	for _, s := range originalLines(t) {
		if l, err := ParseLine(s); err == nil {
			lines = append(lines, l)
		}
	}
	original := output{tree{lines}, V13, originalLines(t)}
	for _, f := range faults {
		if !strings.HasPrefix(f.name, "keys lay") && f.ok(original) {
			t.Errorf("the original does not have this fault by the test's question: %s", f.name)
		}
	}
}

// TestAnyNumberOfLANs: the text of the original wanted one WAN and two LANs, its configuration had one LAN.
func TestAnyNumberOfLANs(t *testing.T) {
	spec := exampleWith(t, "  vpn: {cidr: 10.0.20.0/24}", "  vpn: {cidr: 10.0.20.0/24}\n  lan2: {cidr: 10.0.30.0/24, gateway: 10.0.30.1}",
		"      eth1: {network: lan, address: 10.0.10.1, description: LAN}",
		"      eth1: {network: lan, address: 10.0.10.1, description: LAN}\n      eth2: {network: lan2, address: 10.0.30.1, description: LAN 2}")
	for _, v := range Versions() {
		r, err := Render(spec, v, Options{})
		if err != nil {
			t.Fatal(err)
		}
		o := output{tree{r.Lines}, v, nil}
		if !o.is("interfaces ethernet eth2 address", "10.0.30.1/24") || !o.bound("eth2", "local", insideLocal) || !o.bound("eth2", "in", insideIn) {
			t.Errorf("%s: the second LAN is not there, or not filtered", v)
		}
	}
}
