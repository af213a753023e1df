// Package console joins an operator who wants to see a log, or to run a command in a container, with the agent of the host.
//
// The agent is asked by a task that is never stored, and opens a stream of its own for the data: the session's stream, and with
// it confirmations and specs, never waits behind a console. What is on the way between the two streams is bounded; whoever
// reads slowly slows the other side down.
package console

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
)

// Hub sends tasks to agents; *session.Hub is it.
type Hub interface {
	// DoLive sends a task that is not stored and waits for its result.
	DoLive(ctx context.Context, node string, task *v1.Task) (*v1.TaskResult, error)
}

// Wanted tells what the current revision wants of the hosts.
type Wanted interface {
	// HostSpecs returns what each node must be, by node; nil while there is no revision. They must not be changed.
	HostSpecs(ctx context.Context) (map[string]*v1.HostSpec, error)
}

// Limits bound consoles. Zero fields have defaults.
type Limits struct {
	// PerNode, PerOperator and Total are how many consoles there are at once: 8, 8 and 64.
	PerNode, PerOperator, Total int
	// Attach is how long the agent may take to open its stream: 15 s.
	Attach time.Duration
	// Start is how long an operator may take to say what to run, and an agent which console it means: 10 s.
	Start time.Duration
	// Idle ends a console over which nothing went: 1 h.
	Idle time.Duration
	// Life ends any console: 12 h.
	Life time.Duration
	// Recheck is how often both identities are looked up again: 2 s.
	Recheck time.Duration
}

func (l *Limits) setDefaults() {
	count := func(field *int, n int) {
		if *field == 0 {
			*field = n
		}
	}
	last := func(field *time.Duration, d time.Duration) {
		if *field == 0 {
			*field = d
		}
	}
	count(&l.PerNode, 8)
	count(&l.PerOperator, 8)
	count(&l.Total, 64)
	last(&l.Attach, 15*time.Second)
	last(&l.Start, 10*time.Second)
	last(&l.Idle, time.Hour)
	last(&l.Life, 12*time.Hour)
	last(&l.Recheck, 2*time.Second)
}

// Config is what Consoles need.
type Config struct {
	Hub      Hub
	Wanted   Wanted
	Recorder *access.Recorder
	// Good says whether an identity still is one; its error ends the caller's consoles. Nil: it always is.
	Good   func(ctx context.Context, caller access.Caller) error
	Clock  clock.Clock
	Log    hclog.Logger
	Limits Limits
}

// Consoles are the consoles that are open. It implements the ConsoleService, and for agents SessionService.Attach.
type Consoles struct {
	v1.UnimplementedConsoleServiceServer
	cfg Config

	mu  sync.Mutex
	all map[string]*link // by attach id
}

// New returns no consoles yet.
func New(cfg Config) *Consoles {
	cfg.Limits.setDefaults()
	if cfg.Good == nil {
		cfg.Good = func(context.Context, access.Caller) error { return nil }
	}
	return &Consoles{cfg: cfg, all: make(map[string]*link)}
}

// buffered is how many messages wait in each direction: with at most 32 KiB each, what one console holds is bounded.
const buffered = 4

// link is one operator at one agent.
type link struct {
	id       string
	node     string
	operator string
	toPeer   chan *v1.ConsoleOutput // from the agent to the operator
	toAgent  chan *v1.ConsoleInput  // from the operator to the agent

	attached chan struct{} // closed when the agent's stream is there
	activity chan struct{} // something went over it

	once  sync.Once
	ended chan struct{}
	cause error // why it ended; nil when the last message was handed on

	taken bool // guarded by Consoles.mu
}

// end ends both streams; the first cause counts.
func (l *link) end(cause error) {
	l.once.Do(func() {
		l.cause = cause
		close(l.ended)
	})
}

func (l *link) touch() {
	select {
	case l.activity <- struct{}{}:
	default:
	}
}

// open makes a console if the limits allow one more.
func (s *Consoles) open(operator, node string) (*link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ofNode, ofOperator := 0, 0
	for _, l := range s.all {
		if l.node == node {
			ofNode++
		}
		if l.operator == operator {
			ofOperator++
		}
	}
	switch most := s.cfg.Limits; {
	case ofNode >= most.PerNode:
		return nil, errs.New(errs.Exhausted, "%d logs and commands are open on node %s already", ofNode, node)
	case ofOperator >= most.PerOperator:
		return nil, errs.New(errs.Exhausted, "%s has %d logs and commands open already", operator, ofOperator)
	case len(s.all) >= most.Total:
		return nil, errs.New(errs.Exhausted, "%d logs and commands are open already", len(s.all))
	}
	l := &link{id: newID(), node: node, operator: operator, toPeer: make(chan *v1.ConsoleOutput, buffered),
		toAgent: make(chan *v1.ConsoleInput, buffered), attached: make(chan struct{}), activity: make(chan struct{}, 1),
		ended: make(chan struct{})}
	s.all[l.id] = l
	return l, nil
}

func (s *Consoles) forget(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, l.id)
}

// take gives a console to the agent's stream that names it: once, and only to the node that was asked.
func (s *Consoles) take(node, id string) (*link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.all[id]
	switch {
	case l == nil || l.taken && l.node == node:
		return nil, errs.New(errs.NotFound, "nobody waits for this stream")
	case l.node != node:
		return nil, errs.New(errs.Denied, "node %s speaks of a console of node %s", node, l.node)
	}
	l.taken = true
	close(l.attached)
	return l, nil
}

// ask sends the task and ends the console if the agent can't do it.
func (s *Consoles) ask(ctx context.Context, l *link, work *v1.AttachTask) {
	work.AttachId = l.id
	task := &v1.Task{Id: "console-" + newID(), NotAfter: timestamppb.New(s.cfg.Clock.Now().Add(s.cfg.Limits.Attach)),
		Work: &v1.Task_Attach{Attach: work}}
	res, err := s.cfg.Hub.DoLive(ctx, l.node, task)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil && isAttached(l): // the stream speaks for itself
		return
	case err != nil:
		l.end(err)
	case res.GetError() != nil:
		e := res.GetError()
		failed := errs.New(errs.Code(e.GetCode()), "%s", e.GetMessage()).At("node "+l.node).WithHint("%s", e.GetHint())
		if !isAttached(l) {
			l.end(failed)
			return
		}
		// Its stream says the same, or was cut; it may still be on its way.
		select {
		case <-l.ended:
		case <-time.After(time.Second):
			l.end(failed)
		}
	case !isAttached(l):
		l.end(errs.New(errs.Internal, "the agent did what was asked without opening a stream").At("node " + l.node))
	}
}

func isAttached(l *link) bool {
	select {
	case <-l.attached:
		return true
	default:
		return false
	}
}

// newID returns 128 random bits in hexadecimal. crypto/rand never fails.
func newID() string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	return hex.EncodeToString(raw)
}
