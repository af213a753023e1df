package site

import (
	"net/netip"
	"slices"

	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// transferSecret is the secret that signs transfers where the file names none.
const transferSecret = "dns-transfer"

// bindPackage is what a DNS node needs.
const bindPackage = "bind9"

// dns derives the name service of a node, nil for all but the DNS nodes. Serials are put in by the server, which keeps them.
func (s *Site) dns(n *Node, res Resources, all []*zone.Zone) *v1.DnsSpec {
	if !slices.Contains(s.dnsNodes(), n.Name) {
		return nil
	}
	spec := &v1.DnsSpec{RecursionFrom: texts(s.insidePrefixes()), Forwarders: addrTexts(s.DNS.Forwarders)}
	spec.ListenAddresses = addrTexts(s.insideAddresses(n))
	spec.ValidateExcept = []string{s.Domain}
	if s.proxyDomain != "" && !zone.Within(s.proxyDomain, s.Domain) {
		spec.ValidateExcept = append(spec.ValidateExcept, s.proxyDomain)
	}
	primary := n.Name == s.DNS.Primary
	if s.DNS.Views && primary {
		spec.Views = []*v1.DnsView{{Name: ViewInside, Clients: texts(s.insidePrefixes()), Recursion: true}, {Name: ViewOutside}}
	}
	if s.DNS.Secondary != "" {
		spec.TransferKey = &v1.SecretRef{Name: s.DNS.TransferKey, Version: res.Secrets[s.DNS.TransferKey]}
	}
	for _, z := range all {
		switch {
		case primary:
			spec.Zones = append(spec.Zones, s.primaryZone(z, res))
		case z.View != ViewOutside && !z.Dynamic:
			p, _ := s.Node(s.DNS.Primary)
			spec.Zones = append(spec.Zones, &v1.DnsZone{Name: z.Name, Primaries: []string{s.reach(n, p).String()}})
		}
	}
	if second, ok := s.Node(s.DNS.Secondary); ok && primary {
		spec.TransferTo = []string{s.sourceTowards(second, n.main).String()}
	}
	return spec
}

// reach is the address of a node that another uses.
func (s *Site) reach(_, to *Node) netip.Addr { return to.main }

func (s *Site) primaryZone(z *zone.Zone, res Resources) *v1.DnsZone {
	out := &v1.DnsZone{Name: z.Name, View: z.View, ContentDigest: zone.Digest(z.Text()), Dynamic: z.Dynamic}
	if z.Dynamic {
		out.UpdateKey = &v1.SecretRef{Name: s.DNS.AcmeKey, Version: res.Secrets[s.DNS.AcmeKey]}
	}
	return out
}

// insideAddresses are all inside addresses of a node, the main one first.
func (s *Site) insideAddresses(n *Node) []netip.Addr {
	out := validAddrs(n.main, n.main6)
	for _, a := range n.Addresses() {
		if s.inside(a) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	if n.Role == RoleRouter && s.tunnel.Address.IsValid() && !slices.Contains(out, s.tunnel.Address) {
		out = append(out, s.tunnel.Address)
	}
	return out
}

func addrTexts(list []netip.Addr) []string {
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

// dnsSecrets are the secrets that the name service needs, with what needs them.
func (s *Site) dnsSecrets() map[string]string {
	out := map[string]string{}
	if s.DNS.Primary != "" && s.DNS.Secondary != "" {
		out[s.DNS.TransferKey] = "the transfer of zones to " + s.DNS.Secondary
	}
	if s.DNS.AcmeKey != "" {
		out[s.DNS.AcmeKey] = "the zone of dns.acme"
	}
	return out
}

// names checks the zones that the file makes, once all of it is known.
func (l *loader) zones() {
	s := l.site
	if s.DNS.Primary == "" {
		return
	}
	if err := zone.Check(s.Zones(Resources{})); err != nil {
		l.fail("dns", "", "%s", err)
	}
	for _, name := range s.dnsNodes() {
		n, _ := s.Node(name)
		if !n.Linux() {
			l.fail("dns", "choose a Linux node", "node %s is %s: the name server needs Linux", name, n.Platform)
		}
	}
	if s.PublicDomain != "" && zone.Within(s.PublicDomain, s.Domain) {
		l.fail("public_domain", "names inside and names in public are kept apart, so that none of the first ever leaks",
			"public_domain %s is the inside domain %s or lies in it", s.PublicDomain, s.Domain)
	}
}

// dnsKeys checks the rest of the dns section.
func (l *loader) dnsKeys() {
	f, d := l.file.DNS, &l.site.DNS
	d.Views, d.TransferKey = f.Views, transferSecret
	if f.TransferKey != nil {
		l.secret("dns/transfer_key", f.TransferKey)
		d.TransferKey = f.TransferKey.Secret
		if f.Secondary == "" {
			l.fail("dns/transfer_key", "", "dns.transfer_key: there is no dns.secondary that would fetch zones")
		}
	}
	if f.Views && l.file.PublicDomain == "" {
		l.fail("dns/views", "set public_domain", "dns.views: there is no public_domain that could be shown outside")
	}
	if f.Acme != nil {
		l.secret("dns/acme/key", &f.Acme.Key)
		d.AcmeKey = f.Acme.Key.Secret
		if l.file.Proxy == nil || l.file.Proxy.Domain == "" {
			l.fail("dns/acme", "set proxy.domain", "dns.acme: there is no proxy.domain whose certificate it could prove")
		}
		if d.AcmeKey != "" && d.AcmeKey == d.TransferKey {
			l.fail(yamltree.Join("dns/acme/key"), "name another secret", "dns.acme: secret %s signs the transfers already", d.AcmeKey)
		}
	}
}

// proxyDNS checks who sets the public records.
func (l *loader) proxyDNS(f *sitefile.ProxyDNS) {
	l.oneOf("proxy/dns/provider", "proxy.dns.provider", f.Provider, sitefile.Words("ProxyDNS.Provider")...)
	l.secret("proxy/dns/key", f.Key)
	whole := f.Server.IsValid() && f.Key != nil
	switch {
	case f.Provider == "rfc2136" && !whole:
		l.fail("proxy/dns", "add server: ADDRESS and key: {secret: NAME}", "proxy.dns: rfc2136 lacks the server or the key")
	case f.Provider == "rfc2136":
		l.site.DNS.Updates = PublicUpdates{Server: f.Server.Addr, Secret: f.Key.Secret}
	case f.Server.IsValid() || f.Key != nil:
		l.fail("proxy/dns", "write provider: rfc2136, or leave server and key out", "proxy.dns: server and key belong to rfc2136")
	}
}
