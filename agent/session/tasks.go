package session

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// maxRunning is how many tasks run at once.
	maxRunning = 64
	// resendAfter is how long a result waits for its acknowledgement before it is sent again.
	resendAfter = 30 * time.Second
	// maxResult is the largest result: a message of the session, with room for its frame.
	maxResult = mtls.MaxSessionMessage - 64<<10
)

// Kinds of work, as the journal and errors name them.
const (
	kindApply    = "apply"
	kindPlan     = "plan"
	kindProbe    = "probe"
	kindListen   = "listen"
	kindRestart  = "restart"
	kindUsage    = "usage"
	kindAttach   = "attach"
	kindInstance = "instance"
	kindPublic   = "public"
)

// tasks runs what the server asks for. It outlives sessions: work goes on when one breaks, and its result goes out on the
// next.
type tasks struct {
	journal   *journal
	engine    Engine
	prober    Prober
	usage     func(context.Context, *v1.UsageTask) (*v1.UsageResult, error)
	stacks    Stacks
	instances Instances
	public    Public
	// consoles carries logs and commands over streams that open opens.
	consoles Consoles
	open     func(context.Context) (AttachStream, func(), error)
	confirm  Confirmer
	clock    *enrol.Clock
	log      hclog.Logger
	// changed is called when an apply or a plan has ended.
	changed func(kind string)

	ctx     context.Context
	group   sync.WaitGroup
	mu      sync.Mutex
	out     *queue
	running map[string]bool
	apply   string // the id of the apply at work
}

// attach makes q the way out and puts all that the server may not have heard into it.
func (t *tasks) attach(q *queue) {
	t.mu.Lock()
	t.out = q
	t.mu.Unlock()
	for _, e := range t.journal.unfinished() {
		q.putAccepted(e.ID)
	}
	t.resend(0)
}

func (t *tasks) detach() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out = nil
}

// resend sends results again that were not acknowledged and were last sent longer ago than after.
func (t *tasks) resend(after time.Duration) {
	now := time.Now()
	for _, e := range t.journal.unsent(now.Add(-after), now) {
		t.send(func(q *queue) { q.putResult(e.result()) })
	}
}

func (t *tasks) send(put func(*queue)) {
	t.mu.Lock()
	out := t.out
	t.mu.Unlock()
	if out != nil {
		put(out)
	}
}

// busy reports whether anything runs that a new session would disturb; consoles have streams of their own.
func (t *tasks) busy() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, counts := range t.running {
		if counts {
			return true
		}
	}
	return false
}

// settle gives a result to tasks that an agent that died had accepted.
func (t *tasks) settle(ctx context.Context) {
	for _, e := range t.journal.unfinished() {
		result := &v1.TaskResult{TaskId: e.ID}
		if e.Kind == kindApply && t.engine != nil {
			if outcome, ok := t.engine.Outcome(ctx, e.CommitID, e.Pass); ok {
				result.Outcome = &v1.TaskResult_Apply{Apply: outcome}
			}
		}
		if result.Outcome == nil {
			result.Error = taskError(errs.New(errs.Canceled, "the agent was restarted during the task").
				WithHint("ask again; what was done is in the host's report"))
		}
		t.log.Info("task was cut short by a restart", "task", e.ID, "kind", e.Kind, "known", result.Error == nil)
		t.journal.finish(result)
	}
}

// handle takes a task: it is on disk before anything is done, and no id is run twice.
func (t *tasks) handle(task *v1.Task) {
	id := task.GetId()
	if !validID(id) {
		t.log.Warn("a task has no usable id", "id", fmt.Sprintf("%.64q", id))
		t.send(func(q *queue) {
			q.putResult(&v1.TaskResult{TaskId: id, Error: taskError(errs.New(errs.Invalid, "the task's id is not usable"))})
		})
		return
	}
	e := &entry{ID: id, Kind: kindOf(task), Accepted: t.clock.Now(), NotAfter: task.GetNotAfter().AsTime()}
	if apply := task.GetApply(); apply != nil {
		e.CommitID, e.Pass = apply.GetCommitId(), apply.GetPass()
	}
	have, known, err := t.journal.accept(e)
	if err != nil {
		// It is not accepted, and so not done; the server may ask again.
		t.log.Error("cannot accept a task", "task", id, "error", err)
		t.send(func(q *queue) { q.putResult(&v1.TaskResult{TaskId: id, Error: taskError(err)}) })
		return
	}
	if known {
		t.log.Debug("task came again", "task", id)
		t.send(func(q *queue) {
			if have.Result != nil {
				q.putResult(have.result())
				return
			}
			q.putAccepted(id)
		})
		return
	}
	t.send(func(q *queue) { q.putAccepted(id) })
	if err := t.start(task); err != nil {
		t.finish(&v1.TaskResult{TaskId: id, Error: taskError(err)})
	}
}

func kindOf(task *v1.Task) string {
	switch task.GetWork().(type) {
	case *v1.Task_Apply:
		return kindApply
	case *v1.Task_Plan:
		return kindPlan
	case *v1.Task_Probe:
		return kindProbe
	case *v1.Task_Listen:
		return kindListen
	case *v1.Task_Restart:
		return kindRestart
	case *v1.Task_Usage:
		return kindUsage
	case *v1.Task_Attach:
		return kindAttach
	case *v1.Task_Instance:
		return kindInstance
	case *v1.Task_Public:
		return kindPublic
	}
	return ""
}

