package session_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/probe"
	"github.com/infractl/infractl/agent/session"
	"github.com/infractl/infractl/agent/session/sessiontest"
	"github.com/infractl/infractl/internal/clock"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const stateDir = "/var/lib/infractl"

// fakeEngine is an engine whose apply a test can hold.
type fakeEngine struct {
	mu      sync.Mutex
	state   *v1.HostState
	applies int
	hold    chan struct{}
	outcome *v1.ApplyResult
	confirm *v1.ConfirmResponse
}

func (e *fakeEngine) Apply(ctx context.Context, task *v1.ApplyTask, _ string, c session.Confirmer, progress func(v1.Phase, string)) (*v1.ApplyResult, error) {
	progress(v1.Phase_PHASE_WIDENING, "apply")
	e.mu.Lock()
	e.applies++
	hold := e.hold
	e.mu.Unlock()
	if task.GetCommitId() == "panic" {
		panic("defect")
	}
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	answer, err := c.Confirm(ctx, &v1.ConfirmRequest{CommitId: task.GetCommitId()})
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.confirm = answer
	e.state = &v1.HostState{SpecDigest: task.GetSpecDigest()}
	return &v1.ApplyResult{State: e.state}, nil
}

func (e *fakeEngine) Plan(context.Context, *v1.PlanTask) (*v1.PlanResult, error) {
	return &v1.PlanResult{Changes: []*v1.Change{{Provider: "firewall"}}}, nil
}

func (e *fakeEngine) State() *v1.HostState {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state
}

func (e *fakeEngine) Outcome(context.Context, string, v1.Pass) (*v1.ApplyResult, bool) {
	return e.outcome, e.outcome != nil
}

func (e *fakeEngine) count() int { e.mu.Lock(); defer e.mu.Unlock(); return e.applies }

// agent is a machine with a session.
type agent struct {
	t        testing.TB
	host     *host.Host
	clock    *clock.Adjustable
	engine   *fakeEngine
	registry *prometheus.Registry
	server   *sessiontest.Server
	env      map[string]string
	// instances is nil on an agent that manages none.
	instances session.Instances
	// public is nil on an agent without a reverse proxy.
	public session.Public

	store  *enrol.Store
	cancel context.CancelFunc
	ended  chan error
	gone   chan struct{}
	live   *session.Session
}

func newAgent(t testing.TB, server *sessiontest.Server) *agent {
	a := &agent{t: t, host: host.New(host.Config{Root: t.TempDir()}), clock: clock.NewAdjustable(clock.System{}),
		engine: &fakeEngine{state: &v1.HostState{}}, server: server, env: map[string]string{}}
	a.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
	a.write("/etc/infractl/join-token", server.Token(t, "one"))
	a.newStore()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := enrol.New(enrol.Config{Host: a.host, Store: a.store, Log: hclog.NewNullLogger(), Getenv: a.getenv,
		Node: func() string { return "web1" }, Poll: 5 * time.Millisecond}).Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *agent) getenv(name string) string { return a.env[name] }

func (a *agent) newStore() { a.store = enrol.NewStore(a.host, stateDir, enrol.NewClock(a.clock, nil)) }

