package rollout_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/rollout/rollouttest"
	"github.com/infractl/infractl/server/store"
)

// times are short, so that tests are.
var times = rollout.Times{
	Survey: time.Second, Patience: 150 * time.Millisecond, ConfirmWait: 100 * time.Millisecond, ProbeRetry: 5 * time.Millisecond,
	OperatorRetry: 20 * time.Millisecond, ProbeTimeout: 100 * time.Millisecond, BackoffMin: 5 * time.Millisecond,
	BackoffMax: 40 * time.Millisecond, Grace: 100 * time.Millisecond, TaskStart: time.Second, TaskLife: 20 * time.Second,
	Coalesce: time.Millisecond, Settle: 10 * time.Millisecond, LateRetry: time.Hour, Lease: 300 * time.Millisecond, SoakLook: 2 * time.Millisecond,
}

type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// rig is a fleet, and a server that can be restarted.
type rig struct {
	t         tester
	plan      rollouttest.Plan
	store     store.Store
	fleet     *fleet.Fleet
	revisions *rollouttest.Revisions
	hub       *rollouttest.Hub
	watch     *watchman
	times     rollout.Times
	log       hclog.Logger

	rollouts *rollout.Rollouts
	stop     func()
}

func newRig(t tester, plan rollouttest.Plan) *rig { return newRigOn(t, plan, rollouttest.NewStore()) }

func newRigOn(t tester, plan rollouttest.Plan, s store.Store) *rig {
	r := &rig{t: t, plan: plan, store: s, fleet: fleet.New(s), revisions: rollouttest.NewRevisions(), times: times, log: hclog.NewNullLogger()}
	r.watch = newWatchman(plan)
	r.hub = rollouttest.NewHub(r.fleet, r.watch)
	for i, m := range plan.Members {
		r.hub.Enrol(m.Name, rollouttest.Address(i).String())
		r.hub.Connect(m.Name)
	}
	return r
}

// serve starts a server on the rig's store.
func (r *rig) serve() {
	r.rollouts = rollout.New(rollout.Config{
		Store: r.store, Fleet: r.fleet, Hub: r.hub, Revisions: r.revisions, Clock: clock.System{}, Log: r.log, Times: r.times,
	})
	r.hub.Serve(r.rollouts)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	rollouts := r.rollouts
	go func() {
		defer close(done)
		_ = rollouts.Run(ctx)
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
}

// revise makes a new revision in which all nodes have new content.
func (r *rig) revise(number uint64) {
	for _, m := range r.plan.Members {
		r.plan.Content[m.Name] = fmt.Sprintf("rev %d", number)
	}
	r.revisions.Add(r.plan.View(number, 1))
}

func (r *rig) start(req rollout.StartRequest) string {
	r.t.Helper()
	ro, err := r.rollouts.Start(context.Background(), req)
	if err != nil {
		r.t.Fatalf("start: %v", err)
	}
	return ro.GetId()
}

// end waits until a rollout has ended.
func (r *rig) end(id string) *v1.Rollout {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var last *v1.Rollout
	err := r.rollouts.Watch(ctx, rollout.WatchRequest{ID: id}, func(m *v1.WatchRolloutResponse) error {
		last = m.GetRollout()
		return nil
	})
	if err != nil {
		r.t.Fatalf("rollout %s did not end: %v\n%s", id, err, describe(last))
	}
	return last
}

// newest waits until a rollout after id exists, and returns it when it has ended.
func (r *rig) after(id string) *v1.Rollout {
	r.t.Helper()
	r.eventually("a rollout after "+id, func() bool {
		ro, err := r.rollouts.Get(context.Background(), "")
		return err == nil && ro.GetId() > id
	})
	ro, err := r.rollouts.Get(context.Background(), "")
	if err != nil {
		r.t.Fatalf("get: %v", err)
	}
	return r.end(ro.GetId())
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			ro, _ := r.rollouts.Get(context.Background(), "")
			r.t.Fatalf("no %s\n%s", what, describe(ro))
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (r *rig) node(ro *v1.Rollout, name string) *v1.NodeRollout {
	r.t.Helper()
	for _, n := range ro.GetNodes() {
		if n.GetNode() == name {
			return n
		}
	}
	r.t.Fatalf("no node %s in\n%s", name, describe(ro))
	return nil
}

func (r *rig) want(ro *v1.Rollout, state v1.RolloutState, nodes map[string]v1.NodeRolloutState) {
	r.t.Helper()
	if ro.GetState() != state {
		r.t.Fatalf("rollout ended as %v, want %v\n%s", ro.GetState(), state, describe(ro))
	}
	for name, want := range nodes {
		if got := r.node(ro, name).GetState(); got != want {
			r.t.Fatalf("%s is %v, want %v\n%s", name, got, want, describe(ro))
		}
	}
}

func describe(ro *v1.Rollout) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s revision %d %v: %s\n", ro.GetId(), ro.GetRevision(), ro.GetState(), ro.GetReason())
	for _, n := range ro.GetNodes() {
		fmt.Fprintf(&b, "  %d %s %v attempts %d: %s (%s)\n", n.GetWave(), n.GetNode(), n.GetState(), n.GetAttempts(), n.GetMessage(), n.GetError().GetMessage())
	}
	return b.String()
}

// watchman sees which commits stand together.
type watchman struct {
	plan rollouttest.Plan
	mu   sync.Mutex
	at   map[string]v1.Pass
	// most is how many stood together at most.
	most   int
	faults []string
	order  []string
	check  func(at map[string]v1.Pass, began string) string
}

func newWatchman(plan rollouttest.Plan) *watchman {
	return &watchman{plan: plan, at: map[string]v1.Pass{}}
}

func (w *watchman) Began(node string, task *v1.ApplyTask) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at[node] = task.GetPass()
	w.most = max(w.most, len(w.at))
	w.order = append(w.order, node)
	critical := 0
	for _, m := range w.plan.Members {
		if _, ok := w.at[m.Name]; ok && m.Critical {
			critical++
		}
	}
	if critical > 1 {
		w.faults = append(w.faults, fmt.Sprintf("%d critical nodes in commit at once: %v", critical, w.at))
	}
	if w.check != nil {
		if f := w.check(w.at, node); f != "" {
			w.faults = append(w.faults, f)
		}
	}
}

func (w *watchman) Ended(node string, _ v1.PhaseOutcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.at, node)
}

func (w *watchman) commits() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.order...)
}

func serving(t *testing.T, plan rollouttest.Plan) *rig {
	t.Helper()
	t.Parallel()
	r := newRig(t, plan)
	r.serve()
	t.Cleanup(func() {
		r.stop()
		r.watch.mu.Lock()
		defer r.watch.mu.Unlock()
		for _, f := range r.watch.faults {
			t.Error(f)
		}
	})
	return r
}
