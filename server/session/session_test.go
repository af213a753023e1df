package session

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
)

func TestJudgeCounter(t *testing.T) {
	n := &fleet.Node{KnownCounter: 3, JoinCounter: 4, JumpEpoch: 0}
	for name, c := range map[string]struct {
		counter  uint64
		restores int
		want     string
	}{
		"older than seen":         {2, 0, "aside"},
		"as seen":                 {3, 0, "in"},
		"as issued":               {4, 0, "in"},
		"newer":                   {5, 0, "refused"},
		"newer after a restore":   {5, 1, "in with alarm"},
		"older, despite restores": {2, 1, "aside"},
	} {
		t.Run(name, func(t *testing.T) {
			v := judgeCounter(n, c.counter, c.restores)
			got := "in"
			switch {
			case v.setAside != "":
				got = "aside"
			case v.refuse != "":
				got = "refused"
			case v.alarm != "":
				got = "in with alarm"
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestIncumbentAlwaysGetsIn plays a node that renews, loses answers, reboots and reconnects: none of it may look like a clone.
func TestIncumbentAlwaysGetsIn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := &fleet.Node{JoinCounter: 1}
		n.Fingerprint.M = &v1.HostFingerprint{MachineId: "m", MacAddresses: []string{"a", "b"}}
		agent, boots := uint64(1), 0
		t.Repeat(map[string]func(*rapid.T){
			"connect": func(t *rapid.T) {
				h := &v1.Hello{JoinCounter: agent, BootId: string(rune('A' + boots)), Fingerprint: n.Fingerprint.M}
				v := judgeHello(n, h, 0)
				if v != (verdict{}) {
					t.Fatalf("counter %d of %d/%d, boot %d: %+v", agent, n.KnownCounter, n.JoinCounter, boots, v)
				}
				apply(n, h, v, 0)
				if rapid.Bool().Draw(t, "welcome arrives") {
					agent = n.JoinCounter
				}
			},
			"renew": func(t *rapid.T) {
				n.JoinCounter = max(n.KnownCounter, 1) + 1
				if rapid.Bool().Draw(t, "answer arrives") {
					agent = n.JoinCounter
				}
			},
			"recover": func(t *rapid.T) {
				req := &v1.RecoverRequest{JoinCounter: agent, Fingerprint: n.Fingerprint.M}
				n.Recoveries = 0
				v := judgeRecovery(n, req, fleet.ServerState{})
				if v != (verdict{}) {
					t.Fatalf("%+v", v)
				}
				grant(n, req, fleet.ServerState{}, v)
				if rapid.Bool().Draw(t, "answer arrives") {
					agent = n.JoinCounter
				}
			},
			"reboot": func(*rapid.T) { boots++ },
		})
	})
}

func TestEventsOfOneNodeAreMerged(t *testing.T) {
	var w watchers
	ctx, cancel := context.WithCancel(t.Context())
	events := w.watch(ctx)
	w.publish(NodeEvent{Node: "other", Connected: true})
	if got := <-events; got.Node != "other" {
		t.Errorf("event = %+v", got)
	}
	// Nobody receives: the first event may be on its way already, the rest become one.
	w.publish(NodeEvent{Node: "first", Connected: true})
	time.Sleep(20 * time.Millisecond)
	w.publish(NodeEvent{Node: "web", Connected: true})
	w.publish(NodeEvent{Node: "web", Reported: true})
	w.publish(NodeEvent{Node: "web", Disconnected: true})
	<-events
	want := NodeEvent{Node: "web", Connected: true, Disconnected: true, Reported: true}
	if diff := cmp.Diff(want, <-events); diff != "" {
		t.Error(diff)
	}
	cancel()
	if _, open := <-events; open {
		t.Error("the channel is not closed")
	}
}

func TestNonces(t *testing.T) {
	clk := clock.NewFake(time.Now())
	n := newNonces(clk)
	fresh := n.make("web")
	if n.use("dns", fresh) {
		t.Error("good for another node")
	}
	if !n.use("web", fresh) {
		t.Error("not good for its node")
	}
	if n.use("web", fresh) {
		t.Error("good twice")
	}
	late := n.make("web")
	clk.Advance(nonceLife + time.Second)
	if n.use("web", late) {
		t.Error("good for ever")
	}
	if newNonces(clk).use("web", n.make("web")) {
		t.Error("another server's nonce is good")
	}
}

func TestLimiterForgetsQuietAddresses(t *testing.T) {
	l := newLimiter(EnrolmentLimits{PerAddress: 1, PerAddressBurst: 2, Total: 1000, TotalBurst: 1000})
	for range 2 {
		if err := l.allow("a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.allow("a"); !errs.Is(err, errs.Exhausted) {
		t.Errorf("third call: %v", err)
	}
	if err := l.allow("b"); err != nil {
		t.Errorf("another address: %v", err)
	}
	l.forget(time.Now().Add(time.Minute))
	if len(l.per) != 0 {
		t.Errorf("%d addresses left", len(l.per))
	}
}

func TestControlGoesBeforeTasks(t *testing.T) {
	c := newConn(LiveSession{})
	c.sendTask(&v1.Task{Id: "t1"})
	c.sendTask(&v1.Task{Id: "t2"})
	c.sendControl(&v1.ConnectResponse{Message: &v1.ConnectResponse_FullReport{}})
	var got []string
	for m := c.next(); m != nil; m = c.next() {
		got = append(got, m.GetTask().GetId())
	}
	if diff := cmp.Diff([]string{"", "t1", "t2"}, got); diff != "" {
		t.Error(diff)
	}
}
