package firewall

import (
	"fmt"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/iptables"
	"github.com/infractl/infractl/internal/errs"
)

// Verdicts in rules.
const (
	accepted = "-j ACCEPT"
	returned = "-j RETURN"
	dropped  = "-j DROP"
)

// faults are mistakes that a test plants, to see that its probes find them. The zero value is the only one in use.
type faults struct {
	dropFirst     bool // the tail stands before the accepts
	noEstablished bool // replies of running connections are not accepted
}

// Render returns the input of iptables-restore --noflush that makes rs true on a host with no chain of ours. ipv6 selects the
// family.
func Render(rs RuleSet, ipv6 bool) (string, error) {
	f := v4
	if ipv6 {
		f = v6
	}
	t, err := render(rs, f, faults{})
	if err != nil {
		return "", err
	}
	return iptables.Transaction(kernel{}, t, false), nil
}

// render returns what the filter table of one family must hold.
func render(rs RuleSet, f family, flaws faults) (table, error) {
	r := &renderer{rs: rs, family: f, flaws: flaws, nets: map[string]string{}}
	if rs.Input != nil {
		r.host(chainIn, "-i lo", "-s", rs.Input)
		r.jumps = append(r.jumps, jump{Parent: inputName, Rule: "-j " + chainIn, At: []int{1}})
	}
	if rs.Output != nil {
		r.host(chainOut, "-o lo", "-d", rs.Output)
		r.jumps = append(r.jumps, jump{Parent: outputName, Rule: "-j " + chainOut, At: []int{1}})
	}
	if rs.Forward != nil {
		r.forward()
		r.jumps = append(r.jumps, jump{Parent: forwardName, Rule: "-j " + chainFwd, At: []int{1}})
		if rs.Docker {
			r.jumps = append(r.jumps, jump{Parent: dockerUser, Rule: "-j " + chainFwd, At: []int{1}})
		}
	}
	t := table{Chains: append(r.chains, r.helpers...), Jumps: r.jumps, DockerUser: rs.Docker && rs.Forward != nil}
	lines := 0
	for _, c := range t.Chains {
		lines += len(c.Rules)
	}
	if lines > maxLines {
		return table{}, errs.New(errs.Exhausted, "the firewall has %d lines, more than %d", lines, maxLines).
			WithHint("let flows name networks instead of single hosts")
	}
	return t, nil
}

type renderer struct {
	rs      RuleSet
	family  family
	flaws   faults
	chains  []chain
	helpers []chain
	jumps   []jump
	// nets are the helper chains by what they hold.
	nets map[string]string
}

// bridges are the names of Docker's bridges in a rule.
func bridges() []string { return []string{"docker0", "br-+"} }

func (r *renderer) icmp() string {
	if r.family == v6 {
		return "-p ipv6-icmp" // neighbour discovery with it
	}
	return "-p icmp"
}

// always are the lines that begin every chain.
func (r *renderer) always(verdict string) []string {
	lines := []string{"-m conntrack --ctstate RELATED,ESTABLISHED " + verdict, r.icmp() + " " + verdict}
	if r.flaws.noEstablished {
		lines = lines[1:]
	}
	return lines
}

// tail are the lines that end a chain. sides are the options under which an exempted node's address stands.
func (r *renderer) tail(h *Hook, sides ...string) []string {
	var lines []string
	for _, e := range h.Exempt {
		for _, p := range r.own(e.Prefixes) {
			for _, side := range sides {
				lines = append(lines, strings.TrimSpace(address(side, p))+" "+returned)
			}
		}
	}
	if h.Tail == TailDrop {
		return append(lines, dropped)
	}
	return append(lines, returned)
}

// host renders the chain of INPUT or OUTPUT.
func (r *renderer) host(name, loopback, side string, h *Hook) {
	lines := append([]string{loopback + " " + accepted}, r.always(accepted)...)
	if name == chainOut && r.rs.Docker {
		for _, b := range bridges() {
			lines = append(lines, "-o "+b+" "+accepted)
		}
	}
	for _, a := range h.Accepts {
		if name == chainIn && r.rs.Docker && r.fromContainers(a) {
			lines = append(lines, r.acceptContainers(a)...)
			continue
		}
		lines = append(lines, r.accept(a)...)
	}
	r.finish(name, lines, r.tail(h, side))
}

// fromContainers reports whether an accept of INPUT names the host on both sides: that is what its own containers send to it,
// since what the host sends to itself never leaves loopback.
func (r *renderer) fromContainers(a Accept) bool {
	return len(a.From.Prefixes) > 0 && slices.Equal(a.From.Prefixes, a.To.Prefixes)
}

