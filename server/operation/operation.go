// Package operation carries out operations: stored lists of named, idempotent steps, in order, often across hosts.
//
// A capability describes a Kind: from its parameters it makes the steps, always the same ones. Each step says how it is done
// and how it is undone. Start stores the operation; the engine carries it out, one step at a time, and writes down each step
// before it begins and after it ended, so that a restarted server goes on where it was. When a step fails, what was done is
// undone in reverse, a step that may have half happened included. Absence and overload are no failures: they are waited out.
//
// What a step must keep to:
//
//   - Do and Undo may run again after a crash, at any point of a former run: they are idempotent.
//   - Undo copes with a Do that never began, or stopped half-way.
//   - What a later step or a later run needs to know is kept with Run.Set. Parameters and values hold names, never secrets.
//   - Work on a host goes through Run.Task, which never sends the same work twice.
package operation

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// Kind is a sort of operation. Steps must give the same names and nodes for the same parameters, whenever it is called.
type Kind struct {
	Name  string
	Steps func(params json.RawMessage) ([]Step, error)
}

// Step is one step of an operation.
type Step struct {
	// Name names it within its operation.
	Name string
	// Node is the host that it works on; empty for the server.
	Node string
	// Do makes the step.
	Do func(ctx context.Context, run *Run) error
	// Undo takes it back, whatever Do came to; nil where there is nothing to take back.
	Undo func(ctx context.Context, run *Run) error
	// Retry says how an absent or busy other side is waited for.
	Retry Retry
	// Timeout bounds one run of Do or Undo; 0 means 30 minutes. What took too long is tried again.
	Timeout time.Duration
	// OnFailure says what happens when Do fails.
	OnFailure Policy
}

// Retry says how Unavailable, Timeout and Exhausted are waited out. The zero value waits for ever, from 1 s to 1 min.
type Retry struct {
	// Min is the first pause; it doubles up to Max.
	Min, Max time.Duration
	// Attempts is how often Do is tried before absence counts as failure; 0 means for ever. Undo is always tried for ever.
	Attempts int
}

// Policy says what happens when a step fails.
type Policy int

const (
	// Undo takes back what was done.
	Undo Policy = iota
	// Stop lets the operation stand there until a person retries or cancels it.
	Stop
)

// Hub reaches the agents; *session.Hub is it.
type Hub interface {
	Do(ctx context.Context, node string, task *v1.Task, progress func(*v1.TaskProgress)) (*v1.TaskResult, error)
	Resume(ctx context.Context, taskID string, progress func(*v1.TaskProgress)) (*v1.TaskResult, error)
}

// Store is what operations keep their state in.
type Store interface {
	store.Records
	store.Leases
	store.Watcher
	AppendAudit(ctx context.Context, entry store.AuditEntry) (int64, error)
}

// Config is what an Engine needs.
type Config struct {
	Store Store
	Hub   Hub
	Kinds []Kind
	Clock clock.Clock
	Log   hclog.Logger
	// Holder is this server's name in the lease; it stays the same over a restart. Empty means "server".
	Holder string
	// Parallel is how many steps run at once [8], PerNode how many of them on one host [1].
	Parallel, PerNode int
	// Lease is the life of the lease [15 s].
	Lease time.Duration
}

// Engine keeps and carries out operations. Its methods may be called from many goroutines.
type Engine struct {
	cfg     Config
	kinds   map[string]Kind
	records *store.Table[record]
	targets *store.Table[target]
	wake    chan struct{}

	mu      sync.Mutex
	busy    map[string]string // operations at work, and the node of the step
	said    map[string]string // what the step at work said last
	watches map[string]map[chan struct{}]struct{}
}

// New returns the operations kept in cfg.Store. Nothing moves until Run is called.
func New(cfg Config) *Engine {
	if cfg.Holder == "" {
		cfg.Holder = "server"
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = 8
	}
	if cfg.PerNode == 0 {
		cfg.PerNode = 1
	}
	if cfg.Lease == 0 {
		cfg.Lease = 15 * time.Second
	}
	e := &Engine{
		cfg: cfg, kinds: map[string]Kind{}, wake: make(chan struct{}, 1), busy: map[string]string{}, said: map[string]string{},
		records: store.NewTable(cfg.Store, KindOperation, store.JSON[record]()),
		targets: store.NewTable(cfg.Store, KindTarget, store.JSON[target]()),
		watches: map[string]map[chan struct{}]struct{}{},
	}
	for _, k := range cfg.Kinds {
		e.kinds[k.Name] = k
	}
	return e
}

// steps makes the steps of an operation, and checks that they are those that it was stored with.
func (e *Engine) steps(rec *record) ([]Step, error) {
	kind, ok := e.kinds[rec.Kind]
	if !ok {
		return nil, errs.New(errs.Precondition, "this version of the server knows no operation %q", rec.Kind)
	}
	steps, err := kind.Steps(rec.Params)
	if err != nil {
		return nil, err
	}
	same := len(steps) == len(rec.Steps)
	for i := 0; same && i < len(steps); i++ {
		same = steps[i].Name == rec.Steps[i].Name && steps[i].Node == rec.Steps[i].Node
	}
	if !same {
		return nil, errs.New(errs.Precondition, "this version of the server has other steps for %s", rec.Kind)
	}
	return steps, nil
}

// nudge makes the leader look again.
func (e *Engine) nudge() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *Engine) audit(ctx context.Context, actor, action, id, result, message string) {
	_, err := e.cfg.Store.AppendAudit(ctx, store.AuditEntry{
		Time: e.cfg.Clock.Now(), Actor: actor, Action: action, Target: "operation/" + id, Result: result, Message: message,
	})
	if err != nil {
		e.cfg.Log.Error("could not write the audit log", "action", action, "operation", id, "error", err)
	}
}