// start begins the work, or says why it may not begin.
func (t *tasks) start(task *v1.Task) error {
	kind := kindOf(task)
	switch {
	case kind == "":
		return errs.New(errs.Invalid, "this agent does not know such a task").
			WithHint("upgrade the agent of this host to the server's version")
	case task.GetNotAfter() == nil:
		return errs.New(errs.Invalid, "the task does not say until when it may start")
	case t.clock.Now().After(task.GetNotAfter().AsTime()):
		return errs.New(errs.Precondition, "the task came too late: it had to start before %s",
			task.GetNotAfter().AsTime().UTC().Format(time.RFC3339))
	case t.consoles == nil && kind == kindAttach:
		return errs.New(errs.Denied, "this agent is a probe and has no consoles")
	case t.stacks == nil && kind == kindRestart:
		return errs.New(errs.Denied, "this agent manages no container stacks")
	case t.instances == nil && kind == kindInstance:
		return errs.New(errs.Denied, "this agent manages no Dolibarr instances")
	case t.public == nil && kind == kindPublic:
		return errs.New(errs.Denied, "this agent manages no reverse proxy")
	case t.engine == nil && (kind == kindApply || kind == kindPlan), t.usage == nil && kind == kindUsage:
		return errs.New(errs.Denied, "this agent is a probe and manages nothing")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.running) >= maxRunning {
		return errs.New(errs.Exhausted, "%d tasks are running already", maxRunning)
	}
	if kind == kindApply {
		if t.apply != "" {
			return errs.New(errs.Conflict, "another apply is running: task %s", t.apply)
		}
		t.apply = task.GetId()
	}
	t.running[task.GetId()] = kind != kindAttach
	t.group.Go(func() { t.run(task, kind) })
	return nil
}

func (t *tasks) run(task *v1.Task, kind string) {
	started := time.Now()
	result, err := t.work(task)
	if err != nil && t.ctx.Err() != nil {
		return // the agent stops: its successor finds out how far this came
	}
	result.TaskId = task.GetId()
	if err != nil {
		result.Error = taskError(err)
	}
	t.log.Info("task ended", "task", task.GetId(), "kind", kind, "duration", time.Since(started), "error", err)
	validText(result)
	if size := proto.Size(result); size > maxResult {
		result = &v1.TaskResult{TaskId: task.GetId(), Error: taskError(errs.New(errs.Exhausted,
			"the result has %d bytes, more than %d", size, maxResult))}
	}
	t.mu.Lock()
	delete(t.running, task.GetId())
	if t.apply == task.GetId() {
		t.apply = ""
	}
	t.mu.Unlock()
	t.finish(result)
	if kind == kindApply || kind == kindPlan || kind == kindRestart {
		t.changed(kind)
	}
}

func (t *tasks) finish(result *v1.TaskResult) {
	t.journal.finish(result)
	t.resend(resendAfter)
}

// work does a task. A defect in one must not end the agent: it is the way back in.
func (t *tasks) work(task *v1.Task) (result *v1.TaskResult, err error) {
	result = &v1.TaskResult{}
	defer func() {
		if p := recover(); p != nil {
			t.log.Error("task panicked", "task", task.GetId(), "panic", p, "stack", string(debug.Stack()))
			result, err = &v1.TaskResult{}, errs.New(errs.Internal, "the agent met a defect: %v", p)
		}
	}()
	progress := func(phase v1.Phase, message string) {
		t.send(func(q *queue) {
			q.putProgress(&v1.TaskProgress{TaskId: task.GetId(), Phase: phase, Message: message})
		})
	}
	switch work := task.GetWork().(type) {
	case *v1.Task_Apply:
		out, err := t.engine.Apply(t.ctx, work.Apply, task.GetId(), t.confirm, progress)
		if out != nil {
			result.Outcome = &v1.TaskResult_Apply{Apply: out}
		}
		return result, err
	case *v1.Task_Plan:
		out, err := t.engine.Plan(t.ctx, work.Plan)
		if out != nil {
			result.Outcome = &v1.TaskResult_Plan{Plan: out}
		}
		return result, err
	case *v1.Task_Usage:
		out, err := t.usage(t.ctx, work.Usage)
		if out != nil {
			result.Outcome = &v1.TaskResult_Usage{Usage: out}
		}
		return result, err
	case *v1.Task_Attach:
		out, err := t.attachConsole(work.Attach)
		result.Outcome = &v1.TaskResult_Attach{Attach: out}
		return result, err
	case *v1.Task_Probe:
		out, err := t.prober.Probe(t.ctx, work.Probe)
		if out != nil {
			result.Outcome = &v1.TaskResult_Probe{Probe: out}
		}
		return result, err
	case *v1.Task_Listen:
		ready := func() { progress(v1.Phase_PHASE_UNSPECIFIED, ProgressListening) }
		out, err := t.prober.Listen(t.ctx, work.Listen, ready)
		if out != nil {
			result.Outcome = &v1.TaskResult_Listen{Listen: out}
		}
		return result, err
	}
	return t.workInside(task, result)
}

// workInside does what concerns containers and what is served of them.
func (t *tasks) workInside(task *v1.Task, result *v1.TaskResult) (*v1.TaskResult, error) {
	switch work := task.GetWork().(type) {
	case *v1.Task_Restart:
		out, err := t.stacks.RestartStack(t.ctx, work.Restart)
		if out != nil {
			result.Outcome = &v1.TaskResult_Restart{Restart: out}
		}
		return result, err
	case *v1.Task_Instance:
		out, err := t.instances.Do(t.ctx, work.Instance)
		if out != nil {
			result.Outcome = &v1.TaskResult_Instance{Instance: out}
		}
		return result, err
	case *v1.Task_Public:
		out, err := t.public.Public(t.ctx, work.Public)
		if out != nil {
			result.Outcome = &v1.TaskResult_Public{Public: out}
		}
		return result, err
	}
	return result, errs.New(errs.Internal, "unknown work was started")
}
