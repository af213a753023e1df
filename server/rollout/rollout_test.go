package rollout_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/rollout/rollouttest"
	"github.com/infractl/infractl/server/store/sqlite"
)

const (
	succeeded  = v1.RolloutState_ROLLOUT_STATE_SUCCEEDED
	halted     = v1.RolloutState_ROLLOUT_STATE_HALTED
	incomplete = v1.RolloutState_ROLLOUT_STATE_INCOMPLETE
	canceled   = v1.RolloutState_ROLLOUT_STATE_CANCELED
	superseded = v1.RolloutState_ROLLOUT_STATE_SUPERSEDED

	queued   = v1.NodeRolloutState_NODE_ROLLOUT_STATE_QUEUED
	waiting  = v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING
	done     = v1.NodeRolloutState_NODE_ROLLOUT_STATE_DONE
	failed   = v1.NodeRolloutState_NODE_ROLLOUT_STATE_FAILED
	degraded = v1.NodeRolloutState_NODE_ROLLOUT_STATE_DEGRADED
)

func TestFirstApplyKeepsBothPassesEverywhere(t *testing.T) {
	r := serving(t, rollouttest.Line(3, 2))
	r.revise(1)
	ro := r.end(r.start(rollout.StartRequest{Revision: 1, Operator: "operator/anna"}))
	r.want(ro, succeeded, map[string]v1.NodeRolloutState{"n0": done, "n1": done, "n2": done, "relay": done})
	for _, name := range []string{"n0", "n1", "n2", "relay"} {
		s := r.hub.State(name)
		if s.GetWidenedDigest() == "" || s.GetNarrowedDigest() != s.GetWidenedDigest() {
			t.Errorf("%s has kept %v", name, s)
		}
	}
	if got := r.hub.Count("", "apply"); got != 8 {
		t.Errorf("%d apply tasks, want two for each of four nodes", got)
	}
	if r.watch.most > 2 {
		t.Errorf("%d commits at once, want 2 at most", r.watch.most)
	}
	if got := r.watch.commits(); slices.Index(got, "relay") < 3 {
		t.Errorf("the relay changed before its wave: %v", got)
	}
}

func TestNoOpApplyCostsOneLookPerNode(t *testing.T) {
	r := serving(t, rollouttest.Line(5, 2))
	r.revise(1)
	r.end(r.start(rollout.StartRequest{Revision: 1}))
	applies := r.hub.Count("", "apply")
	ro := r.end(r.start(rollout.StartRequest{Revision: 1}))
	r.want(ro, succeeded, nil)
	if got := r.hub.Count("", "apply") - applies; got != 0 {
		t.Errorf("%d apply tasks, want none", got)
	}
	if got := r.hub.Count("", "plan"); got != 6 {
		t.Errorf("%d looks, want one for each of six nodes", got)
	}
}

func TestDriftIsMendedOnlyWhereItIs(t *testing.T) {
	r := serving(t, rollouttest.Line(3, 2))
	r.revise(1)
	r.end(r.start(rollout.StartRequest{Revision: 1}))
	before := r.hub.Count("", "apply")
	r.hub.Drift("n1")
	r.want(r.end(r.start(rollout.StartRequest{Revision: 1})), succeeded, nil)
	if got, all := r.hub.Count("n1", "apply"), r.hub.Count("", "apply")-before; all != 2 || got != 4 {
		t.Errorf("%d apply tasks for the drifted node and %d in all, want 4 and 2 more", got, all)
	}
}

func TestFailureHaltsAndIsKnownBad(t *testing.T) {
	for name, act := range map[string]rollouttest.Act{
		"own verify fails":                     rollouttest.Fail,
		"a witness finds the way closed":       rollouttest.CloseWay,
		"no new connection reaches the server": rollouttest.CutServer,
	} {
		t.Run(name, func(t *testing.T) {
			r := serving(t, rollouttest.Line(3, 1))
			r.revise(1)
			r.hub.Script("n1", act)
			ro := r.end(r.start(rollout.StartRequest{Revision: 1}))
			r.want(ro, halted, map[string]v1.NodeRolloutState{"n1": failed, "n2": queued, "relay": queued})
			n, err := r.fleet.Node(context.Background(), "n1")
			if err != nil || len(n.KnownBad) != 1 || n.KnownBad[0].Phase != "widening" {
				t.Fatalf("known-bad of n1: %+v, %v", n.KnownBad, err)
			}
			if r.hub.Count("n2", "apply")+r.hub.Count("relay", "apply") != 0 {
				t.Error("nodes after the failure were touched")
			}

			tasks := r.hub.Count("n1", "apply")
			ro = r.end(r.start(rollout.StartRequest{Revision: 1}))
			r.want(ro, halted, map[string]v1.NodeRolloutState{"n1": failed})
			if r.hub.Count("n1", "apply") != tasks {
				t.Error("known-bad content was sent again")
			}
			if !strings.Contains(ro.GetReason(), "failed on n1 before") {
				t.Errorf("reason %q", ro.GetReason())
			}

			if _, err := r.fleet.UpdateNode(context.Background(), "n1", clearKnownBad); err != nil {
				t.Fatal(err)
			}
			r.want(r.end(r.start(rollout.StartRequest{Revision: 1})), succeeded, nil)
		})
	}
}

