// Package rollout brings a revision of the site to the fleet: wave by wave, one commit per host at a time, with witnesses
// for every change that could lock somebody out.
//
// A rollout is a durable state machine. Its header, its nodes and its commits are records in the store, written before the
// agent hears of anything, so that a restarted server goes on where it was. Pass 1 (widening) goes over all waves, then
// pass 2 (narrowing) over all of them again. One rollout is at work at a time; a newer one takes its place as soon as the
// commits under way have ended. Nodes that come late get a wave of their own.
package rollout

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/session"
	"github.com/infractl/infractl/server/store"
)

// Hub reaches the agents; *session.Hub is it. The state that comes with the result of an apply is in the fleet before Do or
// Resume return it.
type Hub interface {
	Live(node string) (session.LiveSession, bool)
	Do(ctx context.Context, node string, task *v1.Task, progress func(*v1.TaskProgress)) (*v1.TaskResult, error)
	Resume(ctx context.Context, taskID string, progress func(*v1.TaskProgress)) (*v1.TaskResult, error)
	Watch(ctx context.Context) <-chan session.NodeEvent
}

// Fleet knows the enrolled identities; *fleet.Fleet is it.
type Fleet interface {
	Node(ctx context.Context, name string) (fleet.Node, error)
	Nodes(ctx context.Context) ([]fleet.Node, error)
	AddKnownBad(ctx context.Context, node string, bad fleet.KnownBad) error
}

// Store is what rollouts keep their state in.
type Store interface {
	store.Records
	store.Leases
	store.Watcher
	AppendAudit(ctx context.Context, entry store.AuditEntry) (int64, error)
}

// Config is what Rollouts need.
type Config struct {
	Store     Store
	Fleet     Fleet
	Hub       Hub
	Revisions Revisions
	Clock     clock.Clock
	Log       hclog.Logger
	// Holder is this server's name in the lease of the rollout leader. It stays the same over a restart, so that a restarted
	// server need not wait for its own lease; empty means "server".
	Holder string
	// Times are the patience of everything; zero fields get their defaults.
	Times Times
}

// Times bound what a rollout waits for. Zero means the default in brackets.
type Times struct {
	// Survey bounds the look at all hosts before the first wave [10 s].
	Survey time.Duration
	// Patience is how long a node waits for its session or its witnesses before the others go on without it, and how long a
	// rollout whose other nodes are done waits for it [20 s].
	Patience time.Duration
	// ConfirmWait is how long one Confirm waits for witnesses before it answers "pending" [2 s].
	ConfirmWait time.Duration
	// ProbeRetry is the pause before a witness that saw a closed way looks again [300 ms], OperatorRetry the operator's [1 s].
	ProbeRetry, OperatorRetry time.Duration
	// ProbeTimeout bounds one probe [2 s].
	ProbeTimeout time.Duration
	// BackoffMin and BackoffMax bound the pause before an unconfirmed pass is tried again [1 s, 30 s].
	BackoffMin, BackoffMax time.Duration
	// Grace is added to a commit's window before a silent node counts as lost [10 s].
	Grace time.Duration
	// TaskStart is how long an agent has to take up a task [30 s], TaskLife how long a pass may take [30 min].
	TaskStart, TaskLife time.Duration
	// Coalesce is the shortest time between two messages to one watcher [50 ms].
	Coalesce time.Duration
	// Settle is how long the fleet must be quiet before late nodes get their wave [500 ms]; LateRetry is when a late node is
	// tried again although nothing changed [5 min].
	Settle, LateRetry time.Duration
	// SoakLook is the pause between two looks at a wave that soaks [1 s].
	SoakLook time.Duration
	// Lease is the life of the leader's lease [15 s].
	Lease time.Duration
}

// maxAttempts is how often a pass that nobody confirmed is tried in one rollout, maxTasks how many tasks a node gets in it:
// one that comes and goes must not keep a rollout from ending.
const (
	maxAttempts = 5
	maxTasks    = 40
)

func (t Times) withDefaults() Times {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.Survey, 10 * time.Second}, {&t.Patience, 20 * time.Second}, {&t.ConfirmWait, 2 * time.Second},
		{&t.ProbeRetry, 300 * time.Millisecond}, {&t.OperatorRetry, time.Second}, {&t.ProbeTimeout, 2 * time.Second},
		{&t.BackoffMin, time.Second}, {&t.BackoffMax, 30 * time.Second}, {&t.Grace, 10 * time.Second},
		{&t.TaskStart, 30 * time.Second}, {&t.TaskLife, 30 * time.Minute}, {&t.Coalesce, 50 * time.Millisecond},
		{&t.Settle, 500 * time.Millisecond}, {&t.LateRetry, 5 * time.Minute}, {&t.Lease, 15 * time.Second},
		{&t.SoakLook, time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return t
}

