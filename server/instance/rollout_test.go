package instance_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/hostspec"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/instance"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/session"
)

// agents are the hosts of a world behind real rollouts: they take applies too.
type agents struct {
	*world
	fleet *fleet.Fleet
	// busy makes applies of one host wait for each other, as its agent does; took is how long one takes.
	busy map[string]*sync.Mutex
	took time.Duration
}

func (a *agents) Live(node string) (session.LiveSession, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.hosts[node]
	return session.LiveSession{ID: "1"}, h != nil && !h.away
}

func (a *agents) Watch(ctx context.Context) <-chan session.NodeEvent {
	out := make(chan session.NodeEvent)
	go func() {
		<-ctx.Done()
		close(out)
	}()
	return out
}

func (a *agents) Do(ctx context.Context, node string, task *v1.Task, progress func(*v1.TaskProgress)) (*v1.TaskResult, error) {
	apply := task.GetApply()
	if apply == nil {
		return a.world.Do(ctx, node, task, progress)
	}
	a.busy[node].Lock()
	defer a.busy[node].Unlock()
	time.Sleep(a.took)
	spec, err := hostspec.Decode(apply.GetSpec(), apply.GetSpecDigest())
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	h := a.hosts[node]
	res := &v1.ApplyResult{}
	if apply.GetPass() == v1.Pass_PASS_WIDEN {
		h.apply(spec, apply.GetSpecDigest())
		for phase, outcome := range []v1.PhaseOutcome{v1.PhaseOutcome_PHASE_OUTCOME_IN_SYNC, v1.PhaseOutcome_PHASE_OUTCOME_IN_SYNC, v1.PhaseOutcome_PHASE_OUTCOME_APPLIED} {
			res.Phases = append(res.Phases, &v1.PhaseResult{Phase: v1.Phase(phase + 1), Outcome: outcome})
		}
	} else {
		res.Phases = append(res.Phases, &v1.PhaseResult{Phase: v1.Phase_PHASE_NARROWING, Outcome: v1.PhaseOutcome_PHASE_OUTCOME_IN_SYNC})
	}
	a.mu.Unlock()
	n, err := a.fleet.UpdateNode(ctx, node, func(n *fleet.Node) error {
		n.State.M.SpecDigest, n.State.M.SiteRevision, n.State.M.ResourceRevision = apply.GetSpecDigest(), apply.GetSiteRevision(), apply.GetResourceRevision()
		if apply.GetPass() == v1.Pass_PASS_WIDEN {
			n.State.M.WidenedDigest = apply.GetSpecDigest()
		} else {
			n.State.M.NarrowedDigest = apply.GetSpecDigest()
		}
		return nil
	})
	res.State = n.State.M
	return &v1.TaskResult{Outcome: &v1.TaskResult_Apply{Apply: res}}, err
}

// TestManyCreationsShareTheirRollouts runs creations over real rollouts: those that come together are delivered together, so that twenty
// of them take a few rollouts and not forty.
func TestManyCreationsShareTheirRollouts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.serve()
	s.stop() // its rollouts are replaced by real ones
	log := hclog.NewNullLogger()
	hub := &agents{world: w, fleet: fleet.New(w.store), busy: map[string]*sync.Mutex{}, took: 2 * time.Millisecond}
	for name := range w.hosts {
		hub.busy[name] = &sync.Mutex{}
		if _, err := hub.fleet.NodeTable.Put(ctx(), name, fleet.Node{Name: name, State: fleet.Msg[*v1.HostState]{M: &v1.HostState{DriftTime: timestamppb.Now()}}}, 0); err != nil {
			t.Fatal(err)
		}
	}
	rollouts := rollout.New(rollout.Config{Store: w.store, Fleet: hub.fleet, Hub: hub, Revisions: rollout.FromRevisions(s.revisions), Clock: clock.System{}, Log: log,
		Times: rollout.Times{Patience: 10 * time.Millisecond, Coalesce: time.Millisecond, Settle: time.Millisecond, LateRetry: time.Hour, Lease: 300 * time.Millisecond}})
	real := instance.New(instance.Config{Store: w.store, Fleet: hub.fleet, Hub: hub, Clock: w.clock, Log: log, Site: "projetpro",
		Sign:     func(text []byte) (string, error) { return string(text), nil },
		Patience: instance.Patience{Min: time.Millisecond, Max: 5 * time.Millisecond}})
	engine := operation.New(operation.Config{Store: w.store, Hub: hub, Kinds: real.Kinds(), Clock: clock.System{}, Log: log, Parallel: 64, Lease: 300 * time.Millisecond})
	real.Use(s.revisions, rollouts, s.vault, engine)
	s.engine, s.instances, s.service = engine, real, instance.NewService(real)
	running, cancel := context.WithCancel(ctx())
	var parts sync.WaitGroup
	parts.Go(func() { _ = rollouts.Run(running) })
	parts.Go(func() { _ = engine.Run(running) })
	defer parts.Wait()
	defer cancel()

	first, err := rollouts.Start(ctx(), rollout.StartRequest{Revision: 1, Operator: "operator/anna"})
	if err != nil {
		t.Fatal(err)
	}
	s.eventually("end of the first rollout", func() bool {
		ro, err := rollouts.Get(ctx(), first.GetId())
		return err == nil && rollout.Ended(ro.GetState())
	})
	const many = 20
	ids := make([]string, many)
	for i := range many {
		if ids[i], err = s.begin(fmt.Sprintf("many%02d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids {
		s.want(s.still(id), succeeded)
	}
	list, err := rollouts.List(ctx(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(list) - 1; n > many*3/2 { // two each without sharing
		t.Errorf("%d rollouts for %d creations", n, many)
	}
	w.mu.Lock()
	if n := len(w.hosts["srv-dhcp-dns"].spec.GetProxy().GetHosts()); n < many {
		t.Errorf("the proxy knows %d names", n)
	}
	w.mu.Unlock()
	s.purge("many00")
	if got := s.get("many00").GetState(); got != v1.InstanceState_INSTANCE_STATE_PURGED {
		t.Errorf("purged: %v", got)
	}
}
