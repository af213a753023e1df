// Package firewall keeps infractl's chains in the filter tables of IPv4 and IPv6, and nothing else in them.
//
// A RuleSet says what may pass at each hook; it is rendered into the chains INFRACTL-IN, INFRACTL-OUT and INFRACTL-FWD (and
// helper chains of the same prefix), to which INPUT, OUTPUT, FORWARD and, on Docker hosts, DOCKER-USER jump first. Chains and
// rules of others are never written. What our chains held when a commit was last kept stands in kept.json: it is what
// "old" means when a change is first widened to old and new together and then narrowed to the new alone.
package firewall

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Limits of a spec.
const (
	maxRules    = 4096
	maxPrefixes = 8192
	maxPorts    = 64
	maxLines    = 100_000 // of one family, rendered
)

// Tail is what happens to a packet that no line of a hook accepts.
type Tail string

// The tails.
const (
	// TailDrop drops it.
	TailDrop Tail = "drop"
	// TailReturn leaves it to the rules that stand below our jump.
	TailReturn Tail = "return"
)

// RuleSet is what our chains hold. A nil hook has no chain of ours.
type RuleSet struct {
	Version int   `json:"version"`
	Input   *Hook `json:"input,omitempty"`
	Output  *Hook `json:"output,omitempty"`
	Forward *Hook `json:"forward,omitempty"`
	// Docker says that container traffic is filtered in the forward hook and in DOCKER-USER.
	Docker bool `json:"docker,omitempty"`
	// Router says that accepted packets are forwarded between the host's interfaces.
	Router bool `json:"router,omitempty"`
	// InstancePool is the prefix of the customers' instances: what holds for containers does not hold for those in it.
	InstancePool string `json:"instance_pool,omitempty"`
}

// Hook is one chain of ours.
type Hook struct {
	Accepts []Accept `json:"accepts,omitempty"`
	Tail    Tail     `json:"tail"`
	// Exempt are nodes whose packets pass to the rules below our jump although the tail drops: there was no chain of ours
	// before, and they have not kept the widening yet.
	Exempt []Exempt `json:"exempt,omitempty"`
}

// Exempt is one exempted node.
type Exempt struct {
	Peer     string   `json:"peer"`
	Prefixes []string `json:"prefixes"`
}

// Accept is one accepted flow at one hook.
type Accept struct {
	Protocol string      `json:"protocol"`
	Ports    []PortRange `json:"ports"`
	From     Endpoint    `json:"from"`
	To       Endpoint    `json:"to"`
	// Families are "4", "6" or "46": where a line without addresses belongs. A site without IPv6 networks accepts nothing
	// over IPv6 beyond what always passes.
	Families string `json:"families"`
	// Containers says that it also holds for containers on this host.
	Containers bool     `json:"containers,omitempty"`
	Flow       string   `json:"flow,omitempty"`
	Reason     string   `json:"reason,omitempty"`
	Peers      []string `json:"peers,omitempty"`
	// Old says that the revision in force no longer wishes it.
	Old bool `json:"old,omitempty"`
}

// PortRange is one destination port, or several in a row.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// Endpoint is one side of a flow. Without Prefixes and Internet it is any address.
type Endpoint struct {
	Prefixes []string `json:"prefixes,omitempty"`
	// Internet is every address outside of Inside.
	Internet bool     `json:"internet,omitempty"`
	Inside   []string `json:"inside,omitempty"`
}

// FromSpec checks a spec and turns it into the rule set of the new state alone. Equal wishes give equal rule sets, whatever
// the order of their lines.
func FromSpec(spec *v1.FirewallSpec) (RuleSet, error) {
	rs := RuleSet{
		Version: 1, Docker: spec.GetDockerHost(), Router: spec.GetRouter(),
		Input: &Hook{Tail: TailDrop}, Output: &Hook{Tail: TailDrop}, Forward: &Hook{Tail: TailDrop},
	}
	if len(spec.GetRules()) > maxRules {
		return rs, errs.New(errs.Invalid, "the firewall has %d rules, more than %d", len(spec.GetRules()), maxRules)
	}
	inside, err := prefixes(spec.GetInsidePrefixes())
	if err != nil {
		return rs, errs.New(errs.Invalid, "%w", err).At("inside prefixes")
	}
	if pool := spec.GetInstancePool(); pool != "" {
		p, err := parsePrefix(pool)
		if err != nil || !p.Addr().Is4() {
			return rs, errs.New(errs.Invalid, "%q is no IPv4 prefix", pool).At("instance pool")
		}
		rs.InstancePool = p.String()
	}
	families := familiesOf(inside)
	for i, r := range spec.GetRules() {
		where := fmt.Sprintf("firewall rule %d (%s)", i+1, r.GetFlow())
		a, err := fromRule(r, inside, families)
		if err != nil {
			return rs, errs.New(errs.Invalid, "%w", err).At(where).WithHint("this is a defect of the server: it derives these rules")
		}
		hook := map[v1.FirewallHook]*Hook{
			v1.FirewallHook_FIREWALL_HOOK_INPUT:   rs.Input,
			v1.FirewallHook_FIREWALL_HOOK_OUTPUT:  rs.Output,
			v1.FirewallHook_FIREWALL_HOOK_FORWARD: rs.Forward,
		}[r.GetHook()]
		switch {
		case hook == nil:
			return rs, errs.New(errs.Invalid, "it names no hook").At(where)
		case hook == rs.Input && a.To.Internet, hook == rs.Output && a.From.Internet:
			return rs, errs.New(errs.Invalid, "this host is not the internet").At(where)
		}
		hook.Accepts = append(hook.Accepts, a)
	}
	for _, h := range rs.hooks() {
		h.Accepts = tidy(h.Accepts)
	}
	return rs, nil
}

