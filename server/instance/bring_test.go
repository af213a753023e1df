package instance

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/rollout"
)

// waiting is a delivery that never gets its turn.
type waiting struct {
	Rollouts
	nodes []*v1.NodeRollout
}

func (w waiting) Get(context.Context, string) (*v1.Rollout, error) {
	return &v1.Rollout{Id: "r000002-abcdef", Nodes: w.nodes}, nil
}

func (w waiting) Watch(ctx context.Context, _ rollout.WatchRequest, send func(*v1.WatchRolloutResponse) error) error {
	ro, err := w.Get(ctx, "")
	if err == nil {
		err = send(&v1.WatchRolloutResponse{Rollout: ro})
	}
	if err != nil {
		return err
	}
	<-ctx.Done()
	return errs.Wrap("watch", ctx.Err())
}

// one is a fleet of one host, which says after some questions that it is through with a later wish.
type one struct {
	asked, after int
	state        *v1.HostState
}

func (o *one) Node(context.Context, string) (fleet.Node, error) {
	if o.asked++; o.asked < o.after {
		return fleet.Node{Name: "srv-prod", State: fleet.Msg[*v1.HostState]{M: &v1.HostState{}}}, nil
	}
	return fleet.Node{Name: "srv-prod", State: fleet.Msg[*v1.HostState]{M: o.state}}, nil
}

// Deliveries go on for as long as somebody decides something: whoever waits for one of them is there when its host is, whatever brought it.
func TestAHostThatIsThroughIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	through := &v1.HostState{SpecDigest: "new", WidenedDigest: "new", NarrowedDigest: "new", SiteRevision: 1, ResourceRevision: 8}
	halfway := &v1.HostState{SpecDigest: "new", WidenedDigest: "new", NarrowedDigest: "old", SiteRevision: 1, ResourceRevision: 8}
	before := &v1.HostState{SpecDigest: "new", WidenedDigest: "new", NarrowedDigest: "new", SiteRevision: 1, ResourceRevision: 6}
	unwell := &v1.HostState{SpecDigest: "new", WidenedDigest: "new", NarrowedDigest: "new", SiteRevision: 1, ResourceRevision: 8,
		Degraded: []string{"dolibarr: instance acme: its database does not come up"}}
	queued := []*v1.NodeRollout{{Node: "srv-prod", State: v1.NodeRolloutState_NODE_ROLLOUT_STATE_QUEUED}}
	for name, c := range map[string]struct {
		nodes []*v1.NodeRollout
		state *v1.HostState
		there bool
	}{
		"its own delivery waits":              {queued, through, true},
		"its own delivery has no nodes yet":   {nil, through, true},
		"it is through, and not well":         {queued, unwell, true},
		"it is at its services":               {queued, halfway, false},
		"it has what was wanted before":       {queued, before, false},
		"its own delivery is on its way here": {[]*v1.NodeRollout{{Node: "srv-prod", State: v1.NodeRolloutState_NODE_ROLLOUT_STATE_WIDENING}}, through, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(Config{Fleet: &one{after: 2, state: c.state}})
			s.rollouts = waiting{nodes: c.nodes}
			w := &arrival{s: s, wish: &revision.Derived{Revision: 1, Resources: 7}, nodes: []string{"srv-prod"}, there: map[string]bool{}, problems: map[string]string{}}
			ctx, cancel := context.WithTimeout(t.Context(), 5*peekEvery)
			defer cancel()
			if c.there {
				ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
			}
			err := w.follow(ctx, func(string, ...any) {}, "r000002-abcdef")
			if c.state.GetDegraded() != nil && w.problems["srv-prod"] != c.state.GetDegraded()[0] {
				t.Errorf("problems %q", w.problems)
			}
			if there := err == nil && w.there["srv-prod"]; there != c.there || !c.there && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("there: %t, %v", there, err)
			}
		})
	}
}
