package vyos

import (
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// entry is one path that may be set. Words in angle brackets are values of that kind.
type entry struct {
	path []string
	// first and last are the releases that know the path.
	first, last Version
	// repeats says that the path may be set several times with other last values.
	repeats bool
}

// kinds are the kinds of values by their names in paths.
func kinds() map[string]check {
	return map[string]check{
		"hostname":    matching("host name", `[A-Za-z0-9][A-Za-z0-9.-]*[A-Za-z0-9]`),
		"domain":      domain(),
		"host":        host(),
		"timezone":    timezone,
		"revisions":   number("number of revisions", 65535),
		"login":       matching("login name", `[A-Za-z0-9_.-]{1,100}`),
		"name":        matching("name", `[^\s]{1,100}`),
		"text":        description,
		"base64":      base64Key,
		"keytype":     oneOf("type of key", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-ed25519"),
		"facility":    facility,
		"level":       oneOf("level", "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug", "all"),
		"address":     address,
		"address4":    address4,
		"client":      prefixOrAddress,
		"ifaddress":   ifAddress,
		"network":     network,
		"network4":    network4,
		"network6":    network6,
		"match":       match,
		"translation": translation,
		"port":        number("port", 65535),
		"ports":       ports,
		"mac":         mac,
		"ethernet":    matching("name of an Ethernet interface", `(eth|lan)[0-9]+|(eno|ens|enp|enx)[A-Za-z0-9]+`),
		"wireguard":   matching("name of a WireGuard interface", `wg[0-9]+`),
		"interface":   ifName(),
		"wgkey":       wireguardKey,
		"pair":        matching("name of a key pair", `[A-Za-z0-9_-]{1,64}`),
		"rule":        number("rule number", 999999),
		"protocol":    oneOf("protocol", "tcp", "udp", "icmp", "ipv6-icmp", "icmpv6", "all", "tcp_udp"),
		"onoff":       oneOf("switch", "enable", "disable"),
		"validation":  oneOf("source validation", "strict", "loose", "disable"),
		"ruleset":     ruleSet(),
		"default":     oneOf("default action", "drop", "accept", "reject"),
		"action":      action,
		"state":       oneOf("state", "established", "related", "new", "invalid"),
		"icmp":        oneOf("type of ICMP", "echo-request", "echo-reply", "destination-unreachable", "time-exceeded"),
		"count":       number("count", 255),
		"seconds":     number("number of seconds", 4294967),
		"unit":        oneOf("unit of time", "second", "minute", "hour"),
		"interval":    number("number of seconds", 65535),
	}
}

func facility(v Version, s string) error {
	words := []string{"all", "auth", "authpriv", "cron", "daemon", "kern", "lpr", "mail", "mark", "news", "syslog", "user", "uucp"}
	if strings.HasPrefix(s, "local") && len(s) == 6 && s[5] >= '0' && s[5] <= '7' || slices.Contains(words, s) {
		return nil
	}
	if v == V13 && (s == "protocols" || s == "security") {
		return nil
	}
	return wrong("syslog facility", s)
}

func action(v Version, s string) error {
	words := []string{"accept", "drop", "reject"}
	if v >= V14 {
		words = append(words, "jump", "return", "continue")
	}
	return oneOf("action", words...)(v, s)
}

// schema lists the paths that are used here, by release.
func schema() []entry {
	var list []entry
	add := func(first, last Version, repeats bool, paths ...string) {
		for _, p := range paths {
			list = append(list, entry{strings.Fields(p), first, last, repeats})
		}
	}
	add(V13, V15, false,
		"system host-name <hostname>", "system domain-name <domain>", "system time-zone <timezone>",
		"system config-management commit-revisions <revisions>",
		"system login user <login> full-name <text>",
		"system login user <login> authentication public-keys <name> key <base64>",
		"system login user <login> authentication public-keys <name> type <keytype>",
		"system login user <login> authentication public-keys <name> options <text>",
		"service ssh disable-password-authentication", "service ssh client-keepalive-interval <interval>",
		"interfaces ethernet <ethernet> description <text>", "interfaces ethernet <ethernet> hw-id <mac>",
		"interfaces wireguard <wireguard> port <port>", "interfaces wireguard <wireguard> description <text>",
	)
	add(V13, V15, true,
		"system name-server <address>", "service ssh port <port>", "service ssh listen-address <address>",
		"service ssh access-control allow user <login>",
		"interfaces ethernet <ethernet> address <ifaddress>", "interfaces wireguard <wireguard> address <ifaddress>",
		"interfaces wireguard <wireguard> peer <name> allowed-ips <network>",
		"protocols static route <network4> next-hop <address4>",
		"firewall group network-group <ruleset> network <network4>",
		"firewall group ipv6-network-group <ruleset> network <network6>",
	)
	add(V13, V14, false, "system syslog global facility <facility> level <level>")
	add(V15, V15, false, "system syslog local facility <facility> level <level>")
	add(V14, V15, false, "protocols static route <network4> description <text>")
	natPaths(add)
	firewallPaths(add)
	add(V13, V13, true, "system ntp server <host>")
	add(V14, V15, true, "service ntp server <host>", "service ntp allow-client address <client>")
	add(V13, V13, false, "interfaces wireguard <wireguard> private-key <pair>", "interfaces wireguard <wireguard> peer <name> pubkey <wgkey>")
	add(V14, V15, false, "interfaces wireguard <wireguard> private-key <wgkey>", "interfaces wireguard <wireguard> peer <name> public-key <wgkey>")
	return list
}

type adder func(first, last Version, repeats bool, paths ...string)

func natPaths(add adder) {
	add(V13, V15, false,
		"nat source rule <rule> description <text>", "nat source rule <rule> source address <match>",
		"nat source rule <rule> destination address <match>", "nat source rule <rule> translation address <translation>",
		"nat source rule <rule> exclude",
		"nat destination rule <rule> description <text>", "nat destination rule <rule> protocol <protocol>",
		"nat destination rule <rule> source address <match>",
		"nat destination rule <rule> destination port <ports>", "nat destination rule <rule> translation address <match>")
	add(V13, V13, false, "nat source rule <rule> outbound-interface <interface>", "nat destination rule <rule> inbound-interface <interface>")
	add(V14, V15, false, "nat source rule <rule> outbound-interface name <interface>",
		"nat destination rule <rule> inbound-interface name <interface>")
}

func firewallPaths(add adder) {
	for _, name := range []string{"all-ping", "broadcast-ping", "receive-redirects", "send-redirects", "syn-cookies", "twa-hazards-protection"} {
		add(V13, V13, false, "firewall "+name+" <onoff>")
		add(V14, V15, false, "firewall global-options "+name+" <onoff>")
	}
	add(V13, V13, false, "firewall source-validation <validation>")
	add(V14, V15, false, "firewall global-options source-validation <validation>")
	for _, f := range []struct{ old, family, group string }{{"name", "ipv4", "network-group"}, {"ipv6-name", "ipv6", "ipv6-network-group"}} {
		for _, p := range []struct {
			set         string
			first, last Version
		}{{"firewall " + f.old + " <ruleset>", V13, V13}, {"firewall " + f.family + " name <ruleset>", V14, V15}} {
			group := f.group
			if p.first == V14 {
				group = "network-group" // one name for both families from 1.4 on
			}
			add(p.first, p.last, false, p.set+" default-action <default>", p.set+" description <text>",
				p.set+" rule <rule> action <action>", p.set+" rule <rule> description <text>",
				p.set+" rule <rule> destination port <ports>", p.set+" rule <rule> protocol <protocol>",
				p.set+" rule <rule> source address <match>", p.set+" rule <rule> destination address <match>",
				p.set+" rule <rule> source group "+group+" <ruleset>", p.set+" rule <rule> destination group "+group+" <ruleset>",
				p.set+" rule <rule> recent count <count>")
		}
		add(V13, V13, false, "firewall "+f.old+" <ruleset> rule <rule> state <state> <onoff>",
			"firewall "+f.old+" <ruleset> rule <rule> recent time <seconds>",
			"interfaces ethernet <ethernet> firewall in "+f.old+" <ruleset>", "interfaces ethernet <ethernet> firewall local "+f.old+" <ruleset>",
			"interfaces wireguard <wireguard> firewall in "+f.old+" <ruleset>", "interfaces wireguard <wireguard> firewall local "+f.old+" <ruleset>")
		add(V14, V15, true, "firewall "+f.family+" name <ruleset> rule <rule> state <state>")
		add(V14, V15, false, "firewall "+f.family+" name <ruleset> rule <rule> recent time <unit>")
		for _, hook := range []string{"forward", "input", "output"} {
			base := "firewall " + f.family + " " + hook + " filter rule <rule> "
			add(V14, V15, false, base+"action <action>", base+"jump-target <ruleset>", base+"description <text>")
			side := "inbound"
			if hook == "output" {
				side = "outbound"
			}
			add(V14, V15, false, base+side+"-interface name <interface>")
		}
	}
	add(V13, V13, false, "firewall name <ruleset> rule <rule> icmp type-name <icmp>")
	add(V14, V15, false, "firewall ipv4 name <ruleset> rule <rule> icmp type-name <icmp>")
}

// Checker checks lines for one release.
type Checker struct {
	version Version
	kinds   map[string]check
	entries map[string][]entry // by the first two words
}

// NewChecker returns a checker for a release.
func NewChecker(v Version) *Checker {
	c := &Checker{version: v, kinds: kinds(), entries: map[string][]entry{}}
	for _, e := range schema() {
		if e.first <= v && v <= e.last {
			c.entries[e.path[0]] = append(c.entries[e.path[0]], e)
		}
	}
	return c
}

// Line checks one line by itself: its path is known to the release and its values are of their kinds. The error is Invalid and
// says how far the path was understood.
func (c *Checker) Line(l Line) error {
	_, err := c.find(l)
	return err
}

// find returns the entry that a line sets.
func (c *Checker) find(l Line) (entry, error) {
	for _, w := range l {
		if err := quotable(w); err != nil {
			return entry{}, err
		}
	}
	best, bestErr := 0, error(nil)
	if len(l) == 0 {
		return entry{}, errs.New(errs.Invalid, "the line sets nothing")
	}
	for _, e := range c.entries[l[0]] {
		depth, err := c.fits(e, l)
		if err == nil && depth == len(l) && depth == len(e.path) {
			return e, nil
		}
		if depth > best || depth == best && err != nil && bestErr == nil {
			best, bestErr = depth, err
		}
	}
	if bestErr != nil {
		return entry{}, errs.New(errs.Invalid, "%s: %w", strings.Join(l[:best], " "), bestErr)
	}
	if best == len(l) {
		return entry{}, errs.New(errs.Invalid, "%s does not know %q without more words", c.version, strings.Join(l, " "))
	}
	return entry{}, errs.New(errs.Invalid, "%s does not know %q after %q", c.version, l[best], strings.Join(l[:best], " "))
}

// fits returns how many words of the line the entry explains, and what is wrong with the value behind them.
func (c *Checker) fits(e entry, l Line) (int, error) {
	for i, w := range l {
		if i == len(e.path) {
			return i, nil
		}
		if kind, ok := strings.CutPrefix(e.path[i], "<"); ok {
			if err := c.kinds[strings.TrimSuffix(kind, ">")](c.version, w); err != nil {
				return i, err
			}
		} else if e.path[i] != w {
			return i, nil
		}
	}
	return len(l), nil
}
