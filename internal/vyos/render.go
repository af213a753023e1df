package vyos

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Options are what a host spec does not say.
type Options struct {
	// PrivateKey is the router's WireGuard key, base64; only the agent on the router has it. Without one its line is left out
	// (1.3 names a stored pair and needs none).
	PrivateKey string
	// MACs tie interface names to cards, by name.
	MACs map[string]string
}

// Result is a rendered configuration.
type Result struct {
	// Lines are the commands, in the order in which they are to be given.
	Lines []Line
	// Notes say what this release cannot do of what is wanted, for people.
	Notes []string
}

// Render makes the whole configuration of a router from its host spec. Every line has passed the schema of the release.
// Errors are Invalid: a spec without a router section, or one that the release cannot carry at all.
func Render(spec *v1.HostSpec, v Version, o Options) (Result, error) {
	if spec.GetRouter() == nil {
		return Result{}, errs.New(errs.Invalid, "%s is no router", spec.GetNode())
	}
	r := &renderer{v: v, spec: spec, opts: o}
	r.system()
	r.cards()
	r.routes()
	r.nat()
	r.firewall()
	r.tunnel()
	r.services()
	if r.err != nil {
		return Result{}, r.err
	}
	if faults := NewChecker(v).Config(r.lines); len(faults) > 0 {
		return Result{}, errs.New(errs.Invalid, "the configuration for %s is not right: %w", v, errs.Join(faults...))
	}
	return Result{Lines: r.lines, Notes: r.notes}, nil
}

type renderer struct {
	v     Version
	spec  *v1.HostSpec
	opts  Options
	lines []Line
	notes []string
	err   error
}

// set adds a line: a path, and values that may hold spaces.
func (r *renderer) set(path string, values ...string) {
	r.lines = append(r.lines, append(strings.Fields(path), values...))
}

func (r *renderer) note(text string) {
	if !slices.Contains(r.notes, text) {
		r.notes = append(r.notes, text)
	}
}

func (r *renderer) fail(format string, args ...any) {
	if r.err == nil {
		r.err = errs.New(errs.Invalid, format, args...)
	}
}

func (r *renderer) system() {
	s := r.spec.GetSystem()
	if s != nil {
		r.set("system host-name", s.GetHostname())
		r.set("system domain-name", s.GetDomain())
		r.set("system time-zone", s.GetTimezone())
		for _, n := range s.GetNameservers() {
			r.set("system name-server", n)
		}
	}
	r.set("system config-management commit-revisions", "100")
	for _, a := range r.spec.GetAccounts().GetAccounts() {
		r.login(a)
	}
	syslog := "system syslog global facility all level"
	if r.v == V15 {
		syslog = "system syslog local facility all level"
	}
	r.set(syslog, "info")
}

// login: on VyOS whoever may log in may do everything, so that only people with sudo get an account.
func (r *renderer) login(a *v1.Account) {
	if !a.GetSshLogin() {
		return
	}
	if !a.GetSudo() {
		r.note("account " + a.GetName() + " has no sudo, and VyOS knows no such account: it gets none on the router")
		return
	}
	base := "system login user " + a.GetName()
	if a.GetFullName() != "" {
		r.set(base+" full-name", a.GetFullName())
	}
	for i, line := range a.GetSshKeys() {
		r.key(base, a.GetName()+"-"+strconv.Itoa(i+1), line)
	}
	for _, w := range r.spec.GetAccounts().GetWitnessKeys() {
		name := "witness-" + w.GetNode()
		r.key(base, name, w.GetPublicKey())
		// VyOS takes no quotes in a value and turns &quot; into them. Where a release did not, sshd would refuse the key: a
		// witness may be locked out, but never gets a shell.
		options := "restrict,command=&quot;true&quot;"
		if len(w.GetFrom()) > 0 {
			options += ",from=&quot;" + strings.Join(w.GetFrom(), ",") + "&quot;"
		}
		r.set(base+" authentication public-keys "+name+" options", options)
	}
}

func (r *renderer) key(base, name, line string) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		r.fail("the key %s cannot be read: %w", name, err)
		return
	}
	fields := strings.Fields(string(ssh.MarshalAuthorizedKey(key)))
	r.set(base+" authentication public-keys "+name+" key", fields[1])
	r.set(base+" authentication public-keys "+name+" type", fields[0])
}

func (r *renderer) cards() {
	for _, c := range r.spec.GetRouter().GetInterfaces() {
		base := "interfaces ethernet " + c.GetName()
		if c.GetDescription() != "" {
			r.set(base+" description", c.GetDescription())
		}
		for _, a := range c.GetAddresses() {
			r.set(base+" address", a)
		}
		mac := c.GetMac()
		if m := r.opts.MACs[c.GetName()]; m != "" {
			mac = m
		}
		if mac != "" {
			r.set(base+" hw-id", mac)
		}
	}
}

