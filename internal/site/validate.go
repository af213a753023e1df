package site

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
)

const labelHint = "a name has small letters, digits and hyphens, at most 63, and a letter in it"

func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	letter := false
	for _, r := range []byte(s) {
		switch {
		case 'a' <= r && r <= 'z':
			letter = true
		case r != '-' && (r < '0' || r > '9'):
			return false
		}
	}
	return letter
}

// roles are the roles of nodes.
func roles() []string {
	return []string{RoleRouter, RoleRelay, RoleServices, RoleSupervision, RoleProd, RolePreprod}
}

// reserved are the principals that are no names.
func reserved() []string { return []string{"internet", "all", "instances", "outside", "localhost"} }

func (l *loader) validate() {
	l.general()
	l.networks()
	l.nodes()
	l.hosts()
	l.gateways()
	l.probes()
	l.principals()
	l.server()
	l.ssh()
	l.accounts()
	l.rollout()
	l.planned()
	l.flows()
	if !l.failed() {
		l.finish()
	}
}

func (l *loader) general() {
	f, s := &l.file, l.site
	if l.pos.Has("site") && !isLabel(f.Site) {
		l.fail("site", labelHint, "site: %q is no name", f.Site)
	}
	s.Name, s.Domain, s.PublicDomain, s.Timezone = f.Site, string(f.Domain), string(f.PublicDomain), f.Timezone
	if !l.pos.Has("timezone") {
		s.Timezone = "Etc/UTC"
	}
	l.timezone("timezone", s.Timezone)
	for i, n := range f.NTP {
		if slices.Contains(s.NTP, string(n)) {
			l.fail(yamltree.Join("ntp", strconv.Itoa(i)), "", "ntp: %s is given twice", n)
		}
		if n != "" {
			s.NTP = append(s.NTP, string(n))
		}
	}
	if len(f.NTP) == 0 && l.pos.Has("nodes") {
		l.warn("", "set ntp to two or more servers", "no time servers: the clocks of the nodes will drift")
	}
}

func (l *loader) timezone(path, name string) {
	// Local would be the zone of the machine that reads the file.
	if name != "" && name != "Local" {
		if _, err := time.LoadLocation(name); err == nil {
			return
		}
	}
	l.fail(path, "write it like Europe/Paris", "%s: there is no time zone %q", strings.ReplaceAll(path, "/", "."), name)
}

// name checks a key that is a name, and reports whether it can be used.
func (l *loader) name(path, kind, name string) bool {
	if isLabel(name) {
		return true
	}
	l.failKey(path, labelHint, "%q is no name for a %s", name, kind)
	return false
}

func (l *loader) networks() {
	for _, p := range l.file.Networks {
		path := yamltree.Join("networks", p.Key)
		if !l.name(path, "network", p.Key) {
			continue
		}
		n := Network{Name: p.Key, Prefix: p.Value.CIDR.Prefix, Prefix6: p.Value.CIDR6.Prefix, Gateway: p.Value.Gateway.Addr}
		l.cidr(path+"/cidr", n.Prefix, true)
		l.cidr(path+"/cidr6", n.Prefix6, false)
		for _, other := range l.site.Networks {
			for _, pair := range [][2]netip.Prefix{{n.Prefix, other.Prefix}, {n.Prefix6, other.Prefix6}} {
				if pair[0].IsValid() && pair[1].IsValid() && pair[0].Overlaps(pair[1]) {
					l.fail(path, "", "network %s (%s) overlaps with %s (%s)", n.Name, pair[0], other.Name, pair[1])
				}
			}
		}
		if n.Gateway.IsValid() && n.Prefix.IsValid() && !usable(&n, n.Gateway) {
			l.fail(path+"/gateway", "", "gateway %s is no address that a machine can have in %s", n.Gateway, n.Prefix)
		}
		l.site.Networks = append(l.site.Networks, n)
	}
	if l.pos.Has("networks") && len(l.file.Networks) == 0 {
		l.fail("networks", "", "there is no network")
	}
}

// never are addresses that no site network can have.
func never() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
		netip.MustParsePrefix("224.0.0.0/3"), netip.MustParsePrefix("::/8"), netip.MustParsePrefix("fe80::/10"),
		netip.MustParsePrefix("ff00::/8"),
	}
}