func fromRule(r *v1.FirewallRule, inside []string, families string) (Accept, error) {
	a := Accept{
		Protocol: r.GetProtocol(), Containers: r.GetContainers(), Flow: r.GetFlow(), Reason: r.GetReason(),
		Peers: sorted(r.GetPeers()), Families: families,
	}
	if a.Protocol != "tcp" && a.Protocol != "udp" {
		return a, fmt.Errorf("protocol %q is neither tcp nor udp", a.Protocol)
	}
	if n := len(r.GetPorts()); n == 0 || n > maxPorts {
		return a, fmt.Errorf("it has %d ports, not 1 to %d", n, maxPorts)
	}
	for _, p := range r.GetPorts() {
		if p.GetFirst() == 0 || p.GetFirst() > p.GetLast() || p.GetLast() > 65535 {
			return a, fmt.Errorf("ports %d to %d are no range", p.GetFirst(), p.GetLast())
		}
		a.Ports = append(a.Ports, PortRange{uint16(p.GetFirst()), uint16(p.GetLast())})
	}
	slices.SortFunc(a.Ports, func(x, y PortRange) int {
		return cmp.Or(cmp.Compare(x.First, y.First), cmp.Compare(x.Last, y.Last))
	})
	a.Ports = slices.Compact(a.Ports)
	var err error
	if a.From, err = endpoint(r.GetFrom(), inside); err != nil {
		return a, fmt.Errorf("from: %w", err)
	}
	if a.To, err = endpoint(r.GetTo(), inside); err != nil {
		return a, fmt.Errorf("to: %w", err)
	}
	return a, nil
}

func endpoint(e *v1.Endpoint, inside []string) (Endpoint, error) {
	list, err := prefixes(e.GetPrefixes())
	if err != nil {
		return Endpoint{}, err
	}
	if !e.GetInternet() {
		return Endpoint{Prefixes: list}, nil
	}
	if len(list) > 0 {
		return Endpoint{}, fmt.Errorf("it is both the internet and addresses")
	}
	if len(inside) == 0 {
		return Endpoint{}, fmt.Errorf("the internet is what is outside of the site's networks, and none is given")
	}
	return Endpoint{Internet: true, Inside: inside}, nil
}

// prefixes parses, masks, sorts and compacts.
func prefixes(texts []string) ([]string, error) {
	if len(texts) > maxPrefixes {
		return nil, fmt.Errorf("%d prefixes are more than %d", len(texts), maxPrefixes)
	}
	list := make([]string, 0, len(texts))
	for _, s := range texts {
		p, err := parsePrefix(s)
		if err != nil {
			return nil, err
		}
		list = append(list, p.String())
	}
	return sorted(list), nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return netip.Prefix{}, fmt.Errorf("%q is no address", s)
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is no prefix", s)
	}
	return p.Masked(), nil
}

func sorted(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

func familiesOf(inside []string) string {
	families := ""
	if slices.ContainsFunc(inside, func(p string) bool { return !strings.Contains(p, ":") }) {
		families = "4"
	}
	if slices.ContainsFunc(inside, func(p string) bool { return strings.Contains(p, ":") }) {
		families += "6"
	}
	if families == "" {
		return "46"
	}
	return families
}

func (rs RuleSet) hooks() []*Hook {
	var list []*Hook
	for _, h := range []*Hook{rs.Input, rs.Output, rs.Forward} {
		if h != nil {
			list = append(list, h)
		}
	}
	return list
}

func (rs RuleSet) empty() bool { return len(rs.hooks()) == 0 }

// key is what makes two accepts the same flow for a packet.
func (a Accept) key() string {
	return fmt.Sprint(a.Protocol, a.Ports, a.From, a.To, a.Families, a.Containers)
}

// tidy sorts, and drops an accept that stands twice.
func tidy(list []Accept) []Accept {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(x, y Accept) int {
		return cmp.Or(cmp.Compare(x.Flow, y.Flow), cmp.Compare(x.key(), y.key()))
	})
	seen := map[string]bool{}
	return slices.DeleteFunc(list, func(a Accept) bool {
		k := a.key()
		again := seen[k]
		seen[k] = true
		return again
	})
}