func TestHaltedRevisionIsNotTakenUpByItself(t *testing.T) {
	r := serving(t, rollouttest.Line(2, 1))
	r.revise(1)
	r.hub.Script("n0", rollouttest.Fail)
	id := r.start(rollout.StartRequest{Revision: 1})
	r.want(r.end(id), halted, nil)
	r.hub.Disconnect("n1")
	r.hub.Connect("n1")
	time.Sleep(20 * times.Settle)
	if ro, _ := r.rollouts.Get(context.Background(), ""); ro.GetId() != id {
		t.Errorf("rollout %s began after the halt", ro.GetId())
	}
}

func TestUnconfirmedIsTriedAgainAndNotKnownBad(t *testing.T) {
	for name, act := range map[string]rollouttest.Act{
		"the agent died":                           rollouttest.Die,
		"the disk is full":                         rollouttest.FillDisk,
		"another program holds dpkg's lock":        rollouttest.LockApt,
		"apt does not end in time":                 rollouttest.HangApt,
		"the way is still closed after the revert": rollouttest.StayClosed,
		"the agent died before its services":       rollouttest.LoseServices,
	} {
		t.Run(name, func(t *testing.T) {
			r := serving(t, rollouttest.Line(2, 1))
			r.revise(1)
			r.hub.Script("n0", act)
			id := r.start(rollout.StartRequest{Revision: 1})
			if act == rollouttest.StayClosed {
				r.eventually("unconfirmed node", func() bool {
					ro, _ := r.rollouts.Get(context.Background(), id)
					return r.node(ro, "n0").GetState() == v1.NodeRolloutState_NODE_ROLLOUT_STATE_UNCONFIRMED
				})
				r.hub.Open("n0")
			}
			r.want(r.end(id), succeeded, nil)
			if n, _ := r.fleet.Node(context.Background(), "n0"); len(n.KnownBad) != 0 {
				t.Errorf("known-bad: %+v", n.KnownBad)
			}
		})
	}
}

func TestDegradedDoesNotHaltAndIsNarrowed(t *testing.T) {
	r := serving(t, rollouttest.Line(2, 1))
	r.revise(1)
	r.hub.Script("n0", rollouttest.Degrade)
	ro := r.end(r.start(rollout.StartRequest{Revision: 1}))
	r.want(ro, incomplete, map[string]v1.NodeRolloutState{"n0": degraded, "n1": done, "relay": done})
	if r.hub.State("n0").GetNarrowedDigest() == "" {
		t.Error("the degraded node was not narrowed")
	}
}

func TestRefusedTaskHaltsWithoutKnownBad(t *testing.T) {
	r := serving(t, rollouttest.Line(2, 1))
	r.revise(1)
	r.hub.Script("n0", rollouttest.RefuseTask)
	r.want(r.end(r.start(rollout.StartRequest{Revision: 1})), halted, map[string]v1.NodeRolloutState{"n0": failed, "n1": queued})
	if n, _ := r.fleet.Node(context.Background(), "n0"); len(n.KnownBad) != 0 {
		t.Errorf("known-bad: %+v", n.KnownBad)
	}
}

