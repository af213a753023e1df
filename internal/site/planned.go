package site

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
)

// notManaged are the sections that are validated but not managed yet.
func notManaged() []string {
	return []string{
		"proxy", "backup", "patching", "logs",
	}
}

// planned checks the sections that are not managed yet as strictly as the others: a file that is accepted today must still
// be right when they are.
func (l *loader) planned() {
	f := &l.file
	for _, section := range notManaged() {
		if l.pos.Has(section) && (section != "proxy" || !l.proxyManaged()) {
			l.info(section, "%s is not yet managed: it is checked, and nothing more", section)
			l.site.NotManaged = append(l.site.NotManaged, section)
		}
	}
	if f.VPN != nil {
		l.vpn(f.VPN)
	}
	if f.DNS != nil {
		l.dns(f.DNS)
	} else if l.pos.Has("nodes") {
		l.warn("", "add a dns section", "no DNS node: the nodes keep their resolvers, and only flows of the file let them ask")
	}
	if f.Proxy != nil {
		l.proxy(f.Proxy)
	}
	if f.Monitoring != nil {
		l.monitoringManaged()
		l.monitoring(f.Monitoring)
	}
	if f.Dolibarr != nil {
		l.dolibarr(f.Dolibarr)
	}
	if f.Backup != nil {
		l.backup(f.Backup)
	}
	if f.Patching != nil {
		l.patching(f.Patching)
	}
	if f.Logs != nil {
		l.lasts("logs/keep", time.Duration(f.Logs.Keep), 24*time.Hour, 3650*24*time.Hour)
	}
}

func (l *loader) vpn(f *sitefile.VPN) {
	if l.pos.Has("vpn/interface") && !interfaceForm.MatchString(f.Interface) {
		l.fail("vpn/interface", "a name like wg0", "%q is no name of an interface", f.Interface)
	}
	a := f.Address.Addr
	if !a.IsValid() {
		return
	}
	net := l.networkOf(a)
	switch {
	case net == nil || net.Outside:
		l.fail("vpn/address", "add the tunnel's network to networks, without a gateway", "address %s lies in no inside network", a)
	case !usable(net, a):
		l.fail("vpn/address", "", "address %s is the first or the last one of network %s", a, net.Name)
	}
	l.site.tunnel = Tunnel{Interface: f.Interface, Port: uint16(f.Port), Address: a, Endpoint: string(f.Endpoint)}
	if !l.pos.Has("vpn/port") {
		l.site.tunnel.Port = 51820
	}
	if owner := l.owner(a); owner != "" {
		if n, ok := l.site.Node(owner); !ok || n.Role != RoleRouter {
			l.fail("vpn/address", "", "address %s belongs to %s already", a, owner)
		}
	}
}

func (l *loader) dns(f *sitefile.DNS) {
	d := &l.site.DNS
	l.dnsKeys()
	if l.nodeRef("dns/primary", f.Primary) {
		d.Primary = f.Primary
	}
	if f.Secondary != "" && l.nodeRef("dns/secondary", f.Secondary) {
		d.Secondary = f.Secondary
		if f.Secondary == f.Primary {
			l.fail("dns/secondary", "", "primary and secondary are both %s", f.Primary)
		}
	}
	for i, a := range f.Forwarders {
		if !a.IsValid() {
			continue
		}
		path := yamltree.Join("dns/forwarders", strconv.Itoa(i))
		if slices.Contains(d.Forwarders, a.Addr) {
			l.fail(path, "", "dns.forwarders: %s is given twice", a.Addr)
		}
		l.reachable(path, a.Addr)
		l.outsideOrKnown(path, a.Addr)
		d.Forwarders = append(d.Forwarders, a.Addr)
	}
	for _, p := range f.Aliases {
		path := yamltree.Join("dns/aliases", p.Key)
		if !l.name(path, "alias", p.Key) {
			continue
		}
		if l.owns(p.Key) {
			l.failKey(path, "choose another name", "alias %s is the name of a node or host", p.Key)
		}
		if l.hostRef(path, p.Value) {
			d.Aliases = append(d.Aliases, Alias{p.Key, p.Value})
		}
	}
}

// owns reports whether a node or host has the name.
func (l *loader) owns(name string) bool {
	_, node := l.site.Node(name)
	_, host := l.site.Host(name)
	return node || host
}

// hostRef checks a reference to a node or host.
func (l *loader) hostRef(path, name string) bool {
	if l.owns(name) {
		return true
	}
	names := l.site.NodeNames()
	for _, h := range l.site.Hosts {
		names = append(names, h.Name)
	}
	l.fail(path, l.among(name, names), "there is no node and no host %q", name)
	return false
}

