package console_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/console"
	"github.com/infractl/infractl/server/session"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/sqlite"
)

// rig is a server with consoles alone; who calls stands in the metadata of the call.
type rig struct {
	*testing.T
	store    *sqlite.Store
	log      bytes.Buffer
	conn     *grpc.ClientConn
	consoles *console.Consoles

	mu    sync.Mutex
	agent func(ctx context.Context, node string, task *v1.AttachTask) (*v1.TaskResult, error)
	bad   map[string]bool
	specs map[string]*v1.HostSpec
}

type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

func newRig(t *testing.T, limits console.Limits) *rig {
	t.Helper()
	r := &rig{T: t, bad: map[string]bool{}, specs: map[string]*v1.HostSpec{
		"web":  stacks("shop", "both"),
		"mail": stacks("both"),
	}}
	var err error
	if r.store, err = sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Clock: clock.System{}, Logger: hclog.NewNullLogger()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.store.Close() })
	if limits.Recheck == 0 {
		limits.Recheck = 10 * time.Millisecond
	}
	log := hclog.New(&hclog.LoggerOptions{Output: &r.log, Level: hclog.Trace})
	r.consoles = console.New(console.Config{Hub: r, Wanted: r, Good: r.good, Clock: clock.System{}, Log: log, Limits: limits,
		Recorder: access.NewRecorder(access.RecorderConfig{Audit: r.store, Clock: clock.System{}, Log: log})})
	server := grpc.NewServer(grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		md, _ := metadata.FromIncomingContext(ss.Context())
		kind, name, _ := strings.Cut(md.Get("who")[0], "/")
		caller := access.Caller{Actor: kind + "/" + name, Identity: certs.Identity{Kind: certs.Kind(kind), Name: name}}
		return errs.ToGRPC(h(srv, stream{ss, access.WithCaller(ss.Context(), caller)}))
	}))
	v1.RegisterConsoleServiceServer(server, r.consoles)
	v1.RegisterSessionServiceServer(server, session.NewService(session.ServiceConfig{Attacher: r.consoles}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(l) // ends with Stop
	t.Cleanup(server.Stop)
	if r.conn, err = grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.conn.Close() })
	return r
}

// stacks is a host with these stacks, and with an instance of the name of each beside it.
func stacks(names ...string) *v1.HostSpec {
	spec := &v1.HostSpec{Containers: &v1.ContainersSpec{}, Dolibarr: &v1.DolibarrSpec{}}
	for _, n := range names {
		spec.Dolibarr.Instances = append(spec.Dolibarr.Instances, &v1.InstanceSpec{Name: n + "-in", Id: "aaaa1111"})
	}
	for _, n := range names {
		spec.Containers.Stacks = append(spec.Containers.Stacks, &v1.StackSpec{Name: n})
	}
	return spec
}

func (r *rig) HostSpecs(context.Context) (map[string]*v1.HostSpec, error) { return r.specs, nil }

func (r *rig) DoLive(ctx context.Context, node string, task *v1.Task) (*v1.TaskResult, error) {
	r.mu.Lock()
	agent := r.agent
	r.mu.Unlock()
	return agent(ctx, node, task.GetAttach())
}

func (r *rig) good(_ context.Context, c access.Caller) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bad[c.Actor] {
		return errs.New(errs.Revoked, "%s was revoked", c.Actor)
	}
	return nil
}

func (r *rig) as(who string) context.Context {
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	r.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "who", who)
}

type attached = grpc.BidiStreamingClient[v1.AttachRequest, v1.AttachResponse]

func (r *rig) attach(node, id string) attached {
	r.Helper()
	s, err := r.tryAttach(node, id)
	if err != nil {
		r.Fatal(err)
	}
	return s
}

func (r *rig) tryAttach(node, id string) (attached, error) {
	s, err := v1.NewSessionServiceClient(r.conn).Attach(r.as("node/" + node))
	if err == nil {
		_ = s.Send(&v1.AttachRequest{Message: &v1.AttachRequest_AttachId{AttachId: id}})
	}
	return s, err
}

func say(s attached, out *v1.ConsoleOutput) error {
	return s.Send(&v1.AttachRequest{Message: &v1.AttachRequest_Output{Output: out}})
}

// act makes the agent attach and do what script says.
func (r *rig) act(script func(s attached, task *v1.AttachTask)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.agent = func(ctx context.Context, node string, task *v1.AttachTask) (*v1.TaskResult, error) {
		s, err := r.tryAttach(node, task.GetAttachId())
		if err != nil {
			return nil, err // the operator was gone before the agent came
		}
		script(s, task)
		return &v1.TaskResult{Outcome: &v1.TaskResult_Attach{}}, nil
	}
}