func TestOfflineNodeIsALaggardAndIsTakenUpLater(t *testing.T) {
	r := serving(t, rollouttest.Line(3, 1))
	r.revise(1)
	r.end(r.start(rollout.StartRequest{Revision: 1}))
	r.hub.Disconnect("n1")
	r.revise(2)
	ro := r.end(r.start(rollout.StartRequest{Revision: 2}))
	r.want(ro, incomplete, map[string]v1.NodeRolloutState{"n0": done, "n1": waiting, "n2": done, "relay": done})
	if got := r.node(ro, "n0").GetWidened(); len(got) == 0 {
		t.Error("n0 was narrowed although n1 lags")
	}
	if r.hub.State("n0").GetNarrowedDigest() == r.hub.State("n0").GetWidenedDigest() {
		t.Error("n0 dropped what n1 needs")
	}
	r.hub.Connect("n1")
	late := r.after(ro.GetId())
	r.want(late, succeeded, map[string]v1.NodeRolloutState{"n1": done})
	r.eventually("narrow fleet", func() bool {
		for _, name := range []string{"n0", "n1", "n2", "relay"} {
			if s := r.hub.State(name); s.GetNarrowedDigest() != s.GetWidenedDigest() || len(s.GetWidened()) > 0 {
				return false
			}
		}
		return true
	})
	if late.GetOperator() != "system" {
		t.Errorf("late rollout by %q", late.GetOperator())
	}
}

func TestNodeThatConnectsWhileTheRolloutRunsGetsALateWave(t *testing.T) {
	r := serving(t, rollouttest.Line(2, 1))
	r.revise(1)
	r.hub.Disconnect("n0")
	release := r.hub.Hold("relay")
	id := r.start(rollout.StartRequest{Revision: 1})
	r.eventually("relay at work", func() bool { return slices.Contains(r.watch.commits(), "relay") })
	r.hub.Connect("n0")
	release()
	ro := r.end(id)
	r.want(ro, succeeded, map[string]v1.NodeRolloutState{"n0": done, "n1": done, "relay": done})
	if n := r.node(ro, "n0"); n.GetWave() <= 2 {
		t.Errorf("n0 is in wave %d, want one of its own", n.GetWave())
	}
}

func TestNeverEnrolledNodeIsNoLaggard(t *testing.T) {
	t.Parallel()
	plan := rollouttest.Line(2, 1)
	r := newRig(t, plan)
	if err := r.fleet.NodeTable.Delete(context.Background(), "n1", -1); err != nil {
		t.Fatal(err)
	}
	r.hub.Disconnect("n1")
	r.serve()
	t.Cleanup(r.stop)
	r.revise(1)
	ro := r.end(r.start(rollout.StartRequest{Revision: 1}))
	r.want(ro, incomplete, map[string]v1.NodeRolloutState{"n0": done, "n1": waiting, "relay": done})
	if s := r.hub.State("n0"); s.GetNarrowedDigest() == "" {
		t.Error("n0 was not narrowed because of a machine that may never come")
	}
	r.hub.Enrol("n1", rollouttest.Address(1).String())
	r.hub.Connect("n1")
	r.want(r.after(ro.GetId()), succeeded, map[string]v1.NodeRolloutState{"n1": done})
}

func TestCommitWaitsForItsWitness(t *testing.T) {
	r := serving(t, rollouttest.Line(2, 1))
	r.revise(1)
	r.hub.Disconnect("relay")
	ro := r.end(r.start(rollout.StartRequest{Revision: 1}))
	r.want(ro, incomplete, map[string]v1.NodeRolloutState{"n0": waiting, "n1": waiting, "relay": waiting})
	if msg := r.node(ro, "n0").GetMessage(); !strings.Contains(msg, "relay") {
		t.Errorf("message %q does not name the witness", msg)
	}
	if got := r.watch.commits(); len(got) != 0 {
		t.Errorf("commits without witnesses: %v", got)
	}
	r.hub.Connect("relay")
	r.want(r.after(ro.GetId()), succeeded, nil)
}

func TestSupersededAtTheNextSafePoint(t *testing.T) {
	r := serving(t, rollouttest.Line(3, 1))
	r.revise(1)
	release := r.hub.Hold("n0")
	first := r.start(rollout.StartRequest{Revision: 1})
	r.eventually("n0 at work", func() bool { return len(r.watch.commits()) == 1 })
	r.revise(2)
	second := r.start(rollout.StartRequest{Revision: 2})
	release()
	r.want(r.end(first), superseded, map[string]v1.NodeRolloutState{"n1": queued})
	r.want(r.end(second), succeeded, nil)
	if got := r.hub.State("n0").GetSiteRevision(); got != 2 {
		t.Errorf("n0 is at revision %d", got)
	}
	if n, _ := r.fleet.Node(context.Background(), "n0"); len(n.KnownBad) != 0 {
		t.Errorf("a superseded commit is known-bad: %+v", n.KnownBad)
	}
}

