package operation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/rollout/rollouttest"
)

// effect is how much of a step stands.
type effect int

const (
	nothing effect = iota
	half
	whole
)

// world is what steps change, and what becomes of their runs. It outlives the server.
type world struct {
	mu      sync.Mutex
	effects map[string]effect
	inside  map[string]int
	// do and undo are what becomes of the next runs, by step; afterwards all goes well.
	do, undo map[string][]string
	// hopeless says that an undo failed for good.
	hopeless bool
	faults   []string
}

func (w *world) enter(name string) (leave func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inside[name]++
	if w.inside[name] > 1 {
		w.faults = append(w.faults, name+" runs beside itself")
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.inside[name]--
	}
}

// act makes a change, or half of it, as the script of the step says.
func (w *world) act(name string, scripts map[string][]string, to effect) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	fate := "well"
	if s := scripts[name]; len(s) > 0 {
		fate, scripts[name] = s[0], s[1:]
	}
	switch fate {
	case "away":
		return errs.New(errs.Unavailable, "away")
	case "half, then away":
		w.effects[name] = half
		return errs.New(errs.Timeout, "no answer")
	case "half, then fails":
		w.effects[name] = half
		return errs.New(errs.Invalid, "no")
	case "whole, then fails":
		w.effects[name] = to
		return errs.New(errs.Invalid, "no")
	case "fails":
		w.hopeless = w.hopeless || to == nothing
		return errs.New(errs.Internal, "no")
	}
	w.effects[name] = to
	return nil
}

// steps are some on the server and some on hosts.
func (w *world) steps(op string, count int) []operation.Step {
	var out []operation.Step
	for i := range count {
		name := fmt.Sprintf("%s/%d", op, i)
		s := operation.Step{Name: fmt.Sprint(i), Retry: quick}
		run := func(scripts map[string][]string, to effect) func(context.Context, *operation.Run) error {
			return func(ctx context.Context, run *operation.Run) error {
				if i%2 == 1 {
					res, err := run.Task(ctx, s.Node, &v1.Task{Work: &v1.Task_Listen{Listen: &v1.ListenTask{}}})
					_ = res
					return err
				}
				defer w.enter(name)()
				if err := run.Set(ctx, "seen", run.Attempt()); err != nil {
					return err
				}
				return w.act(name, scripts, to)
			}
		}
		if i%2 == 1 {
			s.Node = fmt.Sprintf("host%d", i%3)
		}
		s.Do, s.Undo = run(w.do, whole), run(w.undo, nothing)
		out = append(out, s)
	}
	return out
}

// work is what a host does with a task; the task's id says whose it is.
func (w *world) work(id string, names map[string]string) *v1.TaskResult {
	var number, step, call, attempt int
	var random, letter string
	if _, err := fmt.Sscanf(id, "o%06d-%6s-%d%1s%d-%d", &number, &random, &step, &letter, &call, &attempt); err != nil {
		return &v1.TaskResult{Error: &v1.TaskError{Code: string(errs.Internal), Message: err.Error()}}
	}
	w.mu.Lock()
	name := fmt.Sprintf("%s/%d", names[id[:14]], step)
	w.mu.Unlock()
	defer w.enter(name)()
	time.Sleep(200 * time.Microsecond)
	scripts, to := w.do, whole
	if letter == "u" {
		scripts, to = w.undo, nothing
	}
	if err := w.act(name, scripts, to); err != nil {
		return &v1.TaskResult{Error: &v1.TaskError{Code: string(errs.CodeOf(err)), Message: err.Error()}}
	}
	return &v1.TaskResult{}
}

// TestNothingIsLeftHalfDone lets steps fail in all ways, and the server die at any write, again and again: in the end an
// operation is all done or all undone, or stuck because an undo failed for good; and no step ever ran beside itself.
func TestNothingIsLeftHalfDone(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := &world{effects: map[string]effect{}, inside: map[string]int{}, do: map[string][]string{}, undo: map[string][]string{}}
		ops := map[string]int{}
		for i := range rapid.IntRange(1, 3).Draw(t, "operations") {
			op := fmt.Sprintf("op%d", i)
			ops[op] = rapid.IntRange(1, 5).Draw(t, "steps of "+op)
			for s := range ops[op] {
				name := fmt.Sprintf("%s/%d", op, s)
				w.do[name] = rapid.SliceOfN(rapid.SampledFrom([]string{
					"well", "well", "well", "away", "half, then away", "half, then fails", "whole, then fails", "fails",
				}), 0, 2).Draw(t, "runs of "+name)
				w.undo[name] = rapid.SliceOfN(rapid.SampledFrom([]string{"well", "well", "away", "half, then away", "fails"}), 0, 2).
					Draw(t, "undoing of "+name)
			}
		}
		k := operation.Kind{Name: "work", Steps: func(p json.RawMessage) ([]operation.Step, error) {
			var op string
			if err := json.Unmarshal(p, &op); err != nil {
				return nil, errs.New(errs.Invalid, "%w", err)
			}
			return w.steps(op, ops[op]), nil
		}}
		brittle := rollouttest.NewBrittle(rollouttest.NewStore(), -1, rapid.Bool().Draw(t, "dies after its write"))
		r := newRig(t, brittle, k)
		names, ids := map[string]string{}, map[string]string{}
		r.agents.work = func(_, id string) *v1.TaskResult { return w.work(id, names) }
		r.serve()
		defer func() { r.stop() }()
		for op := range ops {
			w.mu.Lock() // hosts know whose tasks they get
			started, err := r.engine.Start(context.Background(), operation.StartRequest{Kind: "work", Target: op, Params: op, Operator: "operator/anna"})
			names[started.GetId()], ids[op] = op, started.GetId()
			w.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			if rapid.IntRange(0, 4).Draw(t, op+" is canceled") == 0 {
				_, _ = r.engine.Cancel(context.Background(), started.GetId(), "operator/ben") // it may have ended
			}
		}
		for range rapid.IntRange(0, 4).Draw(t, "deaths") {
			brittle.MendFor(rapid.IntRange(0, 8).Draw(t, "writes until it dies"))
			for deadline := time.Now().Add(15 * time.Millisecond); !brittle.Died() && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			r.stop()
			brittle.Mend()
			r.serve()
		}
		for op, id := range ids {
			w.check(t, op, ops[op], r.end(id))
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if faults := append(w.faults, r.agents.faults...); len(faults) > 0 {
			t.Fatal(faults)
		}
	})
}

// end waits until an operation stands still and nothing of it is under way.
func (r *rig) end(id string) *v1.Operation {
	r.t.Helper()
	var op *v1.Operation
	r.eventually("end of "+id, func() bool {
		var err error
		op, err = r.engine.Get(context.Background(), id)
		return err == nil && operation.Still(op.GetState())
	})
	return op
}

func (w *world) check(t *rapid.T, op string, count int, end *v1.Operation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	want := nothing
	switch end.GetState() {
	case succeeded:
		want = whole
	case failed, canceled:
		if strings.Contains(end.GetMessage(), "given up by operator/ben") { // the cancel met it when it was stuck
			return
		}
	case stuck:
		if !w.hopeless && !strings.Contains(end.GetMessage(), "operator/ben stopped the undoing") {
			t.Fatalf("stuck although every undo went well\n%s", describe(end))
		}
		return
	default:
		t.Fatalf("it ended nowhere\n%s", describe(end))
	}
	for i := range count {
		if got := w.effects[fmt.Sprintf("%s/%d", op, i)]; got != want {
			t.Fatalf("step %d stands at %d, want %d\n%s", i, got, want, describe(end))
		}
	}
}