func (a *agent) write(path, text string) {
	a.t.Helper()
	if _, err := a.host.WriteFile(path, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// start runs the agent and returns its first session.
func (a *agent) start() *sessiontest.Session {
	a.t.Helper()
	a.run()
	x := a.server.Next(a.t)
	eventually(a.t, "welcome taken", func() bool { return a.live.Status().Connected })
	return x
}

func (a *agent) run() {
	a.t.Helper()
	a.newStore()
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel, a.ended, a.registry = cancel, make(chan error, 1), prometheus.NewRegistry()
	s, err := session.New(ctx, session.Config{Host: a.host, Store: a.store, Dir: stateDir + "/tasks", Log: hclog.NewNullLogger(),
		Engine: a.engine, Instances: a.instances, Public: a.public, Prober: probe.New(probe.Config{}), WitnessKey: "ssh-ed25519 AAAA", Version: "test", BootID: "boot",
		Facts:       func(context.Context) *v1.HostFacts { return &v1.HostFacts{Hostname: "web1"} },
		Fingerprint: func() (*v1.HostFingerprint, error) { return enrol.ReadFingerprint(a.host, a.getenv) },
		Registerer:  a.registry, Backoff: enrol.Backoff{Base: time.Millisecond, Max: 20 * time.Millisecond}})
	if err != nil {
		a.t.Fatal(err)
	}
	a.live = s
	ended, gone := a.ended, make(chan struct{})
	a.gone = gone
	go func() {
		defer close(gone)
		ended <- s.Run(ctx)
	}()
	a.t.Cleanup(a.stop)
}

// stop ends the agent's process, as far as a test can.
func (a *agent) stop() {
	a.cancel()
	<-a.gone
	a.live.Wait()
}

func (a *agent) gauge(name string) float64 {
	a.t.Helper()
	families, err := a.registry.Gather()
	if err != nil {
		a.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	a.t.Fatalf("no gauge %s", name)
	return 0
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for range 1000 {
		if cond() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("did not happen: %s", what)
}

func applyTask(id string) *v1.Task {
	return &v1.Task{Id: id, NotAfter: timestamppb.New(time.Now().Add(time.Hour)),
		Work: &v1.Task_Apply{Apply: &v1.ApplyTask{CommitId: "commit-" + id, SpecDigest: "digest-" + id, Pass: v1.Pass_PASS_WIDEN}}}
}

func planTask(id string) *v1.Task {
	return &v1.Task{Id: id, NotAfter: timestamppb.New(time.Now().Add(time.Hour)), Work: &v1.Task_Plan{Plan: &v1.PlanTask{}}}
}

func isReport(m *v1.ConnectRequest) bool { return m.GetReport() != nil }

func TestHelloReportsAndHeartbeats(t *testing.T) {
	server := sessiontest.New(t, nil)
	a := newAgent(t, server)
	x := a.start()
	if h := x.Hello; h.GetProtocol() != 1 || h.GetJoinCounter() != 1 || h.GetBootId() != "boot" || h.GetWitnessKey() == "" ||
		h.GetFingerprint().GetMachineId() == "" || h.GetProbe() {
		t.Errorf("got hello %v", h)
	}
	seen, sequence := &v1.Report{}, uint64(0)
	for seen.GetFacts() == nil || seen.GetState() == nil {
		r := x.Wait(t, "report", isReport).GetReport()
		if sequence++; r.GetSequence() != sequence {
			t.Fatalf("got sequence %d, want %d", r.GetSequence(), sequence)
		}
		if r.GetFacts() != nil {
			seen.Facts = r.GetFacts()
		}
		if r.GetState() != nil {
			seen.State = r.GetState()
		}
	}
	first := x.Wait(t, "heartbeat", func(m *v1.ConnectRequest) bool { return m.GetHeartbeat() != nil }).GetHeartbeat()
	// Unchanged parts are not sent again: until the state changes, only heartbeats come.
	for range 3 {
		m := x.Wait(t, "message", func(*v1.ConnectRequest) bool { return true })
		if m.GetHeartbeat() == nil || m.GetHeartbeat().GetSequence() <= first.GetSequence() {
			t.Errorf("got %v, want a later heartbeat", m)
		}
	}
	a.engine.mu.Lock()
	a.engine.state = &v1.HostState{SpecDigest: "new"}
	a.engine.mu.Unlock()
	r := x.Wait(t, "report of the new state", isReport).GetReport()
	if r.GetFacts() != nil || r.GetState().GetSpecDigest() != "new" || r.GetSequence() != sequence+1 {
		t.Errorf("got %v, want the state alone", r)
	}
	x.Send(t, &v1.ConnectResponse{Message: &v1.ConnectResponse_FullReport{FullReport: &v1.FullReportRequest{}}})
	if r := x.Wait(t, "full report", isReport).GetReport(); r.GetFacts() == nil || r.GetState() == nil {
		t.Errorf("got %v, want all parts", r)
	}
	if up := a.gauge("infractl_agent_session_up"); up != 1 {
		t.Errorf("got session_up %v, want 1", up)
	}
	if at := a.gauge("infractl_certificate_not_after_seconds"); time.Until(time.Unix(int64(at), 0)) < 6*24*time.Hour {
		t.Errorf("got certificate expiry %v", at)
	}
	x.End(nil)
	next := server.Next(t)
	next.Wait(t, "first report of the next session has all parts",
		func(m *v1.ConnectRequest) bool {
			return m.GetReport().GetState() != nil && m.GetReport().GetSequence() == 1
		})
}

func TestApplyIsAcceptedConfirmedAndReplayedUntilAcknowledged(t *testing.T) {
	server := sessiontest.New(t, nil)
	a := newAgent(t, server)
	x := a.start()
	x.SendTask(t, applyTask("t1"))
	x.Wait(t, "accepted", func(m *v1.ConnectRequest) bool { return m.GetAccepted().GetTaskId() == "t1" })
	if r := x.Result(t, "t1"); r.GetError() != nil || r.GetApply().GetState().GetSpecDigest() != "digest-t1" {
		t.Errorf("got %v", r)
	}
	if a.engine.confirm.GetDecision() != v1.ConfirmDecision_CONFIRM_DECISION_CONFIRMED {
		t.Errorf("got confirm %v", a.engine.confirm)
	}
	x.End(nil)
	x = server.Next(t)
	x.Result(t, "t1")
	a.stop()
	x = a.start() // a new process
	x.Result(t, "t1")
	x.SendTask(t, applyTask("t1")) // the same id again
	x.Result(t, "t1")
	x.Acknowledge(t, "t1")
	journal := a.host.Path(stateDir + "/tasks/t1.json")
	eventually(t, "acknowledged on disk", func() bool {
		data, err := os.ReadFile(journal)
		return err == nil && strings.Contains(string(data), `"acknowledged":true`)
	})
	x.End(nil)
	x = server.Next(t)
	x.SendTask(t, planTask("t2"))
	x.Wait(t, "result of t2 and none of t1", func(m *v1.ConnectRequest) bool {
		if m.GetResult().GetTaskId() == "t1" {
			t.Error("t1 came after its acknowledgement")
		}
		return m.GetResult().GetTaskId() == "t2"
	})
	x.SendTask(t, applyTask("t1"))
	x.Result(t, "t1")
	if n := a.engine.count(); n != 1 {
		t.Errorf("got %d applies, want 1", n)
	}
	a.clock.SetOffset(2 * time.Hour) // past not_after: the id may be forgotten
	server.Set(func(s *sessiontest.Server) { s.Clock = a.clock })
	x.Acknowledge(t, "t2")
	eventually(t, "journal empty", func() bool {
		files, err := a.host.Glob(stateDir + "/tasks/*.json")
		return err == nil && len(files) == 0
	})
}

func TestTaskGoesOnWhenTheSessionBreaks(t *testing.T) {
	server := sessiontest.New(t, nil)
	a := newAgent(t, server)
	a.engine.hold = make(chan struct{})
	x := a.start()
	x.SendTask(t, applyTask("t1"))
	eventually(t, "apply runs", func() bool { return a.engine.count() == 1 })
	x.SendTask(t, applyTask("t2"))
	if r := x.Result(t, "t2"); r.GetError().GetCode() != "conflict" {
		t.Errorf("second apply: got %v, want a conflict", r)
	}
	x.SendTask(t, planTask("t3"))
	if r := x.Result(t, "t3"); len(r.GetPlan().GetChanges()) != 1 {
		t.Errorf("plan beside an apply: got %v", r)
	}
	x.End(nil)
	x = server.Next(t)
	x.Wait(t, "accepted again", func(m *v1.ConnectRequest) bool { return m.GetAccepted().GetTaskId() == "t1" })
	close(a.engine.hold)
	if r := x.Result(t, "t1"); r.GetError() != nil {
		t.Errorf("got %v", r)
	}
}

func TestRestartInTheMiddleOfATask(t *testing.T) {
	for name, outcome := range map[string]*v1.ApplyResult{
		"OutcomeKnown":   {Phases: []*v1.PhaseResult{{Outcome: v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED}}},
		"OutcomeUnknown": nil,
	} {
		t.Run(name, func(t *testing.T) {
			server := sessiontest.New(t, nil)
			a := newAgent(t, server)
			a.engine.hold = make(chan struct{})
			x := a.start()
			x.SendTask(t, applyTask("t1"))
			eventually(t, "apply runs", func() bool { return a.engine.count() == 1 })
			a.stop()
			a.engine.outcome = outcome
			r := a.start().Result(t, "t1")
			if outcome != nil && r.GetApply().GetPhases()[0].GetOutcome() != v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED {
				t.Errorf("got %v, want the engine's outcome", r)
			}
			if outcome == nil && r.GetError().GetCode() != "canceled" {
				t.Errorf("got %v, want an error", r)
			}
			if n := a.engine.count(); n != 1 {
				t.Errorf("got %d applies, want 1", n)
			}
		})
	}
}

func TestBadTasks(t *testing.T) {
	server := sessiontest.New(t, nil)
	a := newAgent(t, server)
	x := a.start()
	soon := timestamppb.New(time.Now().Add(time.Minute))
	tests := []struct {
		name string
		task *v1.Task
		want string
	}{
		{"ErrUnknownWork", &v1.Task{Id: "b1", NotAfter: soon}, "invalid"},
		{"ErrTooLate", &v1.Task{Id: "b2", NotAfter: timestamppb.New(time.Now().Add(-time.Minute)),
			Work: &v1.Task_Plan{Plan: &v1.PlanTask{}}}, "precondition"},
		{"ErrNoNotAfter", &v1.Task{Id: "b3", Work: &v1.Task_Plan{Plan: &v1.PlanTask{}}}, "invalid"},
		{"ErrIDThatIsAPath", &v1.Task{Id: "../b4", NotAfter: soon, Work: &v1.Task_Plan{Plan: &v1.PlanTask{}}}, "invalid"},
		{"ErrPanic", &v1.Task{Id: "b5", NotAfter: soon, Work: &v1.Task_Apply{Apply: &v1.ApplyTask{CommitId: "panic"}}}, "internal"},
		{"ErrBadProbe", &v1.Task{Id: "b6", NotAfter: soon, Work: &v1.Task_Probe{Probe: &v1.ProbeTask{
			Probes: []*v1.Probe{{Id: "p", Address: "example.org", Port: 1}}}}}, "invalid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x.SendTask(t, tt.task)
			if r := x.Result(t, tt.task.GetId()); r.GetError().GetCode() != tt.want {
				t.Errorf("got %v, want %s", r, tt.want)
			}
		})
	}
	x.Send(t, &v1.ConnectResponse{}) // an unknown message
	x.SendTask(t, &v1.Task{Id: "l1", NotAfter: soon, Work: &v1.Task_Listen{Listen: &v1.ListenTask{
		Duration: durationpb.New(20 * time.Millisecond)}}})
	x.Wait(t, "listening", func(m *v1.ConnectRequest) bool { return m.GetProgress().GetMessage() == session.ProgressListening })
	x.Result(t, "l1")
}

func TestHugeMessageEndsTheStreamAndNothingElse(t *testing.T) {
	server := sessiontest.New(t, nil)
	a := newAgent(t, server)
	x := a.start()
	huge := applyTask("t1")
	huge.GetApply().Spec = make([]byte, 11<<20)
	// The server's own limit may refuse it already; either way the agent is back and works.
	if x.TrySend(&v1.ConnectResponse{Message: &v1.ConnectResponse_Task{Task: huge}}) != nil {
		x.End(nil)
	}
	x = server.Next(t)
	x.SendTask(t, planTask("t2"))
	x.Result(t, "t2")
	if a.engine.count() != 0 {
		t.Error("the huge task was run")
	}
}

func TestCloneNeverConnects(t *testing.T) {
	server := sessiontest.New(t, nil)
	a := newAgent(t, server)
	x := a.start()
	a.write("/etc/machine-id", "fedcba9876543210fedcba9876543210\n")
	x.End(nil) // a live clone: the process goes on with other hardware
	var cloned *enrol.ClonedError
	select {
	case err := <-a.ended:
		if !errors.As(err, &cloned) {
			t.Fatalf("got %v, want a clone", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the clone goes on")
	}
	server.NoSession(t, 50*time.Millisecond)
}