func (r *rig) logs(req *v1.StreamLogsRequest) (string, error) {
	r.Helper()
	s, err := v1.NewConsoleServiceClient(r.conn).StreamLogs(r.as("operator/anna"), req)
	if err != nil {
		r.Fatal(err)
	}
	var text strings.Builder
	for {
		m, err := s.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return text.String(), errs.FromGRPC(err)
		}
		text.Write(m.GetOutput().GetData())
	}
}

func (r *rig) exec(command *v1.ExecCommand) grpc.BidiStreamingClient[v1.ExecRequest, v1.ExecResponse] {
	r.Helper()
	s, err := v1.NewConsoleServiceClient(r.conn).Exec(r.as("operator/anna"))
	if err != nil {
		r.Fatal(err)
	}
	_ = s.Send(&v1.ExecRequest{Message: &v1.ExecRequest_Start{Start: &v1.ExecStart{Command: command}}})
	return s
}

func input(in *v1.ConsoleInput) *v1.ExecRequest {
	return &v1.ExecRequest{Message: &v1.ExecRequest_Input{Input: in}}
}

func shell() *v1.ExecCommand {
	return &v1.ExecCommand{Stack: "shop", Service: "web", Argv: []string{"cat", "a b"}, User: "root"}
}

func wantCode(t testing.TB, err error, want errs.Code) {
	t.Helper()
	if got := errs.CodeOf(errs.FromGRPC(err)); got != want {
		t.Errorf("code = %q, want %q (%v)", got, want, err)
	}
}

func (r *rig) audited(action string) []store.AuditEntry {
	r.Helper()
	list, err := r.store.ListAudit(r.Context(), store.AuditFilter{Action: action})
	if err != nil {
		r.Fatal(err)
	}
	return list
}

func TestALogFlowsToItsEnd(t *testing.T) {
	r := newRig(t, console.Limits{})
	var asked *v1.LogSource
	r.act(func(s attached, task *v1.AttachTask) {
		asked = task.GetLogs()
		for range 100 {
			_ = say(s, &v1.ConsoleOutput{Data: []byte("line\n")})
		}
		_ = say(s, &v1.ConsoleOutput{Ended: true})
		_, _ = s.Recv()
	})
	text, err := r.logs(&v1.StreamLogsRequest{Node: "web"})
	if err != nil || text != strings.Repeat("line\n", 100) {
		t.Errorf("got %d bytes, %v", len(text), err)
	}
	if asked.GetUnit() != "infractl-agent" {
		t.Errorf("asked for %v", asked)
	}
	if a := r.audited("console.logs"); len(a) != 1 || a[0].Node != "web" || a[0].Actor != "operator/anna" || a[0].Target != "unit infractl-agent" {
		t.Errorf("audit = %+v", a)
	}
}

func TestTheLogOfAnInstanceIsAskedForWhereItIs(t *testing.T) {
	r := newRig(t, console.Limits{})
	r.act(func(s attached, _ *v1.AttachTask) {
		_ = say(s, &v1.ConsoleOutput{Ended: true})
		_, _ = s.Recv()
	})
	if _, err := r.logs(&v1.StreamLogsRequest{Source: &v1.LogSource{Instance: "shop-in", Service: "app"}}); err != nil {
		t.Fatal(err)
	}
	if a := r.audited("console.logs"); len(a) != 1 || a[0].Node != "web" || a[0].Target != "instance/shop-in/app" {
		t.Errorf("audit = %+v", a)
	}
}

