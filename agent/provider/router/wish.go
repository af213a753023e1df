package router

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Limits of a spec.
const (
	maxRules = 20000
	maxPeers = 5000
)

// Desired is what the router must be beyond its addresses; as kept.json, what it was at the last kept commit.
type Desired struct {
	Version int `json:"version"`
	// Forwards are the ports of the outside addresses that lead inside; the first that fits decides.
	Forwards []Forward `json:"forwards,omitempty"`
	// Masquerades let inside addresses out under the router's.
	Masquerades []Masquerade `json:"masquerades,omitempty"`
	// Routes are static routes.
	Routes []Route `json:"routes,omitempty"`
	// Tunnel is WireGuard; nil without one.
	Tunnel *Tunnel `json:"tunnel,omitempty"`
}

// Forward sends ports of one outside address to a machine inside.
type Forward struct {
	Protocol string   `json:"protocol"`
	First    uint16   `json:"first"`
	Last     uint16   `json:"last"`
	Outside  string   `json:"outside"`
	Target   string   `json:"target"`
	From     []string `json:"from,omitempty"`
	Flow     string   `json:"flow,omitempty"`
	// Hairpin is the target's own network: who asks from there gets the answer through the router too.
	Hairpin string `json:"hairpin,omitempty"`
	// Old says that only an earlier revision wants it.
	Old bool `json:"old,omitempty"`
}

// Masquerade gives what leaves by an interface the interface's address.
type Masquerade struct {
	Source    string   `json:"source"`
	Interface string   `json:"interface"`
	Excluded  []string `json:"excluded,omitempty"`
	Old       bool     `json:"old,omitempty"`
}

// Route is a static route.
type Route struct {
	Prefix string `json:"prefix"`
	Via    string `json:"via"`
}

// Tunnel is a WireGuard interface. Its addresses are single ones, whatever the tunnel's network is: only the peers' own
// addresses lead into it.
type Tunnel struct {
	Interface string   `json:"interface"`
	Port      uint16   `json:"port"`
	Addresses []string `json:"addresses"`
	Peers     []Peer   `json:"peers,omitempty"`
}

// Peer is a machine that may come in.
type Peer struct {
	Name      string   `json:"name,omitempty"`
	PublicKey string   `json:"public_key"`
	Allowed   []string `json:"allowed"`
}

func (f Forward) text() string {
	ports := fmt.Sprint(f.First)
	if f.First != f.Last {
		ports += fmt.Sprintf("-%d", f.Last)
	}
	text := fmt.Sprintf("%s %s of %s to %s", f.Protocol, ports, f.Outside, f.Target)
	if len(f.From) > 0 {
		text += " from " + strings.Join(f.From, ",")
	}
	if f.Flow != "" {
		text += " (" + f.Flow + ")"
	}
	return text
}

func (m Masquerade) text() string {
	text := m.Source + " leaves by " + m.Interface + " under its address"
	if len(m.Excluded) > 0 {
		text += ", but not to " + strings.Join(m.Excluded, ",")
	}
	return text
}

// fromSpec checks a spec and brings it into the form that is kept. Errors: Invalid.
func fromSpec(s *v1.RouterSpec) (Desired, error) {
	d := Desired{Version: 1}
	outside, inside, err := cards(s)
	if err != nil {
		return d, err
	}
	if len(s.GetSourceNat())+len(s.GetDestinationNat())+len(s.GetRoutes()) > maxRules {
		return d, errs.New(errs.Invalid, "the router has more than %d rules and routes", maxRules)
	}
	for _, n := range s.GetSourceNat() {
		m := Masquerade{Source: n.GetSource(), Interface: n.GetInterface(), Excluded: n.GetExcluded()}
		if err := checkInterface(m.Interface); err != nil {
			return d, err
		}
		if err := checkPrefixes(append([]string{m.Source}, m.Excluded...)...); err != nil {
			return d, err
		}
		d.Masquerades = append(d.Masquerades, m)
	}
	for _, n := range s.GetDestinationNat() {
		list, err := forwards(n, outside, inside)
		if err != nil {
			return d, err
		}
		d.Forwards = append(d.Forwards, list...)
	}
	for _, r := range s.GetRoutes() {
		p, err := netip.ParsePrefix(r.GetPrefix())
		via, verr := netip.ParseAddr(r.GetVia())
		if err != nil || verr != nil || p != p.Masked() || p.Addr().Is4() != via.Is4() || via.Zone() != "" {
			return d, errs.New(errs.Invalid, "route %q by %q can't be", r.GetPrefix(), r.GetVia())
		}
		d.Routes = append(d.Routes, Route{Prefix: p.String(), Via: via.String()})
	}
	d.Tunnel, err = tunnel(s.GetWireguard())
	return d, err
}

