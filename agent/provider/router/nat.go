package router

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables"
	"github.com/infractl/infractl/internal/errs"
)

// Chains of the nat table. Only IPv4 is translated: IPv6 addresses are the machines' own, and the firewall decides.
const (
	chainPre  = iptables.Prefix + "PRE"
	chainPost = iptables.Prefix + "POST"
)

// widen is the new wish with what an earlier one held beside it: where both say something of a port, the new one decides.
func widen(old, wanted Desired) Desired {
	for _, f := range old.Forwards {
		f.Old = false
		if !slices.ContainsFunc(wanted.Forwards, func(w Forward) bool { w.Old = false; return reflect.DeepEqual(w, f) }) {
			f.Old = true
			wanted.Forwards = append(wanted.Forwards, f)
		}
	}
	for _, m := range old.Masquerades {
		m.Old = false
		if !slices.ContainsFunc(wanted.Masquerades, func(w Masquerade) bool { w.Old = false; return reflect.DeepEqual(w, m) }) {
			m.Old = true
			wanted.Masquerades = append(wanted.Masquerades, m)
		}
	}
	for _, r := range old.Routes {
		if !slices.ContainsFunc(wanted.Routes, func(w Route) bool { return w.Prefix == r.Prefix }) {
			wanted.Routes = append(wanted.Routes, r)
		}
	}
	return wanted
}

// render returns what the nat table must hold.
func render(d Desired) iptables.Table {
	var pre, post []string
	for _, f := range d.Forwards {
		pre = append(pre, f.translation()...)
		if f.Hairpin != "" {
			post = append(post, fmt.Sprintf("-s %s -d %s/32 -p %s -m %s --dport %s -m conntrack --ctstate DNAT --ctorigdst %s %s -j MASQUERADE",
				f.Hairpin, f.Target, f.Protocol, f.Protocol, f.ports(), f.Outside, comment(f.Flow)))
		}
	}
	for _, m := range d.Masquerades {
		for _, e := range m.Excluded {
			post = append(post, fmt.Sprintf("-s %s -d %s -o %s -j RETURN", m.Source, e, m.Interface))
		}
		post = append(post, fmt.Sprintf("-s %s -o %s -j MASQUERADE", m.Source, m.Interface))
	}
	t := iptables.Table{Chains: []iptables.Chain{}, Jumps: []iptables.Jump{}}
	for _, c := range []struct {
		name, parent string
		rules        []string
	}{{chainPre, "PREROUTING", pre}, {chainPost, "POSTROUTING", post}} {
		if len(c.rules) == 0 {
			continue
		}
		t.Chains = append(t.Chains, iptables.Chain{Name: c.name, Rules: slices.Compact(c.rules)})
		t.Jumps = append(t.Jumps, iptables.Jump{Parent: c.parent, Rule: "-j " + c.name, At: []int{1}})
	}
	return t
}

func (f Forward) ports() string {
	if f.First == f.Last {
		return fmt.Sprint(f.First)
	}
	return fmt.Sprintf("%d:%d", f.First, f.Last)
}

// translation is the rule for packets to the outside address, wherever they come from: also from inside.
func (f Forward) translation() []string {
	sources := []string{""}
	if len(f.From) > 0 {
		sources = nil
		for _, p := range f.From {
			sources = append(sources, "-s "+p+" ")
		}
	}
	list := make([]string, 0, len(sources))
	for _, s := range sources {
		list = append(list, fmt.Sprintf("%s-d %s/32 -p %s -m %s --dport %s %s -j DNAT --to-destination %s",
			s, f.Outside, f.Protocol, f.Protocol, f.ports(), comment(f.Flow), f.Target))
	}
	return list
}

func comment(flow string) string {
	return `-m comment --comment "infractl:` + iptables.Clean(flow) + `"`
}

func readNAT(ctx context.Context, h *host.Host) (iptables.Kernel, error) {
	return iptables.Read(ctx, h, iptables.NAT(), iptables.V4)
}

// installNAT makes the nat table's chains of ours as wanted, after a try in an empty network namespace.
func installNAT(ctx context.Context, h *host.Host, want iptables.Table) error {
	now, err := readNAT(ctx, h)
	if err != nil || now.Same(want) {
		return err
	}
	if len(want.Chains) > 0 {
		empty := iptables.Kernel{Layout: iptables.NAT()}
		if err := iptables.Try(ctx, h, iptables.V4, iptables.Transaction(empty, want, false)); err != nil {
			return err
		}
	}
	return iptables.Restore(ctx, h, iptables.V4, iptables.Transaction(now, want, false))
}

// natLines are the translations as people read them.
func (d Desired) natLines() []string {
	var list []string
	for _, f := range d.Forwards {
		list = append(list, f.text())
	}
	for _, m := range d.Masquerades {
		list = append(list, m.text())
	}
	return list
}

// oldLines are those that only an earlier revision wants.
func (d Desired) oldLines() []string {
	var list []string
	for _, f := range d.Forwards {
		if f.Old {
			list = append(list, "NAT: "+f.text())
		}
	}
	for _, m := range d.Masquerades {
		if m.Old {
			list = append(list, "NAT: "+m.text())
		}
	}
	return list
}

// natChange says in which lines the kernel and the wish differ; nil when they agree. Where the kernel is as it was kept, the
// lines are those of the wish, else the kernel's own.
func natChange(old, want Desired, now iptables.Kernel) (before, after []string) {
	differences := now.Differences(render(want))
	if len(differences) == 0 {
		return nil, nil
	}
	was, is := old.natLines(), want.natLines()
	if now.Same(render(old)) && !slices.Equal(was, is) {
		return iptables.Without(was, is), iptables.Without(is, was)
	}
	for _, line := range differences {
		if text, ok := strings.CutPrefix(line, "- "); ok {
			before = append(before, text)
		} else {
			after = append(after, strings.TrimPrefix(line, "+ "))
		}
	}
	return before, after
}

// refuse says no where the other backend of iptables translates too.
func refuse(ctx context.Context, h *host.Host, now iptables.Kernel) error {
	return errs.Wrap("look at the nat table", iptables.OneBackend(ctx, h, iptables.NAT(),
		map[iptables.Family]iptables.Kernel{iptables.V4: now}))
}
