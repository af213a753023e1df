package firewall

import (
	"context"
	"fmt"
	"strings"

	"github.com/infractl/infractl/agent/iptables"
	"github.com/infractl/infractl/internal/errs"
)

// maxForeign bounds the list of foreign rules.
const maxForeign = 50

// Foreign lists, for the warnings of a status, rules of others that still have a say: those below our jumps, and programs
// that write rules. Docker's own are left out. They are never changed.
func (p *Provider) Foreign(ctx context.Context) ([]string, error) {
	present, err := readBoth(ctx, p.host)
	if err != nil {
		return nil, errs.Wrap("look for foreign rules", err)
	}
	var list []string
	fail2ban := false
	for _, f := range []family{v4, v6} {
		k := present[f]
		for _, name := range k.Order {
			fail2ban = fail2ban || strings.HasPrefix(name, "f2b-")
		}
		for _, parent := range iptables.Filter().Parents {
			for _, rule := range k.Rules[parent] {
				if iptables.IsOurs(rule) || isDockers(parent, rule) {
					continue
				}
				list = append(list, fmt.Sprintf("%s: a rule of others in %s: %s", f, parent, rule))
			}
		}
	}
	if n := len(list); n > maxForeign {
		list = append(list[:maxForeign], fmt.Sprintf("and %d more", n-maxForeign))
	}
	if fail2ban || p.host.Exists("/run/fail2ban/fail2ban.pid") {
		list = append(list, "fail2ban is active: its bans stand below our chains and do not stop what a flow accepts")
	}
	if p.host.Exists("/etc/systemd/system/sysinit.target.wants/nftables.service") {
		list = append(list, "nftables.service is enabled: if its file begins with \"flush ruleset\", each reload removes all chains "+
			"until they are put back")
	}
	if p.host.Exists("/etc/iptables/rules.v4") {
		list = append(list, "netfilter-persistent has saved rules in /etc/iptables: they are loaded at boot beside ours")
	}
	return list, nil
}

// isDockers reports whether a rule of a hook is one that Docker makes.
func isDockers(parent, rule string) bool {
	words := iptables.Split(rule)
	for i, w := range words {
		next := ""
		if i+1 < len(words) {
			next = words[i+1]
		}
		if w == "-j" && strings.HasPrefix(next, "DOCKER") {
			return true
		}
		if parent == forwardName && (w == "-i" || w == "-o") && (next == "docker0" || strings.HasPrefix(next, "br-")) {
			return true
		}
	}
	return parent == dockerUser && rule == "-j RETURN"
}
