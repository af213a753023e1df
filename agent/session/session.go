// Package session is the agent's side of its one connection to the server: it dials out, keeps the stream up, reports, runs
// tasks from a journal on disk, and renews or recovers its certificate.
package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Protocol is the number of the session protocol.
const Protocol = 1

// ProgressListening is the progress message that says that a ListenTask's ports are open.
const ProgressListening = "listening"

// Engine applies specs; agent/engine implements it.
type Engine interface {
	// Apply makes one pass.
	Apply(ctx context.Context, task *v1.ApplyTask, taskID string, c Confirmer, progress func(v1.Phase, string)) (*v1.ApplyResult, error)
	// Plan says what an apply would do.
	Plan(ctx context.Context, task *v1.PlanTask) (*v1.PlanResult, error)
	// State is how far the host is.
	State() *v1.HostState
	// Outcome tells what became of a pass that was cut short.
	Outcome(ctx context.Context, commitID string, pass v1.Pass) (*v1.ApplyResult, bool)
}

// Confirmer asks the server, over a connection of its own, whether a commit may be kept.
type Confirmer interface {
	Confirm(ctx context.Context, req *v1.ConfirmRequest) (*v1.ConfirmResponse, error)
}

// Prober opens connections; agent/probe implements it.
type Prober interface {
	Probe(ctx context.Context, task *v1.ProbeTask) (*v1.ProbeResult, error)
	Listen(ctx context.Context, task *v1.ListenTask, listening func()) (*v1.ListenResult, error)
}

// Stacks are the container stacks of this host; agent/provider/containers implements it.
type Stacks interface {
	// RestartStack restarts containers of a stack.
	RestartStack(ctx context.Context, task *v1.RestartTask) (*v1.RestartResult, error)
	// State is how the stacks were at the last look; nil before the first.
	State() *v1.ContainersReport
	// Report looks how they are.
	Report(ctx context.Context) *v1.ContainersReport
}

// Instances are the Dolibarr instances of this host; agent/provider/dolibarr implements it.
type Instances interface {
	// Do does something once with an instance. It bounds the time by itself.
	Do(ctx context.Context, task *v1.InstanceTask) (*v1.InstanceResult, error)
}

// Public asks for names as the world does; agent/provider/proxy implements it.
type Public interface {
	// Public asks for them. It bounds the time by itself.
	Public(ctx context.Context, task *v1.PublicTask) (*v1.PublicResult, error)
}

// Observed is what changes on a host by itself. Both are nil where there is nothing to tell.
type Observed interface {
	// Clock is how well the host keeps time, coarsely.
	Clock() *v1.ClockReport
	// Router is how the router is.
	Router() *v1.RouterReport
	// Look looks at both now.
	Look(ctx context.Context)
}

// Status is how the session stands, for people and for the unit's status line.
type Status struct {
	// Connected says that the server has welcomed the agent.
	Connected bool `json:"connected"`
	// Server is the address of the connection.
	Server string `json:"server,omitempty"`
	// SessionID names the session in the server's log.
	SessionID string `json:"session_id,omitempty"`
	// Since is when this state began.
	Since time.Time `json:"since"`
	// Problem is why there is no session.
	Problem string `json:"problem,omitempty"`
	// Skew is how far the machine's clock is ahead of the server's.
	Skew time.Duration `json:"skew"`
}

// Config is what a Session needs.
type Config struct {
	// Host is the machine.
	Host *host.Host
	// Store holds the identity.
	Store *enrol.Store
	// Dir is the folder of the task journal.
	Dir string
	// Log is told of what happens.
	Log hclog.Logger
	// Engine applies specs; nil on a probe, which manages nothing.
	Engine Engine
	// Prober opens connections.
	Prober Prober
	// Usage measures what host and containers use; nil on a probe.
	Usage func(context.Context, *v1.UsageTask) (*v1.UsageResult, error)
	// Facts reads what the host is.
	Facts func(context.Context) *v1.HostFacts
	// Stacks restarts container stacks and says how they are; nil where nothing is managed.
	Stacks Stacks
	// Instances works on Dolibarr instances; nil where nothing is managed.
	Instances Instances
	// Public asks for names as the world does; nil where nothing is managed.
	Public Public
	// Observed are clock and router; nil on a probe.
	Observed Observed
	// Consoles carries logs and commands; nil on a probe.
	Consoles Consoles
	// Fingerprint identifies the machine; it is read anew before each connection.
	Fingerprint func() (*v1.HostFingerprint, error)
	// WitnessKey is the public half of the witness key.
	WitnessKey string
	// Version and BootID introduce the agent.
	Version, BootID string
	// Registerer gets the gauges; nil means none.
	Registerer prometheus.Registerer
	// Changed is told how the session stands; it may be nil and must return at once.
	Changed func(Status)
	// Backoff spreads reconnections; the zero value means 1 s to 30 s.
	Backoff enrol.Backoff
}

