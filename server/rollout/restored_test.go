package rollout_test

import (
	"context"
	"strings"
	"testing"
	"time"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/rollout/rollouttest"
)

// A node that is paused after a restore, or was not heard since, is passed over: by what a person starts, and by what the
// server starts itself. Once it is resumed it is taken up.
func TestAHeldNodeIsPassedOverUntilItIsResumed(t *testing.T) {
	for name, hold := range map[string]struct {
		set  func(*fleet.Node)
		says string
	}{
		"paused":  {func(n *fleet.Node) { n.Paused = "it knows more" }, "infractl node resume n1"},
		"awaited": {func(n *fleet.Node) { n.Awaited = time.Now() }, "was not heard since the server was restored"},
	} {
		t.Run(name, func(t *testing.T) {
			r := serving(t, rollouttest.Line(3, 1))
			r.revise(1)
			r.end(r.start(rollout.StartRequest{Revision: 1}))
			update := func(change func(*fleet.Node)) {
				t.Helper()
				if _, err := r.fleet.UpdateNode(context.Background(), "n1", func(n *fleet.Node) error { change(n); return nil }); err != nil {
					t.Fatal(err)
				}
				r.hub.Connect("n1") // as an event about the node does
			}
			update(hold.set)
			applies := r.hub.Count("n1", "apply")
			r.revise(2)
			ro := r.end(r.start(rollout.StartRequest{Revision: 2}))
			r.want(ro, incomplete, map[string]v1.NodeRolloutState{"n0": done, "n1": waiting, "n2": done, "relay": done})
			if got := r.node(ro, "n1").GetMessage(); !strings.Contains(got, hold.says) {
				t.Errorf("it says %q", got)
			}
			r.hub.Connect("n2") // the server looks who is behind
			time.Sleep(10 * times.Settle)
			if got := r.hub.Count("n1", "apply"); got != applies {
				t.Errorf("%d tasks were sent to it", got-applies)
			}
			update(func(n *fleet.Node) { n.Paused, n.Awaited = "", time.Time{} })
			r.want(r.after(ro.GetId()), succeeded, map[string]v1.NodeRolloutState{"n1": done})
		})
	}
}

// What was at work when the backup was made is halted, and nothing begins by itself behind it.
func TestARestoredServerDoesNotGoOnWithAnOldRollout(t *testing.T) {
	r := serving(t, rollouttest.Line(3, 1))
	release := r.hub.Hold("n1")
	r.revise(1)
	id := r.start(rollout.StartRequest{Revision: 1})
	r.eventually("commit on n1", func() bool { return r.hub.Count("n1", "apply") > 0 })
	r.stop()
	halted, err := rollout.HaltForRestore(context.Background(), r.store, time.Now())
	if err != nil || len(halted) != 1 || halted[0] != id {
		t.Fatalf("halted %v, %v", halted, err)
	}
	release()
	before := r.hub.Count("n2", "apply")
	r.serve()
	r.hub.Connect("n2")
	time.Sleep(10 * times.Settle)
	ro, err := r.rollouts.Get(context.Background(), "")
	if err != nil || ro.GetId() != id || ro.GetState() != v1.RolloutState_ROLLOUT_STATE_HALTED || !strings.Contains(ro.GetReason(), "restored from a backup") {
		t.Errorf("newest rollout: %s%v", describe(ro), err)
	}
	if got := r.hub.Count("n2", "apply"); got != before {
		t.Error("it went on")
	}
	r.want(r.end(r.start(rollout.StartRequest{Revision: 1})), succeeded, nil)
}