func TestACommandTalksBothWays(t *testing.T) {
	r := newRig(t, console.Limits{})
	r.act(func(s attached, _ *v1.AttachTask) {
		for {
			m, err := s.Recv()
			if err != nil {
				return
			}
			in := m.GetInput()
			switch {
			case in.GetEof():
				_ = say(s, &v1.ConsoleOutput{Ended: true, ExitCode: 7})
			case in.GetRows() > 0:
				_ = say(s, &v1.ConsoleOutput{Data: []byte("resized"), Stderr: true})
			default:
				_ = say(s, &v1.ConsoleOutput{Data: in.GetData()})
			}
		}
	})
	s := r.exec(shell())
	for _, step := range []struct {
		send *v1.ConsoleInput
		want string
	}{{&v1.ConsoleInput{Data: []byte("hello")}, "hello"}, {&v1.ConsoleInput{Rows: 10, Columns: 20}, "resized"}} {
		if err := s.Send(input(step.send)); err != nil {
			t.Fatal(err)
		}
		if m, err := s.Recv(); err != nil || string(m.GetOutput().GetData()) != step.want {
			t.Fatalf("got %v, %v, want %q", m, err, step.want)
		}
	}
	if err := s.CloseSend(); err != nil { // as good as an EOF
		t.Fatal(err)
	}
	if m, err := s.Recv(); err != nil || !m.GetOutput().GetEnded() || m.GetOutput().GetExitCode() != 7 {
		t.Fatalf("got %v, %v", m, err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last message: %v", err)
	}
	a := r.audited("console.exec")
	if len(a) != 1 || a[0].Node != "web" || a[0].Target != "shop/web" || a[0].Message != `runs ["cat" "a b"] as root` {
		t.Errorf("audit = %+v", a)
	}
}

func TestWrongRequestsAreRefusedBeforeAnyAgentHearsOfThem(t *testing.T) {
	r := newRig(t, console.Limits{})
	for name, c := range map[string]struct {
		req  *v1.StreamLogsRequest
		want errs.Code
	}{
		"no node":       {&v1.StreamLogsRequest{}, errs.Invalid},
		"odd unit":      {&v1.StreamLogsRequest{Node: "web", Source: &v1.LogSource{Unit: "--flush"}}, errs.Invalid},
		"unknown stack": {&v1.StreamLogsRequest{Source: &v1.LogSource{Stack: "nothing"}}, errs.NotFound},
		"no instance":   {&v1.StreamLogsRequest{Source: &v1.LogSource{Instance: "shop"}}, errs.NotFound},
		"odd part":      {&v1.StreamLogsRequest{Source: &v1.LogSource{Instance: "shop-in", Service: "web"}}, errs.Invalid},
		"elsewhere":     {&v1.StreamLogsRequest{Node: "mail", Source: &v1.LogSource{Stack: "shop"}}, errs.NotFound},
		"two places":    {&v1.StreamLogsRequest{Source: &v1.LogSource{Stack: "both"}}, errs.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.logs(c.req)
			wantCode(t, err, c.want)
		})
	}
	s := r.exec(&v1.ExecCommand{Stack: "shop", Service: "web"})
	_, err := s.Recv()
	wantCode(t, err, errs.Invalid)
}

