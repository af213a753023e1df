package rollout

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// surveyAtOnce is how many hosts are looked at in parallel.
const surveyAtOnce = 64

// survey looks at all hosts that should be in sync, in parallel and truly re-reading them. Those that are need no pass: an
// apply that changes nothing costs one round trip to each host.
func (x *run) survey(ctx context.Context) error {
	if x.h.Surveyed || x.h.Automatic {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, x.r.times.Survey)
	defer cancel()
	inSync := make([]bool, len(x.order))
	var g errgroup.Group
	g.SetLimit(surveyAtOnce)
	for i, name := range x.order {
		vn, k := x.view.Nodes[name], x.known[name]
		if _, live := x.r.cfg.Hub.Live(name); !live || !k.clean || k.widened != vn.Digest || k.narrowed != vn.Digest || vn.Digest == "" {
			continue
		}
		g.Go(func() error {
			changes, err := Look(ctx, x.r.cfg.Hub, name, vn.Content, vn.Digest, x.r.cfg.Clock.Now().Add(x.r.times.Survey))
			inSync[i] = err == nil && len(changes) == 0
			return nil
		})
	}
	_ = g.Wait()
	if err := context.Cause(ctx); err != nil && !errs.Is(err, errs.Timeout) {
		return err
	}
	return x.surveyed(context.WithoutCancel(ctx), inSync)
}

func (x *run) surveyed(ctx context.Context, inSync []bool) error {
	x.mu.Lock()
	for i, name := range x.order {
		if inSync[i] {
			n, digest := x.nodes[name], x.view.Nodes[name].Digest
			n.State, n.WidenDigest, n.NarrowDigest = v1.NodeRolloutState_NODE_ROLLOUT_STATE_DONE, digest, digest
			x.dirty[name] = true
		}
	}
	x.h.Surveyed = true
	x.mu.Unlock()
	x.r.publish(x.id)
	if !slices.Contains(inSync, false) {
		return nil // the end is stored next, with everything
	}
	if err := x.flush(ctx); err != nil {
		return err
	}
	_, err := x.r.headers.Update(ctx, x.id, func(h *header) error {
		h.Surveyed = true
		return nil
	})
	return errs.Wrap("store rollout", err)
}

// Planner is the part of a Hub that Look needs.
type Planner interface {
	Do(ctx context.Context, node string, task *v1.Task, progress func(*v1.TaskProgress)) (*v1.TaskResult, error)
}

// Look makes a node compare itself with a wish, and returns the differences. Errors are the agent's, or Unavailable and
// Timeout when it does not answer.
func Look(ctx context.Context, hub Planner, node string, content []byte, digest string, notAfter time.Time) ([]*v1.Change, error) {
	res, err := hub.Do(ctx, node, &v1.Task{
		Id: "plan-" + randomHex(8), NotAfter: timestamppb.New(notAfter),
		Work: &v1.Task_Plan{Plan: &v1.PlanTask{SpecDigest: digest, Spec: content}},
	}, nil)
	if err != nil {
		return nil, err
	}
	if e := res.GetError(); e != nil {
		return nil, errs.New(errs.Code(e.GetCode()), "%s", clip(e.GetMessage())).At(node).WithHint("%s", e.GetHint())
	}
	return res.GetPlan().GetChanges(), nil
}
