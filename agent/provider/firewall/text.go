package firewall

import (
	"fmt"
	"strings"

	"github.com/infractl/infractl/agent/iptables"
)

// Names of the hooks in changes and status lines.
const (
	inputName   = "INPUT"
	outputName  = "OUTPUT"
	forwardName = "FORWARD"
)

type namedHook struct {
	name string
	hook *Hook
}

func (rs RuleSet) named() []namedHook {
	return []namedHook{{inputName, rs.Input}, {outputName, rs.Output}, {forwardName, rs.Forward}}
}

// line is an accept as people read it: "accept tcp 202 from 10.0.10.4 (bastion)". The host's own side is left out.
func (a Accept) line(hook string) string {
	ports := make([]string, 0, len(a.Ports))
	for _, p := range a.Ports {
		ports = append(ports, p.text("-"))
	}
	parts := []string{"accept", a.Protocol, strings.Join(ports, ",")}
	if hook != outputName || !a.From.any() {
		parts = append(parts, "from", a.From.text())
	}
	if hook != inputName || !a.To.any() {
		parts = append(parts, "to", a.To.text())
	}
	if a.Containers {
		parts = append(parts, "also containers")
	}
	if a.Families == "6" && a.From.any() && a.To.any() {
		parts = append(parts, "over IPv6")
	}
	if a.Flow != "" {
		parts = append(parts, "("+iptables.Clean(a.Flow)+")")
	}
	return strings.Join(parts, " ")
}

func (p PortRange) text(dash string) string {
	if p.First == p.Last {
		return fmt.Sprint(p.First)
	}
	return fmt.Sprintf("%d%s%d", p.First, dash, p.Last)
}

func (e Endpoint) any() bool { return !e.Internet && len(e.Prefixes) == 0 }

func (e Endpoint) text() string {
	switch {
	case e.Internet:
		return "internet"
	case e.any():
		return "anywhere"
	}
	return joinPrefixes(e.Prefixes)
}

func joinPrefixes(list []string) string {
	short := make([]string, 0, len(list))
	for _, p := range list {
		if isHost(p) {
			p, _, _ = strings.Cut(p, "/")
		}
		short = append(short, p)
	}
	return strings.Join(short, ",")
}

// lines are a hook as people read it.
func (h *Hook) lines(hook string) []string {
	if h == nil {
		return nil
	}
	list := make([]string, 0, len(h.Accepts)+2)
	for _, a := range h.Accepts {
		list = append(list, a.line(hook))
	}
	for _, e := range h.Exempt {
		list = append(list, fmt.Sprintf("leave %s (%s) to the rules below", joinPrefixes(e.Prefixes), iptables.Clean(e.Peer)))
	}
	if h.Tail == TailDrop {
		return append(list, "drop everything else")
	}
	return append(list, "leave everything else to the rules below")
}

// widened are the lines of a kept rule set that are not part of the wish alone.
func widened(rs RuleSet) []string {
	var list []string
	for _, n := range rs.named() {
		if n.hook == nil {
			continue
		}
		for _, a := range n.hook.Accepts {
			if a.Old {
				list = append(list, n.name+": "+a.line(n.name))
			}
		}
		for _, e := range n.hook.Exempt {
			list = append(list, fmt.Sprintf("%s: packets of %s (%s) are left to the rules from before", n.name, iptables.Clean(e.Peer),
				joinPrefixes(e.Prefixes)))
		}
		if n.hook.Tail == TailReturn {
			list = append(list, n.name+": what no line names is left to the rules from before")
		}
	}
	return list
}