func TestAnAgentThatCannotOrDoesNotCome(t *testing.T) {
	r := newRig(t, console.Limits{Attach: 100 * time.Millisecond})
	for name, c := range map[string]struct {
		agent func(context.Context, string, *v1.AttachTask) (*v1.TaskResult, error)
		want  errs.Code
	}{
		"away": {func(context.Context, string, *v1.AttachTask) (*v1.TaskResult, error) {
			return nil, errs.New(errs.Unavailable, "the node is away")
		}, errs.Unavailable},
		"refuses": {func(context.Context, string, *v1.AttachTask) (*v1.TaskResult, error) {
			return &v1.TaskResult{Error: &v1.TaskError{Code: "not_found", Message: "no such container"}}, nil
		}, errs.NotFound},
		"silent": {func(ctx context.Context, _ string, _ *v1.AttachTask) (*v1.TaskResult, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, errs.Timeout},
	} {
		t.Run(name, func(t *testing.T) {
			r.mu.Lock()
			r.agent = c.agent
			r.mu.Unlock()
			_, err := r.logs(&v1.StreamLogsRequest{Node: "web"})
			wantCode(t, err, c.want)
		})
	}
}

func TestAnIDIsGoodOnceAndForItsNode(t *testing.T) {
	r := newRig(t, console.Limits{})
	ids, done := make(chan string, 1), make(chan struct{})
	r.act(func(s attached, task *v1.AttachTask) {
		_ = say(s, &v1.ConsoleOutput{Data: []byte("begun")})
		ids <- task.GetAttachId()
		<-done
		_ = say(s, &v1.ConsoleOutput{Ended: true})
		_, _ = s.Recv()
	})
	operator := r.begin() // its first message has come: the id is used
	id := <-ids
	for _, other := range []struct {
		node, id string
		want     errs.Code
	}{{"web", id, errs.NotFound}, {"mail", id, errs.Denied}, {"web", "guess", errs.NotFound}} {
		_, err := r.attach(other.node, other.id).Recv()
		wantCode(t, err, other.want)
	}
	close(done)
	if m, err := operator.Recv(); err != nil || !m.GetOutput().GetEnded() {
		t.Errorf("got %v, %v", m, err)
	}
	if a := r.audited(v1.SessionService_Attach_FullMethodName); len(a) != 3 {
		t.Errorf("%d refusals are audited, want 3", len(a))
	}
}

func TestAnAgentThatDiesEndsTheConsole(t *testing.T) {
	r := newRig(t, console.Limits{})
	r.mu.Lock()
	r.agent = func(_ context.Context, node string, task *v1.AttachTask) (*v1.TaskResult, error) {
		ctx, cancel := context.WithCancel(r.as("node/" + node))
		s, err := v1.NewSessionServiceClient(r.conn).Attach(ctx)
		if err == nil {
			_ = s.Send(&v1.AttachRequest{Message: &v1.AttachRequest_AttachId{AttachId: task.GetAttachId()}})
			_ = say(s, &v1.ConsoleOutput{Data: []byte("half a l")})
			time.Sleep(50 * time.Millisecond)
		}
		cancel()
		return nil, errs.New(errs.Timeout, "gave up")
	}
	r.mu.Unlock()
	text, err := r.logs(&v1.StreamLogsRequest{Node: "web"})
	wantCode(t, err, errs.Unavailable)
	if text != "half a l" {
		t.Errorf("got %q", text)
	}
}

func TestOversizeFramesAreRefused(t *testing.T) {
	r := newRig(t, console.Limits{})
	r.act(func(s attached, _ *v1.AttachTask) {
		_ = say(s, &v1.ConsoleOutput{Data: make([]byte, 32<<10+1)})
		_, _ = s.Recv()
	})
	_, err := r.logs(&v1.StreamLogsRequest{Node: "web"})
	wantCode(t, err, errs.Invalid)
	s := r.exec(shell())
	_ = s.Send(input(&v1.ConsoleInput{Data: make([]byte, 32<<10+1)}))
	_, err = s.Recv()
	wantCode(t, err, errs.Invalid)
}

// hang is an agent that follows a log until it is cut; ended tells why.
func (r *rig) hang(ended chan<- error) {
	r.act(func(s attached, _ *v1.AttachTask) {
		_ = say(s, &v1.ConsoleOutput{Data: []byte("begun")})
		_, err := s.Recv()
		ended <- err
	})
}

func (r *rig) begin() grpc.ServerStreamingClient[v1.StreamLogsResponse] {
	r.Helper()
	s, err := v1.NewConsoleServiceClient(r.conn).StreamLogs(r.as("operator/anna"), &v1.StreamLogsRequest{Node: "web"})
	if err != nil {
		r.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		r.Fatal(err)
	}
	return s
}

func TestWhoeverIsRevokedIsCutMidStream(t *testing.T) {
	for _, who := range []string{"operator/anna", "node/web"} {
		t.Run(who, func(t *testing.T) {
			r := newRig(t, console.Limits{})
			ended := make(chan error, 1)
			r.hang(ended)
			s := r.begin()
			r.mu.Lock()
			r.bad[who] = true
			r.mu.Unlock()
			_, err := s.Recv()
			wantCode(t, err, errs.Revoked)
			<-ended // and the agent's stream is over too
		})
	}
}

func TestTheAgentIsCutWhenTheOperatorGoes(t *testing.T) {
	r := newRig(t, console.Limits{})
	ended := make(chan error, 1)
	r.hang(ended)
	ctx, cancel := context.WithCancel(r.as("operator/anna"))
	s, err := v1.NewConsoleServiceClient(r.conn).StreamLogs(ctx, &v1.StreamLogsRequest{Node: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-ended
}

func TestLimitsOfTime(t *testing.T) {
	for name, limits := range map[string]console.Limits{
		"idle": {Idle: 50 * time.Millisecond}, "life": {Life: 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, limits)
			ended := make(chan error, 1)
			r.hang(ended)
			_, err := r.begin().Recv()
			wantCode(t, err, errs.Timeout)
			<-ended
		})
	}
}

func TestLimitsOfNumber(t *testing.T) {
	for name, limits := range map[string]console.Limits{"node": {PerNode: 2}, "operator": {PerOperator: 2}, "total": {Total: 2}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, limits)
			r.hang(make(chan error, 3))
			r.begin()
			r.begin()
			_, err := r.logs(&v1.StreamLogsRequest{Node: "web"})
			wantCode(t, err, errs.Exhausted)
		})
	}
}

// TestASlowReaderHoldsTheAgentBack counts what an agent can say to an operator who does not listen.
func TestASlowReaderHoldsTheAgentBack(t *testing.T) {
	r := newRig(t, console.Limits{})
	said := make(chan int, 1)
	frame := make([]byte, 32<<10)
	r.act(func(s attached, _ *v1.AttachTask) {
		n := 0
		defer func() { said <- n }()
		for n < 64<<20 {
			if say(s, &v1.ConsoleOutput{Data: frame}) != nil {
				return
			}
			n += len(frame)
		}
	})
	ctx, cancel := context.WithCancel(r.as("operator/anna"))
	defer cancel()
	s, err := v1.NewConsoleServiceClient(r.conn).StreamLogs(ctx, &v1.StreamLogsRequest{Node: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	select {
	case n := <-said:
		t.Errorf("the agent got rid of %d MiB while nobody listened", n>>20)
	case <-time.After(500 * time.Millisecond):
	}
	cancel()
	if n := <-said; n >= 64<<20 {
		t.Errorf("all %d MiB went somewhere", n>>20)
	}
}