func (l *loader) cidr(path string, p netip.Prefix, v4 bool) {
	if !p.IsValid() {
		return
	}
	if p.Addr().Is4() != v4 {
		l.fail(path, "cidr is IPv4, cidr6 is IPv6", "%s has the wrong family", p)
		return
	}
	if v4 && (p.Bits() < 8 || p.Bits() > 30) || !v4 && (p.Bits() < 32 || p.Bits() > 126) {
		l.fail(path, "", "%s is too large or too small for a network", p)
	}
	for _, n := range never() {
		if n.Overlaps(p) {
			l.fail(path, "", "%s lies in %s, which no site network can use", p, n)
		}
	}
}

// usable reports whether a machine can have the address: it lies in the network and is neither its first nor its last.
func usable(n *Network, a netip.Addr) bool {
	if !n.Contains(a) {
		return false
	}
	p := n.Prefix
	if a.Is6() {
		p = n.Prefix6
	}
	return a != p.Addr() && n.Contains(a.Next())
}

func (l *loader) networkOf(a netip.Addr) *Network {
	i := slices.IndexFunc(l.site.Networks, func(n Network) bool { return n.Contains(a) })
	if i < 0 {
		return nil
	}
	return &l.site.Networks[i]
}

func (l *loader) nodes() {
	for _, p := range l.file.Nodes {
		path := yamltree.Join("nodes", p.Key)
		if !l.name(path, "node", p.Key) {
			continue
		}
		n := Node{Name: p.Key, Role: p.Value.Role, Platform: p.Value.Platform}
		if n.Platform == "" {
			n.Platform = PlatformLinux
		}
		l.oneOf(path+"/role", "role", n.Role, roles()...)
		switch {
		case n.Role == RoleRouter:
			l.oneOf(path+"/platform", "platform", n.Platform, PlatformLinux, "vyos-1.3", "vyos-1.4", "vyos-1.5")
		case n.Platform != PlatformLinux:
			l.fail(path+"/platform", "only the router may have another platform than linux", "platform %q on a node that is no router", n.Platform)
		}
		l.interfaces(path, &n, p.Value)
		l.site.Nodes = append(l.site.Nodes, n)
	}
	l.countRoles()
}

// oneOf checks a word; an absent one was reported where the file was read, or is optional.
func (l *loader) oneOf(path, what, word string, words ...string) {
	if word == "" && !l.pos.Has(path) || slices.Contains(words, word) {
		return
	}
	hint := "it is one of " + strings.Join(words, ", ")
	if like := yamltree.Similar(word, words); like != "" {
		hint = "did you mean " + like + "?"
	}
	l.fail(path, hint, "%s: %q is not known", what, word)
}

