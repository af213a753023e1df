package site

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
)

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
			l.oneOf(path+"/platform", "platform", n.Platform, sitefile.Words("Node.Platform")...)
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

// networksKnown reports whether every network could be read; if not, addresses only seem to be in the wrong place.
func (l *loader) networksKnown() bool {
	return len(l.site.Networks) == len(l.file.Networks) &&
		!slices.ContainsFunc(l.site.Networks, func(n Network) bool { return !n.Prefix.IsValid() })
}

// place4 finds the network of a node that has only an address.
func (l *loader) place4(path string, i Interface) *Network {
	if !i.Address.IsValid() {
		return nil
	}
	net := l.networkOf(i.Address)
	if net == nil && l.networksKnown() {
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
		case !l.networksKnown():
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
