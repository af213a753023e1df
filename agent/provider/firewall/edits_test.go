package firewall

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables/nstest"
	"github.com/infractl/infractl/agent/provider"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// TestMain lets the property make few checks by default. For a long run:
//
//	go test ./agent/provider/firewall -run TestRandomEdits -rapid.checks=500 -timeout 30m
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("rapid.nofailfile", "true"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "rapid.checks" })
	if !chosen {
		checks := "30"
		if testing.Short() {
			checks = "5"
		}
		if err := flag.Set("rapid.checks", checks); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	os.Exit(m.Run())
}

// edit is one change of a site as a host sees it: from one spec to another, with nodes that lag behind.
type edit struct {
	before, after []*v1.FirewallRule
	laggards      []string
	// undo takes the narrowing back.
	undo bool
}

// The ports of the random rules; nobody listens on the last one.
var editPorts = []uint16{1001, 1002, 1003, 1004}

// anchor is the flow of the connection that must survive everything.
func anchor() *v1.FirewallRule {
	return tcp(in, "anchor", 1001, addrs("10.99.0.4", "fd99::4"), anyone(), "relay")
}

var randomEdit = rapid.Custom(func(t *rapid.T) edit {
	ends := map[string]*v1.Endpoint{
		"relay": addrs("10.99.0.4", "fd99::4"), "other": addrs("10.99.0.5", "fd99::5"), "third": addrs("10.99.0.6"),
		"inside": addrs(allInside...), "internet": internet(), "anyone": anyone(), "half": addrs("10.99.0.4/31", "fd99::4/127"),
	}
	rule := rapid.Custom(func(t *rapid.T) *v1.FirewallRule {
		name := rapid.SampledFrom([]string{"relay", "other", "third", "inside", "internet", "anyone", "half"}).Draw(t, "end")
		first := rapid.SampledFrom(editPorts).Draw(t, "port")
		r := tcp(in, "flow-"+name, uint32(first), ends[name], anyone())
		if rapid.Bool().Draw(t, "outgoing") {
			r = tcp(out, "flow-"+name, uint32(first), anyone(), ends[name])
		}
		if first < 1004 && rapid.Bool().Draw(t, "range") {
			r.Ports[0].Last++
		}
		if slices.Contains([]string{"relay", "other", "third"}, name) {
			r.Peers = []string{name}
		}
		return r
	})
	rules := rapid.SliceOfN(rule, 0, 6)
	e := edit{
		before: append(rules.Draw(t, "before"), anchor()),
		after:  rules.Draw(t, "after"),
		undo:   rapid.Bool().Draw(t, "undo"),
	}
	for _, r := range e.before { // most of a real edit is what was there already
		if rapid.Bool().Draw(t, "stays") {
			e.after = append(e.after, r)
		}
	}
	e.laggards = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"relay", "other", "third"}), 0, 2, rapid.ID).Draw(t, "laggards")
	return e
})

// passes says, apart from the code under test, whether a rule lets a new connection pass.
func passes(r *v1.FirewallRule, hook v1.FirewallHook, from, to netip.Addr, port uint16) bool {
	match := func(e *v1.Endpoint, a netip.Addr) bool {
		among := func(list []string) bool {
			return slices.ContainsFunc(list, func(s string) bool {
				if p, err := netip.ParsePrefix(s); err == nil {
					return p.Contains(a)
				}
				return netip.MustParseAddr(s) == a
			})
		}
		if e.GetInternet() {
			return !among(allInside)
		}
		return len(e.GetPrefixes()) == 0 || among(e.GetPrefixes())
	}
	p := r.GetPorts()[0]
	return r.GetHook() == hook && match(r.GetFrom(), from) && match(r.GetTo(), to) &&
		uint32(port) >= p.GetFirst() && uint32(port) <= p.GetLast()
}

// trial carries out edits on one world.
type trial struct {
	t     testing.TB
	world *world
	flaw  faults
}

func newTrial(t testing.TB, flaw faults) *trial {
	w := newWorld(t)
	listen(t, w.host, editPorts[:3]...)
	listen(t, w.peer, editPorts[:3]...)
	return &trial{t: t, world: w, flaw: flaw}
}