func (r *renderer) routes() {
	for _, route := range r.spec.GetRouter().GetRoutes() {
		if strings.Contains(route.GetPrefix(), ":") {
			r.fail("IPv6 routes are not rendered: %s", route.GetPrefix())
			continue
		}
		r.set("protocols static route "+route.GetPrefix()+" next-hop", route.GetVia())
	}
}

// named puts the word name before an interface where the release wants it.
func (r *renderer) named(path string) string {
	if r.v >= V14 {
		return path + " name"
	}
	return path
}

func (r *renderer) nat() {
	number := 90
	next := func(kind, description string) string {
		number += 10
		base := "nat " + kind + " rule " + strconv.Itoa(number)
		if description != "" {
			r.set(base+" description", description)
		}
		return base
	}
	for _, n := range r.spec.GetRouter().GetSourceNat() {
		for _, to := range n.GetExcluded() { // before the rule that they are excluded from
			base := next("source", n.GetDescription())
			r.set(r.named(base+" outbound-interface"), n.GetInterface())
			r.set(base+" source address", n.GetSource())
			r.set(base+" destination address", to)
			r.set(base + " exclude")
		}
		base := next("source", n.GetDescription())
		r.set(r.named(base+" outbound-interface"), n.GetInterface())
		r.set(base+" source address", n.GetSource())
		r.set(base+" translation address", "masquerade")
	}
	number = 90
	for _, n := range r.spec.GetRouter().GetDestinationNat() {
		from := n.GetFrom()
		if len(from) == 0 {
			from = []string{""}
		}
		for _, source := range from {
			base := next("destination", n.GetDescription())
			r.set(r.named(base+" inbound-interface"), n.GetInterface())
			r.set(base+" protocol", n.GetProtocol())
			r.set(base+" destination port", portText(n.GetPorts()))
			r.set(base+" translation address", n.GetTarget())
			if source != "" {
				r.set(base+" source address", source)
			}
		}
	}
}

func portText(p *v1.PortRange) string {
	if p.GetFirst() == p.GetLast() {
		return strconv.Itoa(int(p.GetFirst()))
	}
	return strconv.Itoa(int(p.GetFirst())) + "-" + strconv.Itoa(int(p.GetLast()))
}

func (r *renderer) tunnel() {
	w := r.spec.GetRouter().GetWireguard()
	if w == nil {
		return
	}
	if len(w.GetPeers()) == 0 {
		r.note("the tunnel " + w.GetInterface() + " has no peer yet and is left out: VyOS refuses a tunnel without one")
		return
	}
	base := "interfaces wireguard " + w.GetInterface()
	for _, a := range w.GetAddresses() {
		r.set(base+" address", a)
	}
	r.set(base+" port", strconv.Itoa(int(w.GetPort())))
	switch {
	case r.v == V13:
		r.set(base+" private-key", "default")
	case r.opts.PrivateKey != "":
		r.set(base+" private-key", r.opts.PrivateKey)
	default:
		r.note("the private key of " + w.GetInterface() + " is made on the router, and stands in no file")
	}
	key := "public-key"
	if r.v == V13 {
		key = "pubkey"
	}
	for _, p := range w.GetPeers() {
		peer := base + " peer " + p.GetName()
		for _, ip := range p.GetAllowedIps() {
			r.set(peer+" allowed-ips", ip)
		}
		r.set(peer+" "+key, p.GetPublicKey())
	}
}

func (r *renderer) services() {
	if t := r.spec.GetTime(); t != nil {
		service := "service ntp"
		if r.v == V13 {
			service = "system ntp"
		}
		for _, s := range t.GetServers() {
			r.set(service+" server", s)
		}
		if r.v >= V14 {
			for _, a := range t.GetAllow() {
				r.set(service+" allow-client address", a)
			}
		}
	}
	s := r.spec.GetSshd()
	if s == nil {
		return
	}
	r.set("service ssh port", strconv.Itoa(int(s.GetPort())))
	for _, a := range s.GetListenAddresses() {
		r.set("service ssh listen-address", a)
	}
	r.set("service ssh disable-password-authentication")
	if n := s.GetClientAliveIntervalSeconds(); n > 0 {
		r.set("service ssh client-keepalive-interval", strconv.Itoa(int(n)))
	}
	for _, u := range s.GetAllowUsers() {
		if slices.ContainsFunc(r.spec.GetAccounts().GetAccounts(), func(a *v1.Account) bool {
			return a.GetName() == u && a.GetSudo() && a.GetSshLogin()
		}) {
			r.set("service ssh access-control allow user", u)
		}
	}
	if len(s.GetUserCaKeys()) > 0 {
		r.note("VyOS takes no certificates of people by SSH here: they log in on the router with their own keys")
	}
	r.note("tries and sessions of one SSH connection cannot be limited on VyOS; the rule set limits new connections instead")
}

// is4 reports whether a prefix or address is one of IPv4.
func is4(text string) bool {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr().Is4()
	}
	a, err := netip.ParseAddr(text)
	return err == nil && a.Is4()
}