var interfaceForm = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,14}$`)

func (l *loader) interfaces(path string, n *Node, f sitefile.Node) {
	single := l.pos.Has(path+"/address") || l.pos.Has(path+"/address6")
	switch {
	case single && !l.pos.Has(path+"/address"):
		l.fail(path+"/address6", "add its IPv4 address", "node %s has no address", n.Name)
		return
	case single && len(f.Interfaces) > 0:
		l.fail(path+"/interfaces", "keep one of the two", "node %s has an address and interfaces", n.Name)
		return
	case !single && len(f.Interfaces) == 0:
		l.failKey(path, "give it an address, or interfaces", "node %s has no address", n.Name)
		return
	case single:
		i := Interface{Address: f.Address.Addr, Address6: f.Address6.Addr}
		if net := l.place4(path, i); net != nil {
			i.Network = net.Name
			l.interfaceAddresses(path, n, i, net)
		}
		n.Interfaces = []Interface{i}
		return
	}
	for _, p := range f.Interfaces {
		at := yamltree.Join(path, "interfaces", p.Key)
		if !interfaceForm.MatchString(p.Key) {
			l.failKey(at, "a name like eth0, at most 15 characters", "%q is no name of an interface", p.Key)
		}
		i := Interface{
			Name: p.Key, Network: p.Value.Network, Address: p.Value.Address.Addr, Address6: p.Value.Address6.Addr,
			Description: p.Value.Description,
		}
		if strings.ContainsFunc(i.Description, func(r rune) bool { return r < ' ' }) || len(i.Description) > 200 {
			l.fail(at+"/description", "", "a description is one line of 200 characters at most")
		}
		if net, ok := l.site.Network(i.Network); ok {
			l.interfaceAddresses(at, n, i, net)
		} else if l.hasPath(at + "/network") {
			l.unknownNetwork(at+"/network", i.Network)
		}
		for _, other := range n.Interfaces {
			if other.Network == i.Network {
				l.failKey(at, "", "node %s has two interfaces in network %s", n.Name, i.Network)
			}
		}
		n.Interfaces = append(n.Interfaces, i)
	}
}

// hasPath reports whether the site, or the overlay that added to it, has the path.
func (l *loader) hasPath(path string) bool {
	return l.pos.Has(path) || l.opos != nil && l.opos.Has(path)
}

func (l *loader) unknownNetwork(path, name string) {
	var names []string
	for _, n := range l.site.Networks {
		names = append(names, n.Name)
	}
	l.fail(path, l.among(name, names), "there is no network %q", name)
}

func (l *loader) among(word string, words []string) string {
	if like := yamltree.Similar(word, words); like != "" {
		return "did you mean " + like + "?"
	}
	if len(words) == 0 || len(words) > 20 {
		return ""
	}
	return "known are " + strings.Join(words, ", ")
}

// place4 finds the network of a node that has only an address.
func (l *loader) place4(path string, i Interface) *Network {
	if !i.Address.IsValid() {
		return nil
	}
	net := l.networkOf(i.Address)
	if net == nil {
		l.fail(path+"/address", "correct the address, or add its network", "address %s lies in no network of the site", i.Address)
	}
	return net
}

func (l *loader) interfaceAddresses(path string, n *Node, i Interface, net *Network) {
	for _, c := range []struct {
		key  string
		addr netip.Addr
		v4   bool
	}{{"/address", i.Address, true}, {"/address6", i.Address6, false}} {
		if !c.addr.IsValid() {
			continue
		}
		at := path + c.key
		if c.addr.Is4() != c.v4 {
			l.fail(at, "address is IPv4, address6 is IPv6", "%s has the wrong family", c.addr)
			continue
		}
		switch {
		case !net.Contains(c.addr):
			l.fail(at, "", "address %s lies outside of network %s", c.addr, net.Name)
		case !usable(net, c.addr):
			l.fail(at, "", "address %s is the first or the last one of network %s", c.addr, net.Name)
		}
		l.unique(at, c.addr, n)
	}
}

// unique reports an address that somebody has already; self is the node that is being read, not yet in the list.
func (l *loader) unique(path string, a netip.Addr, self *Node) {
	owner := l.owner(a)
	if owner == "" && self != nil {
		for _, i := range self.Interfaces {
			if i.Address == a || i.Address6 == a {
				owner = self.Name
			}
		}
	}
	if owner != "" {
		l.fail(path, "", "address %s belongs to %s already", a, owner)
	}
}

func (l *loader) owner(a netip.Addr) string {
	for _, n := range l.site.Nodes {
		for _, i := range n.Interfaces {
			if i.Address == a || i.Address6 == a {
				return n.Name
			}
		}
	}
	for _, h := range l.site.Hosts {
		if h.Address == a || h.Address6 == a {
			return h.Name
		}
	}
	return ""
}

func (l *loader) countRoles() {
	if !l.pos.Has("nodes") {
		return
	}
	if len(l.file.Nodes) == 0 {
		l.fail("nodes", "", "there is no node")
		return
	}
	count := map[string][]string{}
	for _, n := range l.site.Nodes {
		count[n.Role] = append(count[n.Role], n.Name)
	}
	for _, role := range []string{RoleRelay, RoleRouter} {
		if list := count[role]; len(list) > 1 {
			l.fail(yamltree.Join("nodes", list[1], "role"), "", "%s and %s both have the role %s; there is exactly one", list[0], list[1], role)
		}
	}
	if len(count[RoleRelay]) == 0 {
		l.failKey("nodes", "give one node the role relay: it is the way in by SSH", "no node has the role relay")
	}
	if len(count[RoleRouter]) == 0 && len(l.site.Networks) > 1 {
		l.failKey("nodes", "give one node the role router, or keep one network", "no node has the role router, and there are %d networks", len(l.site.Networks))
	}
}
