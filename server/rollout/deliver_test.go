package rollout_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/rollout/rollouttest"
)

// rotate changes what a revision makes of some nodes, as a new resource does.
func (r *rig) rotate(revision, resources uint64, content string, nodes ...string) {
	for _, n := range nodes {
		r.plan.Content[n] = content
	}
	r.revisions.Add(r.plan.View(revision, resources))
}

func (r *rig) deliver(reason string) string {
	r.t.Helper()
	id, err := r.rollouts.Deliver(context.Background(), "operator/anna", reason)
	if err != nil {
		r.t.Fatalf("deliver: %v", err)
	}
	return id
}

func names(ro *v1.Rollout) []string {
	var out []string
	for _, n := range ro.GetNodes() {
		out = append(out, n.GetNode())
	}
	return out
}

func TestDeliveryDoesNotSoak(t *testing.T) {
	r := serving(t, rollouttest.Line(3, 2))
	r.revise(1)
	r.end(r.start(rollout.StartRequest{Revision: 1}))
	for i := range r.plan.Waves {
		r.plan.Waves[i].Soak = time.Hour
	}
	r.rotate(1, 2, "secret v2", "n1")
	r.want(r.end(r.deliver("secret db rotated")), succeeded, nil)
}

func TestDeliveryReachesOnlyWhomItConcerns(t *testing.T) {
	r := serving(t, rollouttest.Line(3, 2))
	r.revise(1)
	r.end(r.start(rollout.StartRequest{Revision: 1}))
	if id := r.deliver("nothing changed"); id != "" {
		t.Fatalf("a delivery of nothing is rollout %s", id)
	}
	r.rotate(1, 2, "secret v2", "n1")
	id := r.deliver("secret db rotated")
	if id == "" {
		t.Fatal("nothing was delivered")
	}
	ro := r.end(id)
	r.want(ro, succeeded, nil)
	if got := names(ro); !slices.Equal(got, []string{"n1"}) && len(got) != 0 {
		t.Errorf("delivered to %v, want n1", got)
	}
	view, _ := r.revisions.View(context.Background(), 1)
	r.eventually("n1 at its wish", func() bool { return r.hub.State("n1").GetNarrowedDigest() == view.Nodes["n1"].Digest })
	entries, err := r.store.ListAudit(context.Background(), auditOf("rollout.deliver"))
	if err != nil || len(entries) != 1 || entries[0].Actor != "operator/anna" || entries[0].Message != "secret db rotated" {
		t.Errorf("audit %+v, %v", entries, err)
	}
}

func TestDeliveryWaitsForTheRolloutAtWorkAndMerges(t *testing.T) {
	r := serving(t, rollouttest.Line(3, 1))
	r.revise(1)
	r.end(r.start(rollout.StartRequest{Revision: 1}))
	r.revise(2)
	release := r.hub.Hold("n0")
	first := r.start(rollout.StartRequest{Revision: 2})
	r.eventually("n0 at work", func() bool { return slices.Contains(r.watch.commits()[8:], "n0") })
	r.rotate(2, 2, "secret v2", "n0")
	one, two := r.deliver("secret a"), r.deliver("secret b")
	if one == "" || one != two {
		t.Fatalf("two deliveries, %q and %q, want one", one, two)
	}
	release()
	r.want(r.end(first), succeeded, nil)
	r.want(r.end(one), succeeded, nil)
	view, _ := r.revisions.View(context.Background(), 2)
	if got := r.hub.State("n0").GetNarrowedDigest(); got != view.Nodes["n0"].Digest {
		t.Error("n0 lacks what was delivered")
	}
}

func TestDeliveryBringsNoSiteChangeThatHalted(t *testing.T) {
	r := serving(t, rollouttest.Line(3, 1))
	r.revise(1)
	r.end(r.start(rollout.StartRequest{Revision: 1}))
	r.plan.Content["n0"], r.plan.Content["n1"] = "rev 2", "rev 2" // and n2 as before
	r.revisions.Add(r.plan.View(2, 1))
	r.hub.Script("n0", rollouttest.Fail)
	r.want(r.end(r.start(rollout.StartRequest{Revision: 2})), halted, nil)

	_, err := r.rollouts.Deliver(context.Background(), "operator/anna", "secret")
	if !errs.Is(err, errs.Precondition) || errs.HintOf(err) == "" {
		t.Fatalf("delivery over a halted rollout: %v, hint %q", err, errs.HintOf(err))
	}
	// n2 is concerned by resources alone: both revisions ask the same of it.
	rev1 := r.plan
	rev1.Content = map[string]string{"n0": "rev 1", "n1": "rev 1", "n2": "secret v2", "relay": "rev 1"}
	r.revisions.Add(rev1.View(1, 2))
	r.rotate(2, 2, "secret v2", "n2")
	ro := r.end(r.deliver("secret"))
	r.want(ro, succeeded, nil)
	if got := names(ro); !slices.Equal(got, []string{"n2"}) {
		t.Errorf("delivered to %v, want n2 alone", got)
	}
	if got := r.hub.State("n1").GetSiteRevision(); got != 1 {
		t.Errorf("n1 is at revision %d", got)
	}
}

func TestApplyTakesThePlaceOfADeliveryThatItCovers(t *testing.T) {
	r := serving(t, rollouttest.Line(3, 1))
	r.revise(1)
	r.end(r.start(rollout.StartRequest{Revision: 1}))
	r.rotate(1, 2, "secret v2", "n0", "n1")
	release := r.hub.Hold("n0")
	id := r.deliver("secret")
	r.eventually("n0 at work", func() bool { return len(r.watch.commits()) > 8 })
	r.revise(2)
	limited := r.start(rollout.StartRequest{Revision: 2, Nodes: []string{"n2"}})
	all := r.start(rollout.StartRequest{Revision: 2})
	release()
	r.want(r.end(id), superseded, nil)
	r.want(r.end(limited), superseded, nil)
	r.want(r.end(all), succeeded, nil)
}
