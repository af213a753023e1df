package operation

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// stepTimeout bounds a run of a step that has no limit of its own, taskStart how long an agent has to take up a task.
	stepTimeout = 30 * time.Minute
	taskStart   = time.Minute
	// maxValues bounds what the steps of an operation keep, in bytes.
	maxValues = 1 << 20
)

// Run is one run of a step. Do and Undo use it from their own goroutine, one call at a time.
type Run struct {
	engine *Engine
	id     string
	step   int
	back   bool
	number uint32
	who    string

	mu     sync.Mutex
	values map[string]json.RawMessage
	tasks  map[string]string
	calls  int
	said   string
}

func newRun(e *Engine, rec *record, i int, back bool) *Run {
	s := &rec.Steps[i]
	r := &Run{engine: e, id: rec.ID, step: i, back: back, number: s.Attempts, who: rec.Operator,
		values: maps.Clone(rec.Values), tasks: maps.Clone(s.Tasks)}
	if back {
		r.number = s.Undos
	}
	return r
}

// ID is the operation's.
func (r *Run) ID() string { return r.id }

// Operator is who wants the operation.
func (r *Run) Operator() string { return r.who }

// Attempt counts the runs of this Do or Undo, from 1. One that a restarted server goes on with is the same attempt.
func (r *Run) Attempt() uint32 { return r.number }

// Get reads what a step of this operation kept under key into v, and reports whether there is anything.
func (r *Run) Get(key string, v any) (bool, error) {
	r.mu.Lock()
	data, ok := r.values[key]
	r.mu.Unlock()
	if !ok {
		return false, nil
	}
	return true, errs.Wrap("read value "+key+" of operation", json.Unmarshal(data, v))
}

// Set keeps v, as JSON, for this and the later steps of this operation, and for undoing them. It is stored when Set returns;
// nothing secret goes here. Invalid when an operation keeps more than 1 MiB.
func (r *Run) Set(ctx context.Context, key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return errs.Wrap("keep value "+key+" of operation", err)
	}
	rec, err := r.engine.update(ctx, r.id, func(rec *record) error {
		if rec.Values == nil {
			rec.Values = map[string]json.RawMessage{}
		}
		rec.Values[key] = data
		sum := 0
		for k, v := range rec.Values {
			sum += len(k) + len(v)
		}
		if sum > maxValues {
			return errs.New(errs.Invalid, "an operation keeps at most %d bytes", maxValues)
		}
		return nil
	})
	if err != nil {
		return errs.Wrap("keep value "+key+" of operation", err)
	}
	r.mu.Lock()
	r.values = maps.Clone(rec.Values)
	r.mu.Unlock()
	return nil
}

// Say shows people what goes on. The last words of a run are kept with its step.
func (r *Run) Say(format string, args ...any) {
	said := clip(fmt.Sprintf(format, args...))
	r.mu.Lock()
	r.said = said
	r.mu.Unlock()
	r.engine.mu.Lock()
	r.engine.said[r.id] = said
	r.engine.mu.Unlock()
	r.engine.publish(r.id)
}

func (r *Run) last() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said
}

func (r *Run) open() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.tasks)
}

// Task lets the agent of a node do some work, and waits for the result. The task's id is made of operation, step, attempt and
// the order of the calls in it, so that a restarted server waits for the task that was sent instead of sending another. A
// task whose result is not known is asked for before a later attempt sends its own, and one that went well is not sent again
// in this step. The id is set here, and NotAfter, if it is not set, to a minute from now. The error is the agent's own, with
// its code, or Unavailable and Timeout when there is no result.
func (r *Run) Task(ctx context.Context, node string, task *v1.Task) (*v1.TaskResult, error) {
	r.mu.Lock()
	place := fmt.Sprintf("%s%d", r.letter(), r.calls)
	r.calls++
	former := r.tasks[place]
	r.mu.Unlock()
	hub := r.engine.cfg.Hub
	progress := func(p *v1.TaskProgress) { r.Say("%s: %s", node, p.GetMessage()) }
	if former != "" {
		res, err := hub.Resume(ctx, former, progress)
		if err == nil {
			return r.result(place, node, res)
		}
		if !never(ctx, err) {
			return nil, err
		}
	}
	id := fmt.Sprintf("%s-%d%s-%d", r.id, r.step, place, r.number)
	if former != id {
		if err := r.keepTask(ctx, place, id); err != nil {
			return nil, err
		}
	}
	task = proto.Clone(task).(*v1.Task)
	task.Id = id
	if task.GetNotAfter() == nil {
		task.NotAfter = timestamppb.New(r.engine.cfg.Clock.Now().Add(taskStart))
	}
	res, err := hub.Do(ctx, node, task, progress)
	if errs.Is(err, errs.Exists) {
		res, err = hub.Resume(ctx, id, progress)
	}
	if err != nil {
		return nil, err
	}
	return r.result(place, node, res)
}

func (r *Run) letter() string {
	if r.back {
		return "u"
	}
	return "d"
}

// never reports whether an answer of Resume says that no agent has, or will, take up the task.
func never(ctx context.Context, err error) bool {
	return errs.Is(err, errs.NotFound) || errs.Is(err, errs.Timeout) && ctx.Err() == nil
}

// result takes in a task's result. One that failed has been dealt with: a later attempt sends a new one.
func (r *Run) result(place, node string, res *v1.TaskResult) (*v1.TaskResult, error) {
	e := res.GetError()
	if e == nil {
		return res, nil
	}
	r.mu.Lock()
	delete(r.tasks, place)
	r.mu.Unlock()
	return res, errs.New(errs.Code(e.GetCode()), "%s", clip(e.GetMessage())).At(node).WithHint("%s", e.GetHint())
}

func (r *Run) keepTask(ctx context.Context, place, id string) error {
	r.mu.Lock()
	if r.tasks == nil {
		r.tasks = map[string]string{}
	}
	r.tasks[place] = id
	r.mu.Unlock()
	tasks := r.open()
	_, err := r.engine.update(ctx, r.id, func(rec *record) error {
		rec.Steps[r.step].Tasks = tasks
		return nil
	})
	return errs.Wrap("store task of operation", err)
}

// call runs the step. A panic in it is its failure, and no end of the server.
func (r *Run) call(ctx context.Context, def *Step) (err error) {
	limit := def.Timeout
	if limit == 0 {
		limit = stepTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			r.engine.cfg.Log.Error("a step panicked", "operation", r.id, "step", def.Name, "panic", p, "stack", string(debug.Stack()))
			err = errs.New(errs.Internal, "step %s panicked; the server's log has more", def.Name)
		}
	}()
	if !r.back {
		return def.Do(ctx, r)
	}
	if err := r.awaitDo(ctx); err != nil {
		return err
	}
	if def.Undo == nil {
		return nil
	}
	return def.Undo(ctx, r)
}

// awaitDo waits for tasks of Do whose result is not known, so that nothing is undone while it is being done.
func (r *Run) awaitDo(ctx context.Context) error {
	for place, id := range r.open() {
		if !strings.HasPrefix(place, "d") {
			continue
		}
		if _, err := r.engine.cfg.Hub.Resume(ctx, id, nil); err != nil && !never(ctx, err) {
			return err
		}
		r.mu.Lock()
		delete(r.tasks, place)
		r.mu.Unlock()
	}
	return nil
}
