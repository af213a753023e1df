package rollout_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/rollout/rollouttest"
)

// fleetOf draws a site: plain nodes, a relay, and maybe a supervision node, a server's node and a router.
func fleetOf(t *rapid.T) rollouttest.Plan {
	p := rollouttest.Plan{Window: 80 * time.Millisecond, Content: map[string]string{}}
	limit := rapid.IntRange(1, 4).Draw(t, "max_unavailable")
	plain := rapid.IntRange(1, 5).Draw(t, "plain nodes")
	var names []string
	for i := range plain {
		names = append(names, fmt.Sprintf("n%d", i))
	}
	var critical []string
	for _, c := range []string{"supervision", "server", "router"} {
		if rapid.Bool().Draw(t, "has "+c) {
			critical = append(critical, c)
		}
	}
	others := slices.Concat(names, critical)
	for _, n := range others {
		m := rollouttest.Member{Name: n, Critical: !slices.Contains(names, n), Witnesses: []site.Witness{rollouttest.Login([2]string{"relay", n})}}
		if n == "router" || n == "server" {
			var ways [][2]string
			for _, from := range names {
				ways = append(ways, [2]string{from, "relay"})
			}
			m.Witnesses = append(m.Witnesses, rollouttest.ToServer(ways...))
		}
		p.Members = append(p.Members, m)
	}
	var out, in [][2]string
	for _, n := range others {
		out, in = append(out, [2]string{"relay", n}), append(in, [2]string{n, "relay"})
	}
	p.Members = append(p.Members, rollouttest.Member{
		Name: "relay", Critical: true, Witnesses: []site.Witness{rollouttest.Login(out...), rollouttest.Login(in...)},
	})
	split := rapid.IntRange(0, plain).Draw(t, "canaries")
	waves := [][]string{names[:split], names[split:]}
	for _, c := range append(critical, "relay") {
		waves = append(waves, []string{c})
	}
	for _, w := range waves {
		if len(w) > 0 {
			p.Waves = append(p.Waves, site.Wave{Number: len(p.Waves) + 1, Nodes: w, MaxUnavailable: min(limit, len(w))})
		}
	}
	return p
}

// law returns what must hold whenever a commit begins.
func law(p rollouttest.Plan, away func(string) bool) func(map[string]v1.Pass, string) string {
	members := map[string]rollouttest.Member{}
	for _, m := range p.Members {
		members[m.Name] = m
	}
	return func(at map[string]v1.Pass, began string) string {
		for _, w := range p.Waves {
			count := 0
			for _, n := range w.Nodes {
				if _, ok := at[n]; ok {
					count++
				}
			}
			if count > w.MaxUnavailable {
				return fmt.Sprintf("%d nodes of wave %d in commit, %d may be: %v", count, w.Number, w.MaxUnavailable, at)
			}
		}
		for name := range at {
			for _, w := range members[name].Witnesses {
				if !slices.ContainsFunc(w.Alternatives, func(way site.Way) bool {
					_, from := at[way.From]
					_, to := at[way.To]
					return !away(way.From) && (way.From == name || !from) && (way.To == name || !to)
				}) {
					return fmt.Sprintf("%s is in commit, and no witness of it is live and at rest when %s begins: %v", name, began, at)
				}
			}
		}
		return ""
	}
}

func TestLocksAreNeverViolated(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		plan := fleetOf(t)
		r := newRig(t, plan)
		r.times.Patience, r.times.Grace = 30*time.Millisecond, 40*time.Millisecond
		var away []string
		for _, m := range plan.Members {
			if rapid.IntRange(0, 7).Draw(t, m.Name+" is away") == 0 {
				away = append(away, m.Name)
				r.hub.Disconnect(m.Name)
			}
		}
		r.watch.check = law(plan, func(n string) bool { return slices.Contains(away, n) })
		broken := false
		for _, m := range plan.Members {
			for range rapid.IntRange(0, 2).Draw(t, m.Name+"'s surprises") {
				act := rapid.SampledFrom([]rollouttest.Act{
					rollouttest.Keep, rollouttest.Keep, rollouttest.Degrade, rollouttest.Die, rollouttest.LoseServices, rollouttest.StayClosed,
					rollouttest.Fail, rollouttest.CloseWay,
				}).Draw(t, m.Name+"'s act")
				broken = broken || act == rollouttest.Fail || act == rollouttest.CloseWay
				r.hub.Script(m.Name, act)
			}
		}
		r.hub.Slow = time.Duration(rapid.IntRange(0, 3).Draw(t, "slowness")) * time.Millisecond
		r.serve()
		defer func() { r.stop() }()
		r.revise(1)
		id := r.start(rollout.StartRequest{Revision: 1})
		if rapid.Bool().Draw(t, "restarted") {
			time.Sleep(time.Duration(rapid.IntRange(0, 30).Draw(t, "after ms")) * time.Millisecond)
			r.stop()
			r.serve()
		}
		ro := r.end(id)
		r.watch.mu.Lock()
		faults := slices.Clone(r.watch.faults)
		r.watch.mu.Unlock()
		if len(faults) > 0 {
			t.Fatalf("%s\n%s", faults[0], describe(ro))
		}
		r.checkEnd(t, ro, away, broken)
	})
}

// checkEnd compares what the rollout says with what the hosts have reached.
func (r *rig) checkEnd(t *rapid.T, ro *v1.Rollout, away []string, broken bool) {
	if ro.GetState() == halted && !broken {
		t.Fatalf("halted without a failure\n%s", describe(ro))
	}
	if ro.GetState() == succeeded && len(away) > 0 {
		t.Fatalf("succeeded without %v\n%s", away, describe(ro))
	}
	view, err := r.revisions.View(context.Background(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range ro.GetNodes() {
		s, digest := r.hub.State(n.GetNode()), view.Nodes[n.GetNode()].Digest
		switch n.GetState() {
		case done, degraded:
			if s.GetWidenedDigest() != digest || s.GetNarrowedDigest() != digest && len(s.GetWidened()) == 0 {
				t.Fatalf("%s is shown as %v and has kept %v\n%s", n.GetNode(), n.GetState(), s, describe(ro))
			}
		case queued:
			if ro.GetState() != halted {
				t.Fatalf("%s was forgotten\n%s", n.GetNode(), describe(ro))
			}
		}
	}
}