// run carries out an edit from an empty firewall and probes every way in and out at each stage.
func (tr *trial) run(e edit) error {
	w := tr.world
	for _, program := range []string{"iptables", "ip6tables"} {
		for _, option := range []string{"-F", "-X"} {
			if _, err := nstest.Command(nil, nstest.Inside(w.host, program, option)...); err != nil {
				return err
			}
		}
	}
	root, err := os.MkdirTemp("", "firewall-edit")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	p := New(Config{Host: host.New(host.Config{Root: root, Runner: nstest.Runner{NS: w.host}})})
	p.flaw = tr.flaw
	stage := func(rules []*v1.FirewallRule, s provider.Stage, laggards ...string) ([]byte, error) {
		return tr.apply(p, wishFor(spec(rules...), s, laggards...))
	}
	if _, err := stage(e.before, provider.Narrowing); err != nil {
		return err
	}
	running, err := dial(w.peer, relayAddr[0], hostAddr[0], 1001, passWait)
	if err != nil {
		return fmt.Errorf("the anchor's connection: %w", err)
	}
	defer running.Close()
	if _, err := stage(e.after, provider.Widening); err != nil {
		return err
	}
	either := slices.Concat(e.before, e.after)
	if err := errors.Join(tr.probes(either), echoed(running)); err != nil {
		return fmt.Errorf("widened: %w", err)
	}
	snapshot, err := stage(e.after, provider.Narrowing, e.laggards...)
	if err != nil {
		return err
	}
	left := slices.Clone(e.after)
	for _, r := range e.before {
		if slices.ContainsFunc(r.GetPeers(), func(peer string) bool { return slices.Contains(e.laggards, peer) }) {
			left = append(left, r)
		}
	}
	if err := errors.Join(tr.probes(left), echoed(running)); err != nil {
		return fmt.Errorf("narrowed: %w", err)
	}
	if !e.undo {
		return nil
	}
	if err := p.Rollback(context.Background(), snapshot); err != nil {
		return err
	}
	if err := errors.Join(tr.probes(either), echoed(running)); err != nil {
		return fmt.Errorf("rolled back: %w", err)
	}
	return nil
}

// apply makes and keeps a wish; it returns the snapshot from before.
func (tr *trial) apply(p *Provider, w provider.Wish[*v1.FirewallSpec]) ([]byte, error) {
	ctx := context.Background()
	plan, err := p.Plan(ctx, w)
	if err != nil {
		return nil, err
	}
	snapshot, err := p.Snapshot(ctx, plan)
	if err != nil {
		return nil, err
	}
	return snapshot, errors.Join(p.Apply(ctx, plan), p.Verify(ctx, w), p.Keep(ctx, w))
}

// probes tries every source, port, direction and family at once and compares with what the rules say.
func (tr *trial) probes(rules []*v1.FirewallRule) error {
	var wants []want
	add := func(ns string, hook v1.FirewallHook, from, to netip.Addr, port uint16) {
		outcome, why := silent, "in no flow"
		for _, r := range rules {
			if passes(r, hook, from, to, port) {
				outcome, why = open, r.GetFlow()
				if port == editPorts[3] {
					outcome = refused
				}
			}
		}
		wants = append(wants, want{ns, from, to, port, outcome, why})
	}
	for f := range 2 {
		for _, a := range [][2]netip.Addr{relayAddr, otherAddr, thirdAddr, outerAddr} {
			for _, port := range editPorts {
				add(tr.world.peer, in, a[f], hostAddr[f], port)
				add(tr.world.host, out, hostAddr[f], a[f], port)
			}
		}
	}
	return check(wants)
}

func TestRandomEditsKeepExactlyTheFlowsOpen(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, faults{})
	rapid.Check(t, func(rt *rapid.T) {
		if err := tr.run(randomEdit.Draw(rt, "edit")); err != nil {
			rt.Fatal(err)
		}
	})
}

func TestPlantedFaultsAreFoundByRandomEdits(t *testing.T) {
	t.Parallel()
	for name, flaw := range map[string]faults{
		"drop before the accepts":          {dropFirst: true},
		"running connections not accepted": {noEstablished: true},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrial(t, flaw)
			for seed := range 10 {
				if tr.run(randomEdit.Example(seed)) != nil {
					return
				}
			}
			t.Error("10 edits did not find it")
		})
	}
}
