package site_test

import (
	"flag"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/infractl/infractl/internal/hostspec"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/site/sitetest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// TestMain lowers the number of random sites: each is expensive under the race detector. -rapid.checks=1000 asks for more.
func TestMain(m *testing.M) {
	checks := flag.Lookup("rapid.checks")
	if err := checks.Value.Set("40"); err != nil {
		panic(err)
	}
	m.Run()
}

// TestRandomSites checks many sites: the example with its overlay after some edits.
func TestRandomSites(t *testing.T) {
	src := site.Source{File: "site.yaml", WithoutFiles: true, OverlayFile: "lab.yaml"}
	var err error
	if src.Content, err = os.ReadFile("../../examples/projetpro/site.yaml"); err != nil {
		t.Fatal(err)
	}
	if src.OverlayContent, err = os.ReadFile("../../examples/projetpro/lab.yaml"); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		next := src
		next.Content = sitetest.Mutate(sitetest.FromRapid(t), src, sitetest.Options{Edits: rapid.IntRange(1, 12).Draw(t, "edits")})
		s, findings := site.Load(next)
		if s == nil {
			t.Fatalf("refused: %v\n%s", findings[0], next.Content)
		}
		specs, err := s.HostSpecs(site.Resources{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if t.Failed() {
				t.Logf("site:\n%s", next.Content)
			}
		}()
		rulesAgreeWithTheMatrix(t, s, specs)
		nobodyIsLockedOut(t, s, specs)
		rulesAreWellFormed(t, s, specs)
		wavesTakeEveryNodeOnce(t, s)
		witnessesCanSucceed(t, s, specs)
	})
}

// network is what the rules of all hosts make of the site.
type network struct {
	s      *site.Site
	specs  map[string]*v1.HostSpec
	parsed map[string]netip.Prefix
}

func newNetwork(s *site.Site, specs map[string]*v1.HostSpec) *network {
	return &network{s, specs, map[string]netip.Prefix{}}
}

func (n *network) nodeAt(a netip.Addr) *site.Node {
	for i := range n.s.Nodes {
		if slices.Contains(n.s.Nodes[i].Addresses(), a) {
			return &n.s.Nodes[i]
		}
	}
	return nil
}

func (n *network) zone(a netip.Addr) string {
	for _, net := range n.s.Networks {
		if net.Contains(a) && !net.Outside {
			return net.Name
		}
	}
	return ""
}

// passes reports whether the rules let a connection through, and whether any host has a say in it.
func (n *network) passes(from, to netip.Addr, proto string, port uint16) (open, judged bool) {
	a, b := n.nodeAt(from), n.nodeAt(to)
	if a != nil && a == b {
		return true, true
	}
	open = true
	ask := func(node *site.Node, hook v1.FirewallHook) {
		if spec := n.specs[node.Name].GetFirewall(); spec != nil {
			judged = true
			open = open && slices.ContainsFunc(spec.Rules, func(r *v1.FirewallRule) bool {
				return r.Hook == hook && n.accepts(spec, r, from, to, proto, port)
			})
		}
	}
	if a != nil {
		ask(a, v1.FirewallHook_FIREWALL_HOOK_OUTPUT)
	}
	if b != nil {
		ask(b, v1.FirewallHook_FIREWALL_HOOK_INPUT)
	}
	if r := n.s.Router(); r != nil && n.crosses(r, a, b, from, to) {
		ask(r, v1.FirewallHook_FIREWALL_HOOK_FORWARD)
	}
	return open, judged
}

func (n *network) crosses(r, a, b *site.Node, from, to netip.Addr) bool {
	if n.zone(from) == n.zone(to) || a == r || b == r {
		return false
	}
	return a == nil || !slices.ContainsFunc(a.Addresses(), func(x netip.Addr) bool { return n.zone(x) == n.zone(to) })
}

func (n *network) accepts(spec *v1.FirewallSpec, r *v1.FirewallRule, from, to netip.Addr, proto string, port uint16) bool {
	return r.Protocol == proto && slices.ContainsFunc(r.Ports, func(p *v1.PortRange) bool {
		return p.First <= uint32(port) && uint32(port) <= p.Last
	}) && n.side(spec, r.From, from) && n.side(spec, r.To, to)
}

func (n *network) side(spec *v1.FirewallSpec, e *v1.Endpoint, a netip.Addr) bool {
	if e.Internet {
		return !n.in(spec.InsidePrefixes, a)
	}
	return n.in(e.Prefixes, a)
}

func (n *network) in(list []string, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(text string) bool {
		p, ok := n.parsed[text]
		if !ok {
			p = netip.MustParsePrefix(text)
			n.parsed[text] = p
		}
		return p.Contains(a)
	})
}