// outsideOrKnown refuses an inside address that belongs to nobody: no flow could let anyone reach it.
func (l *loader) outsideOrKnown(path string, a netip.Addr) {
	if n := l.networkOf(a); n != nil && !n.Outside && l.owner(a) == "" {
		l.fail(path, "add it to hosts", "address %s is inside, and no node or host has it", a)
	}
}

func (l *loader) proxy(f *sitefile.Proxy) {
	l.oneOf("proxy/driver", "proxy.driver", f.Driver, sitefile.Words("Proxy.Driver")...)
	if l.nodeRef("proxy/node", f.Node) {
		l.site.proxyNode, l.site.proxyDomain = f.Node, string(f.Domain)
	}
	if f.TLS != nil {
		l.oneOf("proxy/tls/provider", "proxy.tls.provider", f.TLS.Provider, sitefile.Words("ProxyTLS.Provider")...)
		if f.TLS.Provider == "letsencrypt" && !l.pos.Has("proxy/tls/email") {
			l.fail("proxy/tls", "Let's Encrypt warns this address before a certificate ends", "proxy.tls lacks the key email")
		}
	}
	if f.DNS != nil {
		l.proxyDNS(f.DNS)
	}
	l.proxyDerived(f)
	for _, p := range f.Hosts {
		path := yamltree.Join("proxy/hosts", p.Key)
		var name sitefile.DomainName
		if name.UnmarshalText([]byte(p.Key)) != nil {
			l.failKey(path, "write it like grafana.example.org", "%q is no domain name", p.Key)
		}
		if to := p.Value.To; to.Host != "" && l.hostRef(path+"/to", to.Host) {
			l.site.proxyTargets = append(l.site.proxyTargets, proxyTarget{p.Key, to.Host, to.Port})
		}
		l.oneOf(path+"/scheme", "scheme", p.Value.Scheme, sitefile.Words("ProxyHost.Scheme")...)
		for i, a := range p.Value.Allow {
			if _, ok := l.site.Network(a); !ok {
				l.hostOrNetwork(yamltree.Join(path, "allow", strconv.Itoa(i)), a)
			}
		}
	}
}

func (l *loader) hostOrNetwork(path, name string) {
	if l.owns(name) {
		return
	}
	var names []string
	for _, n := range l.site.Networks {
		names = append(names, n.Name)
	}
	l.fail(path, l.among(name, names), "there is no network, node or host %q", name)
}

func (l *loader) monitoring(f *sitefile.Monitoring) {
	if l.nodeRef("monitoring/node", f.Node) {
		l.site.monitoringNode = f.Node
	}
	l.lasts("monitoring/scrape_interval", time.Duration(f.ScrapeInterval), 5*time.Second, 10*time.Minute)
	l.lasts("monitoring/retention", time.Duration(f.Retention), time.Hour, 3650*24*time.Hour)
	if f.Alerts == nil {
		return
	}
	var names []string
	for _, p := range f.Alerts.Receivers {
		path := yamltree.Join("monitoring/alerts/receivers", p.Key)
		l.name(path, "receiver", p.Key)
		names = append(names, p.Key)
		if h := p.Value.Smarthost.Host; h != "" && !strings.Contains(h, ".") {
			l.hostRef(path+"/smarthost", h)
		}
		l.secret(path+"/password", p.Value.Password)
	}
	if r := f.Alerts.Route.Receiver; l.pos.Has("monitoring/alerts/route/receiver") && !slices.Contains(names, r) {
		l.fail("monitoring/alerts/route/receiver", l.among(r, names), "there is no receiver %q", r)
	}
}

func (l *loader) secret(path string, ref *sitefile.SecretRef) {
	if ref != nil && l.pos.Has(path+"/secret") && !isLabel(ref.Secret) {
		l.fail(path+"/secret", labelHint, "%q is no name for a secret", ref.Secret)
	}
}

func (l *loader) patching(f *sitefile.Patching) {
	l.oneOf("patching/scope", "patching.scope", f.Scope, sitefile.Words("Patching.Scope")...)
	l.oneOf("patching/reboot", "patching.reboot", f.Reboot, sitefile.Words("Patching.Reboot")...)
	seen := map[string]bool{}
	for i, w := range f.Waves {
		path := yamltree.Join("patching/waves", strconv.Itoa(i))
		for j, n := range w.Nodes {
			at := yamltree.Join(path, "nodes", strconv.Itoa(j))
			if l.nodeRef(at, n) && seen[n] {
				l.fail(at, "", "node %s is in an earlier place of the waves already", n)
			}
			seen[n] = true
		}
		l.within(path+"/max_unavailable", uint64(w.MaxUnavailable), 1, 100)
	}
}