func TestCancelStopsBeforeTheNextNode(t *testing.T) {
	r := serving(t, rollouttest.Line(3, 1))
	r.revise(1)
	release := r.hub.Hold("n0")
	id := r.start(rollout.StartRequest{Revision: 1})
	r.eventually("n0 at work", func() bool { return len(r.watch.commits()) == 1 })
	if err := r.rollouts.Cancel(context.Background(), id, "operator/anna"); err != nil {
		t.Fatal(err)
	}
	release()
	ro := r.end(id)
	r.want(ro, canceled, map[string]v1.NodeRolloutState{"n1": queued, "n0": v1.NodeRolloutState_NODE_ROLLOUT_STATE_WIDENED})
	if err := r.rollouts.Cancel(context.Background(), id, "operator/anna"); !errs.Is(err, errs.Precondition) {
		t.Errorf("cancel of an ended rollout: %v", err)
	}
}

func TestLimitedRolloutTouchesNobodyElse(t *testing.T) {
	r := serving(t, rollouttest.Line(3, 1))
	r.revise(1)
	r.end(r.start(rollout.StartRequest{Revision: 1}))
	r.revise(2)
	id := r.start(rollout.StartRequest{Revision: 2, Nodes: []string{"n1"}})
	ro := r.end(id)
	r.want(ro, succeeded, map[string]v1.NodeRolloutState{"n1": done})
	time.Sleep(20 * times.Settle)
	if r.hub.State("n0").GetSiteRevision() != 1 {
		t.Error("n0 was changed")
	}
	if _, err := r.rollouts.Start(context.Background(), rollout.StartRequest{Revision: 2, Nodes: []string{"nobody"}}); !errs.Is(err, errs.Invalid) {
		t.Errorf("unknown node: %v", err)
	}
}

func TestRestartGoesOnInTheMiddle(t *testing.T) {
	r := serving(t, rollouttest.Line(3, 1))
	r.revise(1)
	release := r.hub.Hold("n1")
	id := r.start(rollout.StartRequest{Revision: 1})
	r.eventually("n1 at work", func() bool { return slices.Contains(r.watch.commits(), "n1") })
	r.stop()
	r.serve()
	release()
	ro := r.end(id)
	r.want(ro, succeeded, map[string]v1.NodeRolloutState{"n0": done, "n1": done, "n2": done, "relay": done})
	count := 0
	for _, n := range r.watch.commits() {
		if n == "n1" {
			count++
		}
	}
	if count != 2 {
		t.Errorf("n1 committed %d times, want once per pass", count)
	}
}

func TestLostContactFreesTheOthers(t *testing.T) {
	r := serving(t, rollouttest.Line(3, 1))
	r.revise(1)
	r.hub.Script("n0", rollouttest.Vanish)
	ro := r.end(r.start(rollout.StartRequest{Revision: 1}))
	r.want(ro, incomplete, map[string]v1.NodeRolloutState{"n0": waiting, "n1": done, "n2": done, "relay": done})
	r.hub.Connect("n0")
	r.hub.Finish("n0")
	r.want(r.after(ro.GetId()), succeeded, nil)
}

func TestOnTheEmbeddedStore(t *testing.T) {
	t.Parallel()
	s, err := sqlite.Open(context.Background(), sqlite.Config{Dir: t.TempDir(), Clock: clock.System{}, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := newRigOn(t, rollouttest.Line(5, 2), s)
	r.serve()
	defer func() { r.stop() }()
	r.revise(1)
	started := time.Now()
	r.want(r.end(r.start(rollout.StartRequest{Revision: 1})), succeeded, nil)
	t.Logf("first apply of six nodes: %s", time.Since(started))
	r.stop()
	r.serve()
	started = time.Now()
	r.want(r.end(r.start(rollout.StartRequest{Revision: 1})), succeeded, nil)
	t.Logf("apply that changes nothing: %s", time.Since(started))
	list, err := r.rollouts.List(context.Background(), 10)
	if err != nil || len(list) != 2 || list[0].GetId() < list[1].GetId() {
		t.Errorf("rollouts %v, %v, want two, newest first", list, err)
	}
}

func TestWithoutARolloutTheHintIsACommandThatWorks(t *testing.T) {
	_, err := serving(t, rollouttest.Line(1, 1)).rollouts.Get(context.Background(), "")
	if !errs.Is(err, errs.NotFound) || errs.HintOf(err) != "infractl apply -f site.yaml" {
		t.Errorf("got %v, hint %q", err, errs.HintOf(err))
	}
}
