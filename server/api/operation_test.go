package api_test

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/rollout/rollouttest"
)

// newEngine carries out operations of one step, which waits until release.
func newEngine(t *testing.T, release <-chan struct{}) *operation.Engine {
	t.Helper()
	hold := operation.Kind{Name: "hold", Steps: func(json.RawMessage) ([]operation.Step, error) {
		return []operation.Step{{Name: "wait", Do: func(ctx context.Context, _ *operation.Run) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}}, nil
	}}
	e := operation.New(operation.Config{Store: rollouttest.NewStore(), Kinds: []operation.Kind{hold}, Clock: clock.System{}, Log: hclog.NewNullLogger()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return e
}

// operationWatcher takes what WatchOperation sends.
type operationWatcher struct {
	grpc.ServerStreamingServer[v1.WatchOperationResponse]
	ctx  context.Context
	last *v1.Operation
}

func (w *operationWatcher) Context() context.Context { return w.ctx }
func (w *operationWatcher) Send(m *v1.WatchOperationResponse) error {
	w.last = m.GetOperation()
	return nil
}

func TestRolloutsAndOperationsAreListedAndSteeredAlike(t *testing.T) {
	r := newRig(t)
	engine := r.engine
	api, ctx := r.api.Operation, as(certs.RoleOperator)
	ro := r.apply(&v1.ApplySiteRequest{Source: r.source})
	started, err := engine.Start(ctx, operation.StartRequest{Kind: "hold", Target: "x", Operator: "operator/anna"})
	if err != nil {
		t.Fatal(err)
	}
	list, err := api.ListOperations(ctx, &v1.ListOperationsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ids := func(list []*v1.Operation) (out []string) {
		for _, o := range list {
			out = append(out, o.GetId())
		}
		return out
	}
	if got, want := ids(list.GetOperations()), []string{started.GetId(), ro.GetId()}; !slices.Equal(got, want) {
		t.Errorf("list %v, want %v", got, want)
	}
	open, err := api.ListOperations(ctx, &v1.ListOperationsRequest{Open: true})
	if err != nil || !slices.Equal(ids(open.GetOperations()), []string{started.GetId()}) {
		t.Errorf("open %v, %v", open, err)
	}
	only, err := api.ListOperations(ctx, &v1.ListOperationsRequest{Kind: "rollout"})
	if err != nil || !slices.Equal(ids(only.GetOperations()), []string{ro.GetId()}) {
		t.Errorf("rollouts %v, %v", only, err)
	}

	got, err := api.GetOperation(ctx, &v1.GetOperationRequest{Id: ro.GetId()[:7]})
	if err != nil || got.GetOperation().GetState() != v1.OperationState_OPERATION_STATE_SUCCEEDED || len(got.GetOperation().GetSteps()) != 6 {
		t.Fatalf("rollout as an operation: %v, %v", got, err)
	}
	if s := got.GetOperation().GetSteps()[0]; s.GetNode() != "srv-pre-prod" || s.GetWave() != 1 || s.GetState() != v1.StepState_STEP_STATE_DONE {
		t.Errorf("its first step: %v", s)
	}

	for name, call := range map[string]func(id string) error{
		"pause": func(id string) error {
			_, err := api.PauseOperation(ctx, &v1.PauseOperationRequest{Id: id})
			return err
		},
		"resume": func(id string) error {
			_, err := api.ResumeOperation(ctx, &v1.ResumeOperationRequest{Id: id})
			return err
		},
		"retry": func(id string) error {
			_, err := api.RetryOperation(ctx, &v1.RetryOperationRequest{Id: id})
			return err
		},
		"cancel": func(id string) error {
			_, err := api.CancelOperation(ctx, &v1.CancelOperationRequest{Id: id})
			return err
		},
	} {
		if err := call(ro.GetId()); !errs.Is(err, errs.Precondition) {
			t.Errorf("%s of a rollout that succeeded: %v", name, err)
		}
		if err := call("x1"); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s of no id: %v", name, err)
		}
		if err := call("o999999"); !errs.Is(err, errs.NotFound) {
			t.Errorf("%s of an unknown id: %v", name, err)
		}
	}

	if _, err := api.PauseOperation(ctx, &v1.PauseOperationRequest{Id: started.GetId()}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.CancelOperation(ctx, &v1.CancelOperationRequest{Id: started.GetId()}); err != nil {
		t.Fatal(err)
	}
	close(r.release)
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	w := &operationWatcher{ctx: limited}
	if err := api.WatchOperation(&v1.WatchOperationRequest{Id: started.GetId()}, w); err != nil {
		t.Fatal(err)
	}
	if w.last.GetState() != v1.OperationState_OPERATION_STATE_CANCELED {
		t.Errorf("it ended as %v", w.last)
	}
}
