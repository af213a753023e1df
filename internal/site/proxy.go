package site

import (
	"cmp"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	driverNPM, driverCaddy = "npm", "caddy"
	// caddyPackage is what a node with the driver caddy needs.
	caddyPackage = "caddy"
	// npmPort is the port of Nginx Proxy Manager's console, on the node's own address.
	npmPort = 81
	// certificatesPerWeek leaves ten of the fifty that Let's Encrypt gives a domain in seven days for what people ask for by hand.
	certificatesPerWeek = 40
)

// proxyPart is what of the proxy section its host spec follows from, beside its node, domain and targets.
type proxyPart struct {
	managed             bool
	driver              string
	user, password      string
	provider, directory string
	email               string
	scheme              map[string]string
	allow               map[string][]string
}

// acmePorts are the ports on which an authority for certificates is asked: its own, where the directory names one, beside the usual.
func (p proxyPart) acmePorts() []uint16 {
	ports := []uint16{80, 443}
	u, err := url.Parse(p.directory)
	if err != nil {
		return ports
	}
	if own, err := strconv.ParseUint(u.Port(), 10, 16); err == nil && own > 0 && !slices.Contains(ports, uint16(own)) {
		ports = append(ports, uint16(own))
	}
	return ports
}

// proxyManaged reports whether the section says enough to be applied: Nginx Proxy Manager needs an account.
func (l *loader) proxyManaged() bool {
	f := l.file.Proxy
	return f != nil && (f.Driver == driverCaddy || f.Driver == driverNPM && f.APIUser != "" && f.APIPassword != nil)
}

// proxyDerived keeps what the host spec follows from.
func (l *loader) proxyDerived(f *sitefile.Proxy) {
	l.secret("proxy/api_password", f.APIPassword)
	switch account := l.pos.Has("proxy/api_user") || l.pos.Has("proxy/api_password"); {
	case account && f.Driver == driverCaddy:
		l.fail("proxy", "leave them out", "proxy.api_user and proxy.api_password belong to the driver npm")
	case account && (!l.pos.Has("proxy/api_user") || !l.pos.Has("proxy/api_password")):
		l.fail("proxy", "add the other one", "proxy.api_user and proxy.api_password belong together")
	}
	part := proxyPart{managed: l.proxyManaged(), driver: f.Driver, user: string(f.APIUser), scheme: map[string]string{}, allow: map[string][]string{}}
	if f.APIPassword != nil && part.managed {
		part.password = f.APIPassword.Secret
	}
	if f.TLS != nil {
		part.provider, part.directory, part.email = f.TLS.Provider, string(f.TLS.Directory), string(f.TLS.Email)
	}
	for _, p := range f.Hosts {
		part.scheme[p.Key], part.allow[p.Key] = p.Value.Scheme, p.Value.Allow
	}
	l.site.proxyPart = part
	if n, ok := l.site.Node(f.Node); ok && part.managed && !n.Linux() {
		l.fail("proxy/node", "choose a Linux node", "node %s is %s: the proxy needs Linux", n.Name, n.Platform)
	}
}

// runsCaddy reports whether the proxy is Debian's caddy on this node.
func (s *Site) runsCaddy(n *Node) bool {
	return s.proxyPart.managed && s.proxyPart.driver == driverCaddy && s.proxyNode == n.Name
}

// proxy derives the reverse proxy of a node, nil for all but the proxy node.
func (s *Site) proxy(n *Node, res Resources) *v1.ProxySpec {
	part := s.proxyPart
	if !part.managed || n.Name != s.proxyNode {
		return nil
	}
	spec := &v1.ProxySpec{Driver: part.driver, TlsProvider: part.provider, AcmeDirectory: part.directory, AcmeEmail: part.email,
		ListenAddresses: addrTexts(validAddrs(n.main, n.main6)), CertificatesPerWeek: certificatesPerWeek}
	if part.driver == driverNPM {
		spec.Api = "http://" + net.JoinHostPort(n.main.String(), strconv.Itoa(npmPort))
		spec.ApiUser, spec.ApiPassword = part.user, &v1.SecretRef{Name: part.password, Version: res.Secrets[part.password]}
	}
	if s.DNS.AcmeKey != "" {
		spec.Wildcard = s.proxyDomain
	}
	spec.Hosts = s.proxyHosts(n, res)
	return spec
}

// proxyHosts are the names of the file and those of the instances, each once and each a host of its own: a name whose certificate
// fails takes no other name with it.
func (s *Site) proxyHosts(n *Node, res Resources) []*v1.ProxyHostSpec {
	var out []*v1.ProxyHostSpec
	seen := map[string]bool{}
	add := func(name string, h *v1.ProxyHostSpec) {
		name = strings.ToLower(name)
		if h.Target == "" || seen[name] || !zone.IsHostName(name) {
			return
		}
		seen[name] = true
		h.Domains, h.Internal = []string{name}, zone.Within(name, s.Domain)
		out = append(out, h)
	}
	for _, t := range s.proxyTargets {
		add(t.name, &v1.ProxyHostSpec{Target: s.proxyTarget(n, t), Scheme: cmp.Or(s.proxyPart.scheme[t.name], "http"),
			Allow: texts(s.principals(s.proxyPart.allow[t.name]))})
	}
	for i := range res.Instances {
		inst := &res.Instances[i]
		on, ok := s.Node(inst.Node)
		if !ok || !inst.shown() {
			continue
		}
		for _, name := range s.InstanceDomains(inst) {
			add(name, &v1.ProxyHostSpec{Target: netip.AddrPortFrom(s.reach(n, on), FrontPort).String(), Scheme: "http", Instance: inst.Name})
		}
	}
	slices.SortFunc(out, func(a, b *v1.ProxyHostSpec) int { return cmp.Compare(a.GetDomains()[0], b.GetDomains()[0]) })
	return out
}

func (s *Site) proxyTarget(n *Node, t proxyTarget) string {
	if to, ok := s.Node(t.host); ok {
		return netip.AddrPortFrom(s.reach(n, to), t.port).String()
	}
	if h, ok := s.Host(t.host); ok {
		if list := h.Addresses(); len(list) > 0 {
			return netip.AddrPortFrom(list[0], t.port).String()
		}
	}
	return ""
}

// principals are the prefixes of networks, nodes and hosts, sorted.
func (s *Site) principals(names []string) []netip.Prefix {
	var out []netip.Prefix
	for _, name := range names {
		if net, ok := s.Network(name); ok {
			for _, p := range []netip.Prefix{net.Prefix, net.Prefix6} {
				if p.IsValid() {
					out = append(out, p)
				}
			}
		}
		if n, ok := s.Node(name); ok {
			out = append(out, single(n.Addresses()...)...)
		}
		if h, ok := s.Host(name); ok {
			out = append(out, single(h.Addresses()...)...)
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return cmp.Compare(a.String(), b.String()) })
	return slices.Compact(out)
}
