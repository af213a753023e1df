package firewall

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/infractl/infractl/agent/iptables"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func ruleSet(t testing.TB, s *v1.FirewallSpec) RuleSet {
	t.Helper()
	rs, err := FromSpec(s)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func text(rs RuleSet) string {
	var list []string
	for _, n := range rs.named() {
		for _, line := range n.hook.lines(n.name) {
			list = append(list, n.name+": "+line)
		}
	}
	return strings.Join(list, "\n")
}

func TestMerging(t *testing.T) {
	relay, other := addrs("10.99.0.4"), addrs("10.99.0.5")
	first := ruleSet(t, spec(tcp(in, "ssh", 22, relay, anyone(), "relay"), tcp(in, "scrape", 9100, other, anyone(), "other")))
	second := ruleSet(t, spec(tcp(in, "ssh", 202, relay, anyone(), "relay"), tcp(in, "scrape", 9100, other, anyone(), "other")))
	boot, err := FirstBoot{SSHFrom: []string{"10.99.0.4"}}.RuleSet()
	if err != nil {
		t.Fatal(err)
	}
	nobody := ruleSet(t, spec())
	const drops = "\nOUTPUT: drop everything else\nFORWARD: drop everything else"
	const leaves = "\nOUTPUT: leave everything else to the rules below\nFORWARD: leave everything else to the rules below"
	cases := map[string]struct {
		got  RuleSet
		want string
	}{
		"first widening leaves the rest to what was there": {widen(RuleSet{}, second),
			"INPUT: accept tcp 9100 from 10.99.0.5 (scrape)\nINPUT: accept tcp 202 from 10.99.0.4 (ssh)\n" +
				"INPUT: leave everything else to the rules below" + leaves},
		"widening holds old and new, and drops the rest as before": {widen(first, second),
			"INPUT: accept tcp 9100 from 10.99.0.5 (scrape)\nINPUT: accept tcp 202 from 10.99.0.4 (ssh)\n" +
				"INPUT: accept tcp 22 from 10.99.0.4 (ssh)\nINPUT: drop everything else" + drops},
		"first-boot rules are old": {widen(boot, nobody),
			"INPUT: accept tcp 22 from 10.99.0.4 (first-boot)\nINPUT: drop everything else" + leaves},
		"narrowing holds the new alone": {narrow(widen(first, second), second, nil), text(second)},
		"narrowing keeps an old line for its laggard": {narrow(widen(first, second), second, []string{"relay"}),
			"INPUT: accept tcp 9100 from 10.99.0.5 (scrape)\nINPUT: accept tcp 202 from 10.99.0.4 (ssh)\n" +
				"INPUT: accept tcp 22 from 10.99.0.4 (ssh)\nINPUT: drop everything else" + drops},
		"another laggard keeps nothing": {narrow(widen(first, second), second, []string{"other"}), text(second)},
		"an old line without names stays for the laggard's address": {narrow(widen(boot, second), second, []string{"relay"}),
			"INPUT: accept tcp 22 from 10.99.0.4 (first-boot)\nINPUT: accept tcp 9100 from 10.99.0.5 (scrape)\n" +
				"INPUT: accept tcp 202 from 10.99.0.4 (ssh)\nINPUT: drop everything else\n" +
				"OUTPUT: leave 10.99.0.4 (relay) to the rules below\nOUTPUT: drop everything else\n" +
				"FORWARD: leave 10.99.0.4 (relay) to the rules below\nFORWARD: drop everything else"},
		"a laggard without an address keeps all open": {narrow(widen(RuleSet{}, second), second, []string{"ghost"}),
			"INPUT: accept tcp 9100 from 10.99.0.5 (scrape)\nINPUT: accept tcp 202 from 10.99.0.4 (ssh)\n" +
				"INPUT: leave everything else to the rules below" + leaves},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, text(c.got)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestExemptNodesStayExemptUntilTheyHaveKept(t *testing.T) {
	s := ruleSet(t, spec(tcp(in, "ssh", 22, addrs("10.99.0.4"), anyone(), "relay"), tcp(in, "x", 1, addrs("10.99.0.5"), anyone(), "other")))
	both := narrow(widen(RuleSet{}, s), s, []string{"relay", "other"})
	one := narrow(widen(both, s), s, []string{"other"})
	if got := len(one.Input.Exempt); got != 1 || one.Input.Exempt[0].Peer != "other" {
		t.Errorf("exempt = %v, want other alone", one.Input.Exempt)
	}
	if none := narrow(one, s, nil); text(none) != text(s) {
		t.Errorf("without laggards:\n%s\nwant\n%s", text(none), text(s))
	}
}

// Keep computes its rule set from kept.json, also when it runs a second time after a crash: merging must be idempotent.
func TestMergingIsIdempotent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := randomEdit.Draw(rt, "edit")
		before, after := ruleSet(t, spec(e.before...)), ruleSet(t, spec(e.after...))
		old := rapid.SampledFrom([]RuleSet{{}, before, widen(RuleSet{}, before)}).Draw(rt, "old")
		w := widen(old, after)
		if d := cmp.Diff(w, widen(w, after)); d != "" {
			rt.Fatalf("widen (-once +twice):\n%s", d)
		}
		n := narrow(w, after, e.laggards)
		if d := cmp.Diff(n, narrow(n, after, e.laggards)); d != "" {
			rt.Fatalf("narrow (-once +twice):\n%s", d)
		}
		if d := cmp.Diff(n, widen(n, after)); d != "" {
			rt.Fatalf("widening after narrowing changes something (-narrowed +widened):\n%s", d)
		}
	})
}

func TestOrderOfASpecDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := randomEdit.Draw(rt, "edit")
		shuffled := rapid.Permutation(e.before).Draw(rt, "shuffled")
		// Which of two equal flows gives its name and peers may depend on the order; what passes may not.
		rules := func(list []*v1.FirewallRule) (lines []string) {
			tab, err := render(ruleSet(t, spec(list...)), v4, faults{})
			if err != nil {
				rt.Fatal(err)
			}
			for _, c := range tab.Chains {
				lines = append(lines, c.Rules...)
			}
			return lines
		}
		if d := cmp.Diff(rules(e.before), rules(shuffled)); d != "" {
			rt.Fatalf("(-as given +shuffled):\n%s", d)
		}
	})
}

func TestWrongSpecIsRefused(t *testing.T) {
	rule := func(change func(r *v1.FirewallRule)) *v1.FirewallSpec {
		r := tcp(in, "x", 22, addrs("10.0.0.1"), anyone())
		change(r)
		return spec(r)
	}
	cases := map[string]*v1.FirewallSpec{
		"no hook":              rule(func(r *v1.FirewallRule) { r.Hook = 0 }),
		"protocol":             rule(func(r *v1.FirewallRule) { r.Protocol = "icmp -j ACCEPT" }),
		"no ports":             rule(func(r *v1.FirewallRule) { r.Ports = nil }),
		"port 0":               rule(func(r *v1.FirewallRule) { r.Ports[0].First = 0 }),
		"port too high":        rule(func(r *v1.FirewallRule) { r.Ports[0].Last = 65536 }),
		"ports reversed":       rule(func(r *v1.FirewallRule) { r.Ports[0].Last = 21 }),
		"name as address":      rule(func(r *v1.FirewallRule) { r.From = addrs("relay") }),
		"text in an address":   rule(func(r *v1.FirewallRule) { r.From = addrs("10.0.0.1 -j ACCEPT") }),
		"mapped address":       rule(func(r *v1.FirewallRule) { r.From = addrs("::ffff:10.0.0.1") }),
		"address with zone":    rule(func(r *v1.FirewallRule) { r.From = addrs("fe80::1%eth0") }),
		"internet and address": rule(func(r *v1.FirewallRule) { r.From = &v1.Endpoint{Internet: true, Prefixes: []string{"10.0.0.1"}} }),
		"the host is internet": rule(func(r *v1.FirewallRule) { r.To = internet() }),
		"internet of nothing":  {Rules: []*v1.FirewallRule{tcp(in, "x", 22, internet(), anyone())}},
		"too many":             {Rules: make([]*v1.FirewallRule, maxRules+1)},
	}
	for name, s := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := FromSpec(s); errs.CodeOf(err) != errs.Invalid {
				t.Errorf("error = %v, want one with code invalid", err)
			}
		})
	}
}

func TestFlowNameCannotLeaveItsComment(t *testing.T) {
	for name, want := range map[string]string{
		"web":                      "web",
		"a\" -j ACCEPT\n-A X":      "a__-j_ACCEPT_-A_X",
		"über":                     "_ber",
		strings.Repeat("a", 10000): strings.Repeat("a", 200),
	} {
		if got := iptables.Clean(name); got != want {
			t.Errorf("iptables.Clean(%q) = %q, want %q", name, got, want)
		}
	}
}