// RevokedError says that the server has proven, by a signed notice, that the identity was withdrawn.
type RevokedError struct {
	// Serial is the certificate's serial number.
	Serial string
}

// Error implements error.
func (e *RevokedError) Error() string { return "the identity was revoked: certificate " + e.Serial }

// Session keeps the agent connected.
type Session struct {
	cfg      Config
	store    *enrol.Store
	clock    *enrol.Clock
	log      hclog.Logger
	tasks    *tasks
	reporter *reporter
	gauges   *gauges
	events   chan event

	mu      sync.Mutex
	current *enrol.Identity // the one that last worked or is being tried
	status  Status
	renewal renewal
	refused string    // serial number of a candidate that the server refused
	asked   time.Time // when the server's time was last asked for
}

// New opens the task journal and gives tasks that were cut short their results. Engine.Recover must have run before.
func New(ctx context.Context, cfg Config) (*Session, error) {
	if cfg.Backoff.Max == 0 {
		cfg.Backoff = enrol.Backoff{Base: time.Second, Max: 30 * time.Second}
	}
	if cfg.Changed == nil {
		cfg.Changed = func(Status) {}
	}
	journal, err := openJournal(cfg.Host, cfg.Dir, cfg.Log)
	if err != nil {
		return nil, err
	}
	s := &Session{cfg: cfg, store: cfg.Store, clock: cfg.Store.Clock(), log: cfg.Log, events: make(chan event)}
	s.reporter = &reporter{read: cfg.Facts, state: func() *v1.HostState { return nil }, observed: cfg.Observed}
	if cfg.Engine != nil {
		s.reporter.state = cfg.Engine.State
	}
	if cfg.Stacks != nil {
		s.reporter.containers = cfg.Stacks.State
	}
	s.tasks = &tasks{journal: journal, engine: cfg.Engine, prober: cfg.Prober, usage: cfg.Usage, stacks: cfg.Stacks, instances: cfg.Instances,
		public:   cfg.Public,
		consoles: cfg.Consoles, open: s.openConsole, confirm: confirmer{s}, clock: s.clock,
		log: cfg.Log, running: map[string]bool{}, ctx: ctx, changed: func(kind string) {
			s.lookAtStacks(ctx, kind)
			s.Report()
			if kind == kindApply {
				s.report(ctx, 0)
			}
		}}
	s.gauges = newGauges(cfg.Registerer, s)
	s.tasks.settle(ctx)
	return s, nil
}

// lookAtStacks renews what the report says of the stacks after they may have changed.
func (s *Session) lookAtStacks(ctx context.Context, kind string) {
	if s.cfg.Stacks != nil && kind != kindPlan {
		s.cfg.Stacks.Report(ctx)
	}
	if s.cfg.Observed != nil && kind == kindApply {
		s.cfg.Observed.Look(ctx)
	}
}

// Wait returns when all tasks have ended, after the context of New has: an armed commit goes on to its end.
func (s *Session) Wait() { s.tasks.group.Wait() }

