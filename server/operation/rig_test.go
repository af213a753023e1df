package operation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/rollout/rollouttest"
	"github.com/infractl/infractl/server/store"
)

const (
	running   = v1.OperationState_OPERATION_STATE_RUNNING
	paused    = v1.OperationState_OPERATION_STATE_PAUSED
	succeeded = v1.OperationState_OPERATION_STATE_SUCCEEDED
	failed    = v1.OperationState_OPERATION_STATE_FAILED
	halted    = v1.OperationState_OPERATION_STATE_HALTED
	canceled  = v1.OperationState_OPERATION_STATE_CANCELED
	stuck     = v1.OperationState_OPERATION_STATE_STUCK
)

type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// agents are hosts that take tasks, outlive the server, and run no id twice.
type agents struct {
	mu      sync.Mutex
	away    map[string]bool
	tasks   map[string]*task
	work    func(node, id string) *v1.TaskResult
	running map[string]int
	faults  []string
}

type task struct {
	done chan struct{}
	res  *v1.TaskResult
}

func newAgents() *agents {
	return &agents{away: map[string]bool{}, tasks: map[string]*task{}, running: map[string]int{}}
}

func (a *agents) Do(ctx context.Context, node string, msg *v1.Task, _ func(*v1.TaskProgress)) (*v1.TaskResult, error) {
	a.mu.Lock()
	id := msg.GetId()
	if a.away[node] {
		a.mu.Unlock()
		return nil, errs.New(errs.Unavailable, "the node is away").At(node)
	}
	if len(id) > 64 {
		a.faults = append(a.faults, "task id too long: "+id)
	}
	if a.tasks[id] != nil {
		a.mu.Unlock()
		return nil, errs.New(errs.Exists, "task %s exists", id)
	}
	t := &task{done: make(chan struct{})}
	a.tasks[id] = t
	// Work of one step of one operation never overlaps on its host.
	step := strings.Join(strings.Split(id, "-")[:2], "-") + "/" + node
	a.running[step]++
	if a.running[step] > 1 {
		a.faults = append(a.faults, "two tasks at once: "+id)
	}
	a.mu.Unlock()
	go func() {
		res := &v1.TaskResult{}
		if a.work != nil {
			res = a.work(node, id)
		}
		a.mu.Lock()
		t.res = res
		a.running[step]--
		a.mu.Unlock()
		close(t.done)
	}()
	return a.wait(ctx, t)
}

func (a *agents) Resume(ctx context.Context, id string, _ func(*v1.TaskProgress)) (*v1.TaskResult, error) {
	a.mu.Lock()
	t := a.tasks[id]
	a.mu.Unlock()
	if t == nil {
		return nil, errs.New(errs.NotFound, "there is no task %s", id)
	}
	return a.wait(ctx, t)
}

func (a *agents) wait(ctx context.Context, t *task) (*v1.TaskResult, error) {
	select {
	case <-t.done:
		return t.res, nil
	case <-ctx.Done():
		return nil, errs.Wrap("wait for task", ctx.Err())
	}
}

// rig is an engine that can be restarted.
type rig struct {
	t      tester
	store  store.Store
	agents *agents
	kinds  []operation.Kind

	engine *operation.Engine
	stop   func()
}

func newRig(t tester, s store.Store, kinds ...operation.Kind) *rig {
	return &rig{t: t, store: s, agents: newAgents(), kinds: kinds}
}

func (r *rig) serve() {
	r.engine = operation.New(operation.Config{
		Store: r.store, Hub: r.agents, Kinds: r.kinds, Clock: clock.System{}, Log: hclog.NewNullLogger(),
		Parallel: 4, Lease: 300 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	engine := r.engine
	go func() {
		defer close(done)
		_ = engine.Run(ctx)
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
}

func serving(t *testing.T, kinds ...operation.Kind) *rig {
	t.Helper()
	t.Parallel()
	r := newRig(t, rollouttest.NewStore(), kinds...)
	r.serve()
	t.Cleanup(func() {
		r.stop()
		for _, f := range r.agents.faults {
			t.Error(f)
		}
	})
	return r
}

func (r *rig) start(kind, target string) string {
	r.t.Helper()
	op, err := r.engine.Start(context.Background(), operation.StartRequest{Kind: kind, Target: target, Operator: "operator/anna"})
	if err != nil {
		r.t.Fatalf("start: %v", err)
	}
	return op.GetId()
}

// still waits until an operation moves no further by itself.
func (r *rig) still(id string) *v1.Operation {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var last *v1.Operation
	if err := r.engine.Watch(ctx, id, func(o *v1.Operation) error { last = o; return nil }); err != nil {
		r.t.Fatalf("operation %s: %v\n%s", id, err, describe(last))
	}
	return last
}

func (r *rig) want(op *v1.Operation, state v1.OperationState) {
	r.t.Helper()
	if op.GetState() != state {
		r.t.Fatalf("operation is %v, want %v\n%s", op.GetState(), state, describe(op))
	}
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("no %s", what)
		}
	}
}

func describe(op *v1.Operation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %v: %s (%s)\n", op.GetId(), op.GetState(), op.GetMessage(), op.GetHint())
	for _, s := range op.GetSteps() {
		fmt.Fprintf(&b, "  %s %v attempts %d: %s\n", s.GetName(), s.GetState(), s.GetAttempts(), s.GetMessage())
	}
	return b.String()
}

// ledger notes what steps did.
type ledger struct {
	mu  sync.Mutex
	log []string
}

func (l *ledger) note(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = append(l.log, s)
}

func (l *ledger) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.log, " ")
}

// kind makes a kind of steps that note what they do.
func kind(name string, steps ...operation.Step) operation.Kind {
	return operation.Kind{Name: name, Steps: func(json.RawMessage) ([]operation.Step, error) { return steps, nil }}
}

var quick = operation.Retry{Min: time.Millisecond, Max: 4 * time.Millisecond}

func (l *ledger) step(name string, do func(ctx context.Context, run *operation.Run) error) operation.Step {
	return operation.Step{
		Name: name, Retry: quick,
		Do: func(ctx context.Context, run *operation.Run) error {
			l.note(name)
			if do == nil {
				return nil
			}
			return do(ctx, run)
		},
		Undo: func(context.Context, *operation.Run) error { l.note("-" + name); return nil },
	}
}