// acceptContainers accepts it from Docker's bridges, whatever address the containers have there.
func (r *renderer) acceptContainers(a Accept) []string {
	a.From = Endpoint{}
	var lines []string
	for _, line := range r.notInstances(r.accept(a)) {
		for _, b := range bridges() {
			lines = append(lines, "-i "+b+" "+line)
		}
	}
	return lines
}

// finish adds a chain: its lines, each once, then its tail.
func (r *renderer) finish(name string, lines, tail []string) {
	if r.flaws.dropFirst {
		lines, tail = slices.Concat(tail, lines), nil
	}
	seen := map[string]bool{}
	lines = slices.DeleteFunc(lines, func(s string) bool {
		again := seen[s]
		seen[s] = true
		return again
	})
	r.chains = append(r.chains, chain{Name: name, Rules: append(lines, tail...)})
}

// accept renders an accept where the verdict is ACCEPT: for the internet, through a helper chain.
func (r *renderer) accept(a Accept) []string {
	if !r.applies(a) {
		return nil
	}
	verdict := accepted
	if a.From.Internet || a.To.Internet {
		verdict = "-j " + r.net(a)
	}
	var lines []string
	for _, match := range r.matches(a) {
		lines = append(lines, match+" "+comment(a)+" "+verdict)
	}
	return lines
}

// applies reports whether an accept has a meaning in the family.
func (r *renderer) applies(a Accept) bool {
	named := false
	for _, e := range []Endpoint{a.From, a.To} {
		if len(e.Prefixes) == 0 {
			continue
		}
		named = true
		if len(r.own(e.Prefixes)) == 0 {
			return false
		}
	}
	if a.From.Internet || a.To.Internet || !named {
		return strings.Contains(a.Families, string(r.family))
	}
	return true
}

// own are the prefixes of the family.
func (r *renderer) own(list []string) []string {
	var own []string
	for _, p := range list {
		if strings.Contains(p, ":") == (r.family == v6) {
			own = append(own, p)
		}
	}
	return own
}

// sides are the prefixes of an endpoint, or one "" when it names none.
func (r *renderer) sides(e Endpoint) []string {
	if own := r.own(e.Prefixes); len(own) > 0 {
		return own
	}
	return []string{""}
}

// matches are the conditions of an accept as the packet itself shows them.
func (r *renderer) matches(a Accept) []string {
	var list []string
	for _, from := range r.sides(a.From) {
		for _, to := range r.sides(a.To) {
			for _, p := range a.Ports {
				list = append(list, fmt.Sprintf("%s%s-p %s -m %s --dport %s", address("-s", from), address("-d", to), a.Protocol,
					a.Protocol, p.text(":")))
			}
		}
	}
	return list
}

// published are the conditions of an accept to a published port: the address and port before Docker's translation.
func (r *renderer) published(a Accept) []string {
	var list []string
	for _, from := range r.sides(a.From) {
		for _, to := range r.sides(a.To) {
			for _, p := range a.Ports {
				list = append(list, fmt.Sprintf("%s-p %s -m conntrack %s--ctorigdstport %s --ctdir ORIGINAL", address("-s", from),
					a.Protocol, address("--ctorigdst", to), p.text(":")))
			}
		}
	}
	return list
}

func address(option, prefix string) string {
	if prefix == "" || strings.HasSuffix(prefix, "/0") {
		return ""
	}
	return option + " " + prefix + " "
}

func comment(a Accept) string {
	return `-m comment --comment "infractl:` + iptables.Clean(a.Flow) + `"`
}

// net returns the helper chain that accepts what is outside of the site's networks.
func (r *renderer) net(a Accept) string {
	kind, lines := "", []string{}
	if a.From.Internet {
		kind = "S"
		if r.rs.Docker { // a container is not the internet
			for _, b := range bridges() {
				lines = append(lines, "-i "+b+" "+returned)
			}
		}
		for _, p := range r.own(a.From.Inside) {
			lines = append(lines, "-s "+p+" "+returned)
		}
	}
	if a.To.Internet {
		kind += "D"
		for _, p := range r.own(a.To.Inside) {
			lines = append(lines, "-d "+p+" "+returned)
		}
	}
	lines = append(lines, accepted)
	what := kind + strings.Join(lines, "\n")
	if name, ok := r.nets[what]; ok {
		return name
	}
	name := iptables.Prefix + "INET-" + kind
	for n := 2; slices.ContainsFunc(r.helpers, func(c chain) bool { return c.Name == name }); n++ {
		name = fmt.Sprintf("%sINET-%s%d", iptables.Prefix, kind, n)
	}
	r.nets[what] = name
	r.helpers = append(r.helpers, chain{Name: name, Rules: lines})
	return name
}
