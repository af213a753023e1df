package rollout_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/rollout/rollouttest"
)

const (
	paused  = v1.RolloutState_ROLLOUT_STATE_PAUSED
	widened = v1.NodeRolloutState_NODE_ROLLOUT_STATE_WIDENED
)

func (r *rig) state(id string) v1.RolloutState {
	ro, err := r.rollouts.Get(context.Background(), id)
	if err != nil {
		return 0
	}
	return ro.GetState()
}

// soaking is a line whose waves soak.
func soaking(n int, soak time.Duration) rollouttest.Plan {
	p := rollouttest.Line(n, 1)
	for i := range p.Waves {
		p.Waves[i].Soak = soak
	}
	return p
}

func TestPausedRolloutBeginsNoFurtherNodeAndSurvivesARestart(t *testing.T) {
	ctx := context.Background()
	r := serving(t, rollouttest.Line(3, 1))
	r.revise(1)
	release := r.hub.Hold("n0")
	id := r.start(rollout.StartRequest{Revision: 1})
	r.eventually("n0 at work", func() bool { return len(r.watch.commits()) == 1 })
	if err := r.rollouts.Pause(ctx, id, "operator/anna"); err != nil {
		t.Fatal(err)
	}
	if err := r.rollouts.Pause(ctx, id, "operator/ben"); !errs.Is(err, errs.Precondition) {
		t.Errorf("pause of a paused rollout: %v", err)
	}
	release()
	r.eventually("n0 widened", func() bool {
		ro, _ := r.rollouts.Get(ctx, id)
		return r.node(ro, "n0").GetState() == widened
	})
	r.stop()
	r.serve()
	time.Sleep(20 * times.Settle)
	if got := r.watch.commits(); len(got) != 1 || r.state(id) != paused {
		t.Fatalf("commits %v in state %v, want that of n0 alone, paused", got, r.state(id))
	}
	if ro, _ := r.rollouts.Get(ctx, id); !strings.Contains(ro.GetMessage(), "paused by operator/anna") {
		t.Errorf("message %q", ro.GetMessage())
	}
	if err := r.rollouts.Resume(ctx, id); err != nil {
		t.Fatal(err)
	}
	r.want(r.end(id), succeeded, nil)
	if err := r.rollouts.Resume(ctx, id); !errs.Is(err, errs.Precondition) {
		t.Errorf("resume of an ended rollout: %v", err)
	}
}