// Run keeps the session up until ctx ends, and returns its error. It returns earlier for two reasons only: *RevokedError,
// and *enrol.ClonedError before anything was sent with the identity of another machine. A server that is away, overloaded,
// restored from a backup or just wrong is never one.
func (s *Session) Run(ctx context.Context) error {
	defer s.gauges.up.Set(0)
	for try := 0; ; {
		began := time.Now()
		welcomed, err := s.once(ctx, try)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var revoked *RevokedError
		var cloned *enrol.ClonedError
		if errors.As(err, &revoked) || errors.As(err, &cloned) {
			return err
		}
		if errors.Is(err, errAgain) {
			try = 0
			continue
		}
		if welcomed && time.Since(began) > s.cfg.Backoff.Max {
			try = 0
		}
		backoff := s.cfg.Backoff
		if errors.Is(err, errNoRoute) {
			backoff.Max = min(backoff.Max, time.Second)
		}
		wait := backoff.Delay(try, err)
		s.setStatus(Status{Problem: err.Error()})
		s.log.Warn("no session", "error", err, "hint", errs.HintOf(err), "again_in", wait.Round(time.Millisecond))
		try++
		if err := enrol.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// errAgain asks for a new connection at once: the identity is a new one.
var errAgain = errors.New("connect again with the new certificate")

// errNoRoute says that this machine's network is not up.
var errNoRoute = errors.New("the network is not up")

// askAgain is how long the server is not asked for its time again because of failing handshakes.
const askAgain = 10 * time.Second

// once makes one connection and holds it as long as it lasts.
func (s *Session) once(ctx context.Context, try int) (welcomed bool, err error) {
	fingerprint, err := s.cfg.Fingerprint()
	if err != nil {
		return false, err
	}
	if err := s.store.CheckMachine(fingerprint); err != nil {
		return false, err
	}
	list, err := s.store.Identities()
	if err != nil {
		return false, err
	}
	id := list[try%len(list)] // the candidate first, the one before it next
	s.mu.Lock()
	s.current = id
	s.mu.Unlock()
	if s.clock.Now().After(id.Leaf.NotAfter) {
		renewed, err := s.store.Refresh(ctx, id, fingerprint, try)
		if err != nil {
			return false, s.judge(err, list)
		}
		if renewed {
			s.log.Info("certificate had expired and was recovered")
			return false, errAgain
		}
	}
	l, err := s.dial(id, try)
	if err != nil {
		return false, err
	}
	defer l.conn.Close()
	err = l.run(ctx, fingerprint)
	if l.welcomed {
		s.gauges.up.Set(0)
		return true, errs.Wrap("session ended", errs.FromGRPC(s.judge(err, list)))
	}
	if err := s.judge(err, list); errors.As(err, new(*RevokedError)) {
		return false, err
	}
	failure := errs.Wrap("connect", errs.FromGRPC(err))
	switch {
	case ctx.Err() != nil:
		return false, failure
	case l.conn.NoRoute():
		return false, errs.New(errs.Unavailable, "connect: %w", errNoRoute)
	case l.conn.Peer() == "":
		return false, failure
	}
	s.mu.Lock()
	if id.Candidate {
		s.refused = id.Serial()
	}
	soon := time.Since(s.asked) < askAgain
	s.mu.Unlock()
	if code := errs.CodeOf(failure); soon || enrol.RetryAfter(err) > 0 || (code != errs.Unavailable && code != errs.Unauthenticated) {
		return false, failure
	}
	// Somebody answered, but no handshake came of it: the clock or the certificate may be why.
	s.mu.Lock()
	s.asked = time.Now()
	s.mu.Unlock()
	before := s.clock.Now()
	renewed, rerr := s.store.Refresh(ctx, id, fingerprint, try)
	switch {
	case rerr != nil:
		if verdict := s.judge(rerr, list); errors.As(verdict, new(*RevokedError)) {
			return false, verdict
		}
		s.log.Debug("cannot ask for the server's time", "error", rerr)
	case renewed || s.clock.Now().Sub(before).Abs() > time.Minute:
		return false, errAgain
	}
	return false, failure
}

// clientTLS returns the configuration for connections with the present identity.
func (s *Session) clientTLS() (*tls.Config, *enrol.Identity, error) {
	s.mu.Lock()
	id := s.current
	s.mu.Unlock()
	if id == nil {
		return nil, nil, errs.New(errs.Precondition, "this agent has no identity")
	}
	config, err := clientTLS(id, s.clock)
	return config, id, err
}

// TLS returns the configuration with which the agent reaches its server, for probes.
func (s *Session) TLS() (*tls.Config, error) {
	config, _, err := s.clientTLS()
	return config, err
}

// report reads the facts if they are older than limit, and queues a report of what changed.
func (s *Session) report(ctx context.Context, limit time.Duration) {
	s.reporter.refresh(ctx, limit)
	s.tasks.send(func(q *queue) { q.putReport() })
}

// Report queues a report of the engine's state if it changed.
func (s *Session) Report() { s.tasks.send(func(q *queue) { q.putReport() }) }

// Applying reports whether an apply is at work.
func (s *Session) Applying() bool {
	s.tasks.mu.Lock()
	defer s.tasks.mu.Unlock()
	return s.tasks.apply != ""
}

// Status returns how the session stands.
func (s *Session) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

func (s *Session) setStatus(next Status) {
	next.Since = s.clock.Now()
	next.Skew = -s.clock.Offset()
	s.mu.Lock()
	if !next.Connected && !s.status.Connected && !s.status.Since.IsZero() {
		next.Since = s.status.Since
	}
	s.status = next
	s.mu.Unlock()
	s.cfg.Changed(next)
}

// String names the session's identity for logs.
func (s *Session) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return "no identity"
	}
	return fmt.Sprint(s.current.Identity.URI())
}