// Rollouts are all rollouts, and the one at work. Its methods may be called from many goroutines.
type Rollouts struct {
	cfg   Config
	times Times
	// instance names this process: a commit that was begun by another one had no server throughout.
	instance string

	headers   *store.Table[header]
	nodes     *store.Table[nodeRecord]
	commits   *store.Table[commitRecord]
	standings *store.Table[standing]

	starting sync.Mutex // held while a rollout is being written, so that numbers are given once
	wake     chan struct{}

	mu     sync.Mutex
	active *run
	drives map[string]*drive
	topics map[string]*topic
}

// New returns the rollouts kept in cfg.Store. Nothing moves until Run is called.
func New(cfg Config) *Rollouts {
	if cfg.Holder == "" {
		cfg.Holder = "server"
	}
	return &Rollouts{
		cfg: cfg, times: cfg.Times.withDefaults(), instance: randomHex(8),
		headers:   store.NewTable(cfg.Store, KindRollout, store.JSON[header]()),
		nodes:     store.NewTable(cfg.Store, KindNode, store.JSON[nodeRecord]()),
		commits:   store.NewTable(cfg.Store, KindCommit, store.JSON[commitRecord]()),
		standings: store.NewTable(cfg.Store, KindStanding, store.JSON[standing]()),
		wake:      make(chan struct{}, 1),
		drives:    map[string]*drive{},
		topics:    map[string]*topic{},
	}
}

// Run drives rollouts, while this server is the leader, until ctx ends. What was under way when a server stopped goes on.
func (r *Rollouts) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var pumps sync.WaitGroup
	defer pumps.Wait()
	defer cancel()
	changes, err := r.cfg.Store.Watch(ctx, KindRollout)
	if err != nil {
		return errs.Wrap("watch rollouts", err)
	}
	sessions := r.cfg.Hub.Watch(ctx)
	pumps.Go(func() {
		for range changes {
			r.nudge()
		}
	})
	pumps.Go(func() {
		for range sessions {
			r.nudge()
		}
	})
	store.Lead(ctx, store.LeadConfig{
		Leases: r.cfg.Store, Name: leaseName, Holder: r.cfg.Holder, Life: r.times.Lease, Log: r.cfg.Log,
	}, r.lead)
	return nil
}

// lead drives one rollout after the other.
func (r *Rollouts) lead(ctx context.Context) error {
	reconcile := newReconciler(r)
	for ctx.Err() == nil {
		running, err := r.running(ctx)
		if err != nil {
			return err
		}
		if len(running) > 0 {
			// The oldest first: one that a newer rollout replaces only ends what it had begun.
			if err := r.drive(ctx, running[0]); err != nil {
				return err
			}
			continue
		}
		next, err := reconcile.look(ctx)
		if err != nil {
			return err
		}
		r.await(ctx, next)
	}
	return nil
}

func (r *Rollouts) drive(ctx context.Context, h header) error {
	h, err := r.beginDelivery(ctx, h)
	if err != nil {
		return err
	}
	x, err := r.newRun(ctx, h)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.active = x
	r.mu.Unlock()
	err = x.drive(ctx)
	r.mu.Lock()
	r.active = nil
	r.mu.Unlock()
	r.publish(h.ID)
	return err
}

// await waits for a nudge, for d (0: without end), or for ctx.
func (r *Rollouts) await(ctx context.Context, d time.Duration) {
	var timer <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
	case <-r.wake:
	case <-timer:
	}
}

// nudge makes the leader look again.
func (r *Rollouts) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// audit writes what the server itself did; a failure is logged, since the rollout must go on.
func (r *Rollouts) audit(ctx context.Context, action, target, node, result, message string) {
	_, err := r.cfg.Store.AppendAudit(ctx, store.AuditEntry{
		Time: r.cfg.Clock.Now(), Actor: "system", Action: action, Target: target, Node: node, Result: result, Message: message,
	})
	if err != nil {
		r.cfg.Log.Error("could not write the audit log", "action", action, "target", target, "error", err)
	}
}

// pause waits for d and reports whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