func TestPausedRolloutCanBeCanceledAndSuperseded(t *testing.T) {
	r := serving(t, rollouttest.Line(2, 1))
	r.revise(1)
	pausedAt := func(revision uint64) string {
		release := r.hub.Hold("n0")
		defer release()
		before := len(r.watch.commits())
		id := r.start(rollout.StartRequest{Revision: revision})
		r.eventually("n0 at work", func() bool { return len(r.watch.commits()) > before })
		if err := r.rollouts.Pause(context.Background(), id, "operator/anna"); err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := pausedAt(1)
	if err := r.rollouts.Cancel(context.Background(), first, "operator/anna"); err != nil {
		t.Fatal(err)
	}
	r.want(r.end(first), canceled, nil)
	r.revise(2)
	second := pausedAt(2)
	third := r.start(rollout.StartRequest{Revision: 2})
	r.want(r.end(second), superseded, nil)
	r.want(r.end(third), succeeded, nil)
}

func TestSoakHalts(t *testing.T) {
	for name, c := range map[string]struct {
		act  func(*rig)
		want string
	}{
		"when a node degrades":    {func(r *rig) { r.hub.Degrade("n0") }, "n0 is degraded"},
		"when a node goes away":   {func(r *rig) { r.hub.Disconnect("n0") }, "n0 went away"},
		"when a node drifts":      {func(r *rig) { r.hub.Drift("n0") }, "n0 drifted"},
		"not when nothing is new": {func(*rig) {}, ""},
		"not for a short absence": {func(r *rig) { r.hub.Disconnect("n0"); r.hub.Connect("n0") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := serving(t, soaking(2, 150*time.Millisecond))
			r.revise(1)
			id := r.start(rollout.StartRequest{Revision: 1})
			r.eventually("a soak", func() bool {
				ro, _ := r.rollouts.Get(context.Background(), id)
				return strings.Contains(ro.GetMessage(), "soaks until")
			})
			c.act(r)
			ro := r.end(id)
			if c.want == "" {
				r.want(ro, succeeded, nil)
				return
			}
			r.want(ro, halted, map[string]v1.NodeRolloutState{"n0": widened, "relay": queued})
			if !strings.Contains(ro.GetReason(), c.want) {
				t.Errorf("reason %q, want %q", ro.GetReason(), c.want)
			}
			if slices.Contains(r.watch.commits(), "relay") {
				t.Error("the next wave began")
			}
		})
	}
}

func TestSoakGoesOnAfterARestart(t *testing.T) {
	r := serving(t, soaking(2, 200*time.Millisecond))
	r.revise(1)
	id := r.start(rollout.StartRequest{Revision: 1})
	r.eventually("a soak", func() bool {
		ro, _ := r.rollouts.Get(context.Background(), id)
		return strings.Contains(ro.GetMessage(), "soaks until")
	})
	r.stop()
	r.hub.Drift("n1") // while no server looks
	r.serve()
	ro := r.end(id)
	r.want(ro, halted, nil)
	if !strings.Contains(ro.GetReason(), "n1 drifted") {
		t.Errorf("reason %q", ro.GetReason())
	}
	if err := r.rollouts.Retry(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	r.want(r.end(id), succeeded, nil)
}

func TestSoakGoesOnWhilePausedOverARestart(t *testing.T) {
	r := serving(t, soaking(2, 100*time.Millisecond))
	r.revise(1)
	id := r.start(rollout.StartRequest{Revision: 1})
	message := func() string {
		ro, _ := r.rollouts.Get(context.Background(), id)
		return ro.GetMessage()
	}
	r.eventually("a soak", func() bool { return strings.Contains(message(), "soaks until") })
	if err := r.rollouts.Pause(context.Background(), id, "operator/anna"); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.serve()
	r.eventually("the end of the soak", func() bool { return message() == "paused by operator/anna" })
	if slices.Contains(r.watch.commits(), "relay") {
		t.Error("the next wave began")
	}
	if err := r.rollouts.Resume(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	r.want(r.end(id), succeeded, nil)
}

func TestBudgetsLimitRolesOnTopOfTheWave(t *testing.T) {
	t.Parallel()
	plan := rollouttest.Line(6, 4)
	for i := range 3 {
		plan.Members[i].Role = "prod"
	}
	plan.Waves[0].Budgets = map[string]int{"prod": 1}
	r := newRig(t, plan)
	r.hub.Slow = 2 * time.Millisecond
	r.watch.check = func(at map[string]v1.Pass, _ string) string {
		n := 0
		for _, name := range []string{"n0", "n1", "n2"} {
			if _, ok := at[name]; ok {
				n++
			}
		}
		if n > 1 {
			return "two nodes of prod in commit at once"
		}
		return ""
	}
	r.serve()
	t.Cleanup(r.stop)
	r.revise(1)
	r.want(r.end(r.start(rollout.StartRequest{Revision: 1})), succeeded, nil)
	if len(r.watch.faults) > 0 || r.watch.most < 2 {
		t.Errorf("faults %v, %d commits at once, want none and more than one", r.watch.faults, r.watch.most)
	}
}

func TestHaltAfterLetsSomeNodesFail(t *testing.T) {
	plan := rollouttest.Line(4, 1)
	plan.HaltAfter = 2
	r := serving(t, plan)
	r.revise(1)
	r.hub.Script("n0", rollouttest.Fail)
	ro := r.end(r.start(rollout.StartRequest{Revision: 1}))
	r.want(ro, incomplete, map[string]v1.NodeRolloutState{"n0": failed, "n1": done, "relay": done})
	r.revise(2)
	r.hub.Script("n0", rollouttest.Fail)
	r.hub.Script("n1", rollouttest.Fail)
	r.want(r.end(r.start(rollout.StartRequest{Revision: 2})), halted, map[string]v1.NodeRolloutState{"n0": failed, "n1": failed, "n2": queued})
}

func TestRetry(t *testing.T) {
	ctx := context.Background()
	r := serving(t, rollouttest.Line(3, 1))
	r.revise(1)
	r.hub.Script("n1", rollouttest.Fail)
	id := r.start(rollout.StartRequest{Revision: 1})
	r.want(r.end(id), halted, nil)
	err := r.rollouts.Retry(ctx, id)
	if !errs.Is(err, errs.Precondition) || errs.HintOf(err) != "mend the cause, then: infractl node clear n1" {
		t.Fatalf("retry of known-bad content: %v, hint %q", err, errs.HintOf(err))
	}
	if _, err := r.fleet.UpdateNode(ctx, "n1", clearKnownBad); err != nil {
		t.Fatal(err)
	}
	if err := r.rollouts.Retry(ctx, id); err != nil {
		t.Fatal(err)
	}
	r.want(r.end(id), succeeded, map[string]v1.NodeRolloutState{"n0": done, "n1": done, "n2": done})
	count := 0
	for _, n := range r.watch.commits() {
		if n == "n0" {
			count++
		}
	}
	if count != 2 {
		t.Errorf("n0 committed %d times, want once per pass", count)
	}
	if err := r.rollouts.Retry(ctx, id); !errs.Is(err, errs.Precondition) {
		t.Errorf("retry of a rollout that succeeded: %v", err)
	}
}

func TestRetryTakesDegradedNodesAgain(t *testing.T) {
	r := serving(t, rollouttest.Line(2, 1))
	r.revise(1)
	r.hub.Script("n0", rollouttest.Degrade)
	id := r.start(rollout.StartRequest{Revision: 1})
	r.want(r.end(id), incomplete, nil)
	if err := r.rollouts.Retry(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	r.want(r.end(id), succeeded, nil)
}

func TestRetryOfAReplacedRolloutNamesTheNewOne(t *testing.T) {
	r := serving(t, rollouttest.Line(1, 1))
	r.revise(1)
	r.hub.Script("n0", rollouttest.Fail)
	old := r.start(rollout.StartRequest{Revision: 1})
	r.want(r.end(old), halted, nil)
	r.revise(2)
	id := r.start(rollout.StartRequest{Revision: 2})
	r.end(id)
	err := r.rollouts.Retry(context.Background(), old)
	if !errs.Is(err, errs.Precondition) || !strings.Contains(err.Error(), id) {
		t.Errorf("got %v, want it to name %s", err, id)
	}
}
