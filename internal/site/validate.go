package site

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a file is valid or not wherever it is read

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
	l.stacks()
	l.packages()
	l.flows()
	if !l.failed() {
		l.publishedOnce()
	}
	if !l.failed() {
		l.finish()
		l.zones()
		l.taskPackages()
	}
}

func (l *loader) general() {
	f, s := &l.file, l.site
	if l.pos.Has("site") && !isLabel(f.Site) {
		l.fail("site", labelHint, "site: %q is no name", f.Site)
	} else if l.pos.Has("site") && l.src.Site != "" && f.Site != l.src.Site {
		l.fail("site", "write site: "+l.src.Site+", or log in to the server of "+f.Site+": certificates carry the name, it never changes",
			"site: this is the file of %q, and the server is that of %q", f.Site, l.src.Site)
	}
	s.Name, s.Domain, s.PublicDomain, s.Timezone = f.Site, string(f.Domain), string(f.PublicDomain), f.Timezone
	if !l.pos.Has("timezone") {
		s.Timezone = "Etc/UTC"
	}
	s.publicAddress = f.PublicAddress.Addr
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
	if l.failedAt(path) {
		return
	}
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
