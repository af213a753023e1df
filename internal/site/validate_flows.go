package site

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
)

// maxPorts is the greatest number of ports entries of one flow, maxFlows that of flows.
const (
	maxPorts = 32
	maxFlows = 500
)

func (l *loader) flows() {
	seen := map[string]bool{}
	for i, f := range l.file.Flows {
		path := yamltree.Join("flows", strconv.Itoa(i))
		if i == maxFlows {
			l.fail(path, "a network or a role as principal saves many lines", "more than %d flows", maxFlows)
			return
		}
		if l.pos.Has(path + "/name") {
			if !isLabel(f.Name) {
				l.fail(path+"/name", labelHint, "%q is no name for a flow", f.Name)
			} else if seen[f.Name] {
				l.fail(path+"/name", "flows have names of their own", "there is a flow %s already", f.Name)
			}
			seen[f.Name] = true
		}
		if l.failedBelow(path) {
			// Sides and ports that could not be read would only lead to errors that follow from them.
			l.flowSides(path, f)
			continue
		}
		line := flow{Flow: Flow{
			Name: f.Name, From: f.From, To: f.To, Ports: l.flowPorts(path, f.Ports),
			Reason: "flow " + f.Name + " of the site file", Where: l.where(path),
		}}
		line.from, line.to = l.flowSides(path, f)
		l.site.flows = append(l.site.flows, line)
	}
}

// failedBelow reports whether the entry of a list has an error of its own.
func (l *loader) failedBelow(path string) bool {
	for _, key := range []string{"from", "to", "ports"} {
		if !l.pos.Has(path + "/" + key) {
			return true
		}
	}
	return false
}

func (d *side) empty() bool { return !d.internet && len(d.prefixes) == 0 }

func (l *loader) flowSides(path string, f sitefile.Flow) (from, to side) {
	from, okFrom := l.flowSide(path+"/from", f.From)
	to, okTo := l.flowSide(path+"/to", f.To)
	if !okFrom || !okTo {
		return side{}, side{}
	}
	switch {
	case from.internet && to.internet:
		l.fail(path, "", "both sides are internet: nothing of that passes here")
	case from.machines && to.machines && len(from.nodes) == 1 && slices.Equal(from.nodes, to.nodes):
		l.fail(path, "remove the flow", "both sides are %s: a node may always talk to itself", from.nodes[0])
	}
	return from, to
}

func (l *loader) flowSide(path, name string) (side, bool) {
	if !l.pos.Has(path) {
		return side{}, false
	}
	d, ok := l.site.side(name)
	if !ok {
		l.fail(path, l.principalHint(name), "there is no principal %q", name)
		return d, false
	}
	if d.instances && strings.HasSuffix(path, "/to") {
		l.warn(path, "remove the flow", "nothing reaches an instance but the proxy, by the front of its host: this adds no rules")
		return side{}, true
	}
	if d.empty() {
		l.info(path, "%s adds no rules yet: containers are not managed yet", name)
	}
	return d, true
}

func (l *loader) principalHint(name string) string {
	s := l.site
	names := []string{"internet", "all", "instances"}
	for _, n := range s.Networks {
		names = append(names, n.Name)
	}
	names = append(names, s.NodeNames()...)
	for _, h := range s.Hosts {
		names = append(names, h.Name)
	}
	for _, r := range roles() {
		if s.withRole(r) != nil {
			names = append(names, r)
		}
	}
	for _, st := range s.stacks {
		names = append(names, "stack:"+st)
	}
	if name == "instances" {
		return "instances exist with a dolibarr section"
	}
	if slices.Contains(roles(), name) {
		return "no node has this role"
	}
	if like := yamltree.Similar(name, names); like != "" {
		return "did you mean " + like + "?"
	}
	return "write a node, an entry of hosts, a role, a network, internet, all, stack:NAME or instances"
}

func (l *loader) flowPorts(path string, list []sitefile.PortSpec) []Port {
	if len(list) == 0 {
		l.fail(path+"/ports", "", "a flow needs a port")
	}
	if len(list) > maxPorts {
		l.fail(path+"/ports", "use ranges, or several flows", "more than %d ports in one flow", maxPorts)
		return nil
	}
	var out []Port
	for i, p := range list {
		at := yamltree.Join(path, "ports", strconv.Itoa(i))
		port := Port{p.Proto, p.First, p.Last}
		if p.SSH {
			port = Port{"tcp", l.site.SSH.Port, l.site.SSH.Port}
		}
		if port.First == 0 {
			continue // it could not be read
		}
		for _, o := range out {
			if o.Proto == port.Proto && o.First <= port.Last && port.First <= o.Last {
				l.fail(at, "", "port %s is in %s already", port, o)
			}
		}
		out = append(out, port)
	}
	return out
}

// finish completes a site without errors: implied flows, and what they must guarantee.
func (l *loader) finish() {
	s := l.site
	s.flows = append(s.flows, s.impliedFlows()...)
	relay := s.Relay()
	var closed []string
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if n.Name == relay.Name {
			continue
		}
		if _, ok := s.Allowed(s.sourceTowards(relay, n.main), n.main, "tcp", s.SSH.Port); !ok {
			closed = append(closed, n.Name)
		}
	}
	if len(closed) > 0 {
		l.failKey("flows", "add {name: bastion, from: "+relay.Name+", to: all, ports: [ssh]}",
			"no flow lets the relay %s log in on %s: nobody could repair what goes wrong there", relay.Name, strings.Join(closed, ", "))
	}
	if !s.sshOpen(relay) {
		l.failKey("flows", "add {name: admin, from: NETWORK, to: "+relay.Name+", ports: [ssh]}",
			"no flow lets anybody log in on the relay %s: it is the only way in", relay.Name)
	}
	l.exposed()
	l.published()
	for i := range s.Nodes {
		if n := &s.Nodes[i]; !n.Linux() {
			l.info(yamltree.Join("nodes", n.Name, "platform"), "the configuration of %s was never tried on a running router (docs/support.md): %s",
				n.Platform, "look at `infractl router render` first")
		}
	}
}

// sshOpen reports whether anything but the node itself may log in on it.
func (s *Site) sshOpen(n *Node) bool {
	for i := range s.flows {
		f := &s.flows[i]
		if !f.matches("tcp", s.SSH.Port) || !s.covers(&f.to, n.main) {
			continue
		}
		if f.from.internet || slices.ContainsFunc(f.from.prefixes, func(p netip.Prefix) bool {
			return !p.IsSingleIP() || !slices.Contains(n.Addresses(), p.Addr())
		}) {
			return true
		}
	}
	return false
}

// exposed warns of ways that are open to more people than they should be.
func (l *loader) exposed() {
	s := l.site
	for i := range s.flows {
		f := &s.flows[i]
		if f.Implied || !f.from.internet {
			continue
		}
		path := yamltree.Join("flows", strconv.Itoa(l.flowIndex(f.Name)), "from")
		for _, c := range []struct {
			port uint16
			what string
		}{{s.SSH.Port, "SSH"}, {s.Server.Port, "the server"}, {s.Server.EnrolPort, "enrolment"}} {
			if f.matches("tcp", c.port) {
				l.warn(path, "use the VPN", "flow %s opens %s to the whole internet", f.Name, c.what)
			}
		}
	}
}

func (l *loader) flowIndex(name string) int {
	return slices.IndexFunc(l.file.Flows, func(f sitefile.Flow) bool { return f.Name == name })
}
