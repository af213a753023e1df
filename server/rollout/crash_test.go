package rollout_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/rollout/rollouttest"
)

// crashing is a rig whose server is started again when its store died.
type crashing struct {
	*rig
	store *rollouttest.Brittle
}

func (c *crashing) revive() {
	if c.store.Died() {
		c.stop()
		c.store.Mend()
		c.serve()
	}
}

// do makes an operator's call until it is done; a call whose answer was lost may have been.
func (c *crashing) do(what string, already func() bool, call func() error) {
	c.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		c.revive()
		err := call()
		if err == nil || already() {
			return
		}
		if !errs.Is(err, errs.Unavailable) || time.Now().After(deadline) {
			c.t.Fatalf("%s: %v", what, err)
		}
	}
}

func (c *crashing) until(what string, ok func() bool) {
	c.t.Helper()
	c.eventually(what, func() bool { c.revive(); return ok() })
}

// TestCrashAtEveryWrite goes through a failure, a retry, a pause, a soak and the end, with a server that dies at one write of
// it, for every write: what is wanted happens, and nothing happens twice or while the rollout is paused.
func TestCrashAtEveryWrite(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		for at := 0; ; at++ {
			var used bool
			t.Run(fmt.Sprintf("write %d, written %t", at, late), func(t *testing.T) { used = crashAt(t, at, late) })
			if !used || t.Failed() {
				break
			}
		}
	}
}

func crashAt(t *testing.T, at int, late bool) (used bool) {
	ctx := context.Background()
	plan := soaking(1, 15*time.Millisecond)
	memory := rollouttest.NewStore()
	r := newRigOn(t, plan, memory)
	c := &crashing{rig: r, store: rollouttest.NewBrittle(memory, at, late)}
	c.rig.store = c.store // the fleet, which agents write to, keeps the store that does not die
	r.serve()
	defer func() { r.stop() }()
	r.revise(1)
	r.hub.Script("n0", rollouttest.Fail)
	var id string
	c.do("start", func() bool {
		ro, err := r.rollouts.Get(ctx, "")
		id = ro.GetId()
		return err == nil
	}, func() error {
		ro, err := r.rollouts.Start(ctx, rollout.StartRequest{Revision: 1, Operator: "operator/anna"})
		id = ro.GetId()
		return err
	})
	newest := func() v1.RolloutState { return r.state(id) }
	c.until("halt", func() bool { return newest() == halted })
	if _, err := r.fleet.UpdateNode(ctx, "n0", clearKnownBad); err != nil {
		t.Fatal(err)
	}
	release := r.hub.Hold("n0")
	before := len(r.watch.commits())
	c.do("retry", func() bool { return newest() == v1.RolloutState_ROLLOUT_STATE_RUNNING }, func() error { return r.rollouts.Retry(ctx, id) })
	c.until("n0 at work", func() bool { return len(r.watch.commits()) > before })
	c.do("pause", func() bool { return newest() == paused }, func() error { return r.rollouts.Pause(ctx, id, "operator/anna") })
	release()
	c.until("n0 widened", func() bool {
		ro, err := r.rollouts.Get(ctx, id)
		return err == nil && r.node(ro, "n0").GetState() == widened
	})
	if got := len(r.watch.commits()); got != before+1 {
		t.Errorf("%d commits while paused, want that of n0 alone", got-before)
	}
	c.do("resume", func() bool { return newest() == v1.RolloutState_ROLLOUT_STATE_RUNNING }, func() error { return r.rollouts.Resume(ctx, id) })
	c.until("end", func() bool {
		s := newest()
		return s != 0 && rollout.Ended(s)
	})
	var ro *v1.Rollout
	c.until("the rollout as it ended", func() (ok bool) {
		var err error
		ro, err = r.rollouts.Get(ctx, id)
		return err == nil
	})
	r.want(ro, succeeded, map[string]v1.NodeRolloutState{"n0": done, "relay": done})
	counts := map[string]int{}
	for _, n := range r.watch.commits() {
		counts[n]++
	}
	if diff := cmp.Diff(map[string]int{"n0": 3, "relay": 2}, counts); diff != "" {
		t.Errorf("commits: want one that failed and one for each pass: %s", diff)
	}
	return c.store.Used()
}