// cards returns the IPv4 addresses of the interfaces by name, and the networks of those that lead inside.
func cards(s *v1.RouterSpec) (outside map[string][]string, inside []netip.Prefix, err error) {
	outside = map[string][]string{}
	for _, c := range s.GetInterfaces() {
		if err := checkInterface(c.GetName()); err != nil {
			return nil, nil, err
		}
		for _, text := range c.GetAddresses() {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, nil, errs.New(errs.Invalid, "%q is no address with a prefix length", text).At(c.GetName())
			}
			if !p.Addr().Is4() {
				continue
			}
			outside[c.GetName()] = append(outside[c.GetName()], p.Addr().String())
			if !c.GetOutside() {
				inside = append(inside, p.Masked())
			}
		}
	}
	return outside, inside, nil
}

func forwards(n *v1.DestinationNat, outside map[string][]string, inside []netip.Prefix) ([]Forward, error) {
	f := Forward{Protocol: n.GetProtocol(), Target: n.GetTarget(), From: n.GetFrom(), Flow: n.GetFlow()}
	first, last := n.GetPorts().GetFirst(), n.GetPorts().GetLast()
	if last == 0 {
		last = first
	}
	target, err := netip.ParseAddr(f.Target)
	if err != nil || !target.Is4() || (f.Protocol != "tcp" && f.Protocol != "udp") || first == 0 || first > last || last > 65535 {
		return nil, errs.New(errs.Invalid, "a port of the outside can't lead to %q: %s %d-%d", f.Target, f.Protocol, first, last)
	}
	if err := checkPrefixes(f.From...); err != nil {
		return nil, err
	}
	f.First, f.Last = uint16(first), uint16(last)
	for _, p := range inside {
		if p.Contains(target) {
			f.Hairpin = p.String()
		}
	}
	if len(outside[n.GetInterface()]) == 0 {
		return nil, errs.New(errs.Invalid, "the interface %q has no IPv4 address that ports could lead from", n.GetInterface())
	}
	var list []Forward
	for _, address := range outside[n.GetInterface()] {
		f.Outside = address
		list = append(list, f)
	}
	return list, nil
}

func tunnel(w *v1.WireguardSpec) (*Tunnel, error) {
	if w == nil {
		return nil, nil
	}
	if err := checkInterface(w.GetInterface()); err != nil {
		return nil, err
	}
	if w.GetPort() == 0 || w.GetPort() > 65535 || len(w.GetPeers()) > maxPeers {
		return nil, errs.New(errs.Invalid, "a tunnel with port %d and %d peers can't be", w.GetPort(), len(w.GetPeers()))
	}
	t := &Tunnel{Interface: w.GetInterface(), Port: uint16(w.GetPort())}
	for _, text := range w.GetAddresses() {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, errs.New(errs.Invalid, "%q is no address with a prefix length", text).At("vpn")
		}
		t.Addresses = append(t.Addresses, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()).String())
	}
	keys, addresses := map[string]bool{}, map[string]bool{}
	for _, p := range w.GetPeers() {
		raw, err := base64.StdEncoding.DecodeString(p.GetPublicKey())
		if err != nil || len(raw) != 32 || keys[p.GetPublicKey()] {
			return nil, errs.New(errs.Invalid, "the public key of the peer %.64q is none, or another one's", p.GetName())
		}
		keys[p.GetPublicKey()] = true
		if err := checkPrefixes(p.GetAllowedIps()...); err != nil {
			return nil, err
		}
		for _, a := range p.GetAllowedIps() {
			if addresses[a] {
				return nil, errs.New(errs.Invalid, "two peers have the address %s", a).At("peer " + p.GetName())
			}
			addresses[a] = true
		}
		t.Peers = append(t.Peers, Peer{Name: p.GetName(), PublicKey: p.GetPublicKey(), Allowed: slices.Sorted(slices.Values(p.GetAllowedIps()))})
	}
	slices.SortFunc(t.Peers, func(a, b Peer) int { return strings.Compare(a.PublicKey, b.PublicKey) })
	return t, nil
}

func checkInterface(name string) error {
	if !regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,14}$`).MatchString(name) {
		return errs.New(errs.Invalid, "%.32q is no name of an interface", name).WithHint("at most 15 letters, digits and _.-")
	}
	return nil
}

func checkPrefixes(list ...string) error {
	for _, text := range list {
		if p, err := netip.ParsePrefix(text); err != nil || p != p.Masked() {
			return errs.New(errs.Invalid, "%.64q is no prefix", text).WithHint("write it as 10.0.10.0/24")
		}
	}
	return nil
}