// addresses are all that matter: those of nodes, hosts and probes, a free one in each network, and some far away.
func addresses(s *site.Site) []netip.Addr {
	out := []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::7")}
	for i := range s.Nodes {
		out = append(out, s.Nodes[i].Addresses()...)
	}
	for i := range s.Hosts {
		out = append(out, s.Hosts[i].Addresses()...)
	}
	for _, p := range s.Probes {
		out = append(out, p.Address)
	}
	for _, n := range s.Networks {
		out = append(out, n.Prefix.Addr().Next().Next())
		if n.Prefix6.IsValid() {
			b := n.Prefix6.Addr().As16()
			b[14] = 0xee
			out = append(out, netip.AddrFrom16(b))
		}
	}
	return out
}

func ports(s *site.Site) []site.Port {
	out := []site.Port{{Proto: "tcp", First: 6000, Last: 6000}}
	for _, f := range s.Flows() {
		for _, p := range f.Ports {
			for _, q := range []uint16{p.First - 1, p.First, p.Last, p.Last + 1} {
				if q != 0 {
					out = append(out, site.Port{Proto: p.Proto, First: q, Last: q})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b site.Port) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(out)
}

func rulesAgreeWithTheMatrix(t *rapid.T, s *site.Site, specs map[string]*v1.HostSpec) {
	n := newNetwork(s, specs)
	list, services := addresses(s), ports(s)
	for _, from := range list {
		for _, to := range list {
			if from.Is4() != to.Is4() || from == to {
				continue
			}
			for _, p := range services {
				open, judged := n.passes(from, to, p.Proto, p.First)
				if f, want := s.Allowed(from, to, p.Proto, p.First); judged && open != want {
					t.Fatalf("%s to %s %s: the rules say %t, the matrix %t (%s)", from, to, p, open, want, f.Name)
				}
			}
		}
	}
}

func nobodyIsLockedOut(t *rapid.T, s *site.Site, specs map[string]*v1.HostSpec) {
	n := newNetwork(s, specs)
	server, relay := s.ServerNode(), s.Relay()
	reaches := func(from, to *site.Node, port uint16) bool {
		return slices.ContainsFunc(from.Addresses(), func(a netip.Addr) bool {
			open, _ := n.passes(a, to.MainAddress(), "tcp", port)
			return open && a.Is4()
		})
	}
	people := false
	for i := range s.Nodes {
		node := &s.Nodes[i]
		if !reaches(node, server, s.Server.Port) {
			t.Errorf("%s cannot reach the server", node.Name)
		}
		if !reaches(relay, node, s.SSH.Port) {
			t.Errorf("the relay cannot reach %s by SSH", node.Name)
		}
		sshd := specs[node.Name].GetSshd()
		if node.Linux() && (len(sshd.ListenAddresses) == 0 || len(sshd.AllowUsers) == 0 || sshd.Port != uint32(s.SSH.Port)) {
			t.Errorf("%s: nobody can log in: %v", node.Name, sshd)
		}
		if node.Linux() && !slices.Contains(sshd.ListenAddresses, node.MainAddress().String()) {
			t.Errorf("%s does not listen where the relay comes", node.Name)
		}
		if node.Linux() && node.Name != relay.Name && !allowedFrom(sshd, relay) {
			t.Errorf("%s: sshd refuses the relay: %v", node.Name, sshd.AllowFrom)
		}
	}
	for _, r := range specs[relay.Name].GetFirewall().GetRules() {
		people = people || r.Hook == v1.FirewallHook_FIREWALL_HOOK_INPUT && accepted(r, s.SSH.Port)
	}
	if !people {
		t.Error("nobody gets in on the relay")
	}
}

func accepted(r *v1.FirewallRule, port uint16) bool {
	return r.Protocol == "tcp" && slices.ContainsFunc(r.Ports, func(p *v1.PortRange) bool {
		return p.First <= uint32(port) && uint32(port) <= p.Last
	})
}

func allowedFrom(spec *v1.SshdSpec, from *site.Node) bool {
	return len(spec.AllowFrom) == 0 || slices.ContainsFunc(spec.AllowFrom, func(p string) bool {
		return slices.ContainsFunc(from.Addresses(), netip.MustParsePrefix(p).Contains)
	})
}

func rulesAreWellFormed(t *rapid.T, s *site.Site, specs map[string]*v1.HostSpec) {
	flows := map[string]bool{}
	for _, f := range s.Flows() {
		if flows[f.Name] {
			t.Errorf("two flows are called %s", f.Name)
		}
		flows[f.Name] = true
	}
	again, err := s.HostSpecs(site.Resources{})
	if err != nil {
		t.Fatal(err)
	}
	for name, spec := range specs {
		content, digest, err := hostspec.Encode(spec)
		if err != nil {
			t.Fatal(err)
		}
		if _, other, _ := hostspec.Encode(again[name]); other != digest {
			t.Errorf("%s: not the same twice", name)
		}
		if _, err := hostspec.Decode(content, digest); err != nil {
			t.Error(err)
		}
		for _, r := range spec.GetFirewall().GetRules() {
			if r.Reason == "" || !flows[r.Flow] || len(r.Ports) == 0 || slices.Contains(r.Peers, name) {
				t.Errorf("%s: %v", name, r)
			}
			if r.Containers && (accepted(r, s.SSH.Port) || !spec.Firewall.DockerHost) {
				t.Errorf("%s: not for containers: %v", name, r)
			}
			if r.Hook == v1.FirewallHook_FIREWALL_HOOK_FORWARD && spec.GetRouter().GetPlatform() != "" {
				onlyCrossing(t, s, r)
			}
			for _, e := range []*v1.Endpoint{r.From, r.To} {
				if e.Internet == (len(e.Prefixes) > 0) || !slices.IsSorted(sortKeys(e.Prefixes)) {
					t.Errorf("%s: endpoint of %v", name, r)
				}
			}
		}
	}
}

// onlyCrossing checks that a rule of the router names no pair that does not pass it.
func onlyCrossing(t *rapid.T, s *site.Site, r *v1.FirewallRule) {
	n := newNetwork(s, nil)
	zones := func(e *v1.Endpoint) []string {
		var out []string
		if e.Internet {
			out = append(out, "")
		}
		for _, p := range e.Prefixes {
			a := netip.MustParsePrefix(p).Addr()
			if n.nodeAt(a) == s.Router() {
				t.Errorf("the router's own address in %v", r)
			}
			out = append(out, n.zone(a))
		}
		return out
	}
	for _, z := range zones(r.From) {
		if slices.Contains(zones(r.To), z) {
			t.Errorf("%q to itself in %v", z, r)
		}
	}
}

func sortKeys(prefixes []string) []string {
	out := make([]string, 0, len(prefixes))
	for _, p := range prefixes {
		b := netip.MustParsePrefix(p)
		a := b.Addr().As16()
		out = append(out, map[bool]string{true: "4", false: "6"}[b.Addr().Is4()]+string(a[:])+string(rune(b.Bits())))
	}
	return out
}

func wavesTakeEveryNodeOnce(t *rapid.T, s *site.Site) {
	seen := map[string]int{}
	for i, w := range s.Waves(nil) {
		if w.Number != i+1 || w.MaxUnavailable < 1 || w.MaxUnavailable > len(w.Nodes) || w.Reason == "" {
			t.Errorf("wave %+v", w)
		}
		apart, alone := 0, 0
		for _, name := range w.Nodes {
			seen[name]++
			n, _ := s.Node(name)
			if n.Role == site.RoleRouter || n.Role == site.RoleRelay || n.Role == site.RoleSupervision || name == s.Server.Nodes[0] {
				apart++
				if n.Role != site.RoleSupervision || name == s.Server.Nodes[0] {
					alone++
				}
			}
		}
		if alone > 0 && len(w.Nodes) > 1 {
			t.Errorf("wave %+v holds a node that changes alone", w)
		}
		if apart > 1 {
			t.Errorf("wave %+v holds two nodes that never change together", w)
		}
	}
	for _, n := range s.NodeNames() {
		if seen[n] != 1 {
			t.Errorf("%s is in %d waves", n, seen[n])
		}
		if w := s.Waves([]string{n}); len(w) != 1 || !slices.Equal(w[0].Nodes, []string{n}) || w[0].Number != 1 {
			t.Errorf("waves of %s alone: %+v", n, w)
		}
	}
}

func witnessesCanSucceed(t *rapid.T, s *site.Site, specs map[string]*v1.HostSpec) {
	n := newNetwork(s, specs)
	for _, name := range s.NodeNames() {
		list := s.Witnesses(name)
		if len(list) == 0 {
			t.Errorf("%s has no witness", name)
		}
		for _, w := range list {
			if len(w.Alternatives) == 0 {
				if w.From != "" {
					t.Errorf("%s: %+v", name, w)
				}
				continue
			}
			if w.From != w.Alternatives[0].From || w.To != w.Alternatives[0].To || w.Reason == "" {
				t.Errorf("%s: %+v", name, w)
			}
			for _, way := range w.Alternatives {
				var from []netip.Addr
				if p, ok := s.Probe(way.From); ok {
					from = []netip.Addr{p.Address}
				} else if node, ok := s.Node(way.From); ok && node.Linux() {
					from = node.Addresses()
				}
				if !slices.ContainsFunc(from, func(a netip.Addr) bool {
					open, _ := n.passes(a, way.Address, "tcp", way.Port)
					return open && a.Is4()
				}) {
					t.Errorf("witness %+v of %s is not let through", way, name)
				}
			}
		}
	}
}
