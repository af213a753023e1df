// Package sessiontest is a server for tests of the agent: the real services over real TLS under an authority of its own,
// with hooks where a test wants another answer.
package sessiontest

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/jointoken"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Site is the site of every test server.
const Site = "lab"

// Server is the fake server. Its exported functions may be set before it is used, and by Set later.
type Server struct {
	v1.UnimplementedEnrolmentServiceServer
	v1.UnimplementedSessionServiceServer

	// Authority issues its certificates.
	Authority *certs.Authority
	// Clock is the server's time.
	Clock clock.Clock
	// EnrolAddress and Address are its listeners.
	EnrolAddress, Address string

	// Enrolled answers an enrolment; nil issues a certificate for node "web1".
	Enrolled func(*v1.EnrolRequest) (*v1.EnrolResponse, error)
	// Call is asked before each call of the session service; an error is the answer.
	Call func(method string, id certs.Identity) error
	// Confirmed answers a Confirm; nil confirms.
	Confirmed func(*v1.ConfirmRequest) (*v1.ConfirmResponse, error)
	// RecoverError is the answer to a Recover; nil recovers.
	RecoverError error
	// Heartbeat is what Welcome asks for; 0 means 50 ms.
	Heartbeat time.Duration

	mu       sync.Mutex
	counter  uint64
	nonce    []byte
	recovers int
	renewals int
	sessions chan *Session
	grpc     []*grpc.Server
}

// Session is one stream of an agent.
type Session struct {
	// Identity is who connected.
	Identity certs.Identity
	// Hello is the first message.
	Hello *v1.Hello
	// Received are the messages after it; closed when the stream ends.
	Received chan *v1.ConnectRequest

	stream grpc.BidiStreamingServer[v1.ConnectRequest, v1.ConnectResponse]
	end    chan error
	once   sync.Once
}

// New starts a server. clk nil means the machine's clock.
func New(t testing.TB, clk clock.Clock) *Server {
	t.Helper()
	if clk == nil {
		clk = clock.System{}
	}
	authority, err := certs.Create(t.TempDir()+"/ca", Site, clk)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Authority: authority, Clock: clk, counter: 1, sessions: make(chan *Session, 64)}
	certificate, err := mtls.NewServerCertificate(mtls.ServerCertificateConfig{Clock: clk, Logger: hclog.NewNullLogger(),
		Issue: func(pub crypto.PublicKey) (*certs.Issued, error) {
			return authority.IssueServer(pub, "server", nil, []net.IP{net.IPv4(127, 0, 0, 1)})
		}})
	if err != nil {
		t.Fatal(err)
	}
	listen := func(client bool, limit int, register func(*grpc.Server)) string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		config := mtls.ServerConfig(mtls.ServerOptions{Certificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return certificate.Get(h)
		}, Roots: authority.RootPool(), Site: Site, Clock: clk, RequireClient: client})
		server := grpc.NewServer(append(mtls.ServerGRPC(limit), grpc.Creds(credentials.NewTLS(config)))...)
		register(server)
		s.grpc = append(s.grpc, server)
		go server.Serve(listener) //nolint:errcheck // ends with Stop
		return listener.Addr().String()
	}
	s.EnrolAddress = listen(false, mtls.MaxEnrolMessage, func(g *grpc.Server) { v1.RegisterEnrolmentServiceServer(g, s) })
	s.Address = listen(true, mtls.MaxMessage, func(g *grpc.Server) { v1.RegisterSessionServiceServer(g, s) })
	t.Cleanup(s.Stop)
	return s
}

// Stop ends the listeners and cuts all connections.
func (s *Server) Stop() {
	for _, g := range s.grpc {
		g.Stop()
	}
}

// Set changes hooks while the server runs.
func (s *Server) Set(change func(*Server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// Token returns the text of a join token for this server.
func (s *Server) Token(t testing.TB, id string) string {
	t.Helper()
	text, err := (&jointoken.Token{Addresses: []string{s.EnrolAddress}, Fingerprint: s.Authority.Fingerprint(), Site: Site,
		ID: id, Secret: jointoken.NewSecret("secret-of-" + id + "-0123456789")}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Issue returns a new identity of node for the key in csr.
func (s *Server) Issue(csr []byte, node string) (*v1.NodeIdentity, error) {
	issued, err := s.Authority.IssueNode(csr, node)
	if err != nil {
		return nil, err
	}
	return &v1.NodeIdentity{Site: Site, Node: node, CertificatePem: issued.ChainPEM, RootPem: s.Authority.RootPEM(),
		ServerAddresses: []string{s.Address}, EnrolAddresses: []string{s.EnrolAddress}}, nil
}

// IssueResponse is the answer of an enrolment that succeeds.
func (s *Server) IssueResponse(csr []byte, node string) (*v1.EnrolResponse, error) {
	id, err := s.Issue(csr, node)
	if err != nil {
		return nil, err
	}
	return &v1.EnrolResponse{State: v1.EnrolmentState_ENROLMENT_STATE_ISSUED, Identity: id,
		ServerTime: timestamppb.New(s.Clock.Now())}, nil
}

// Pending is the answer of an enrolment that waits for approval.
func (s *Server) Pending(again time.Duration) *v1.EnrolResponse {
	return &v1.EnrolResponse{State: v1.EnrolmentState_ENROLMENT_STATE_PENDING, ServerTime: timestamppb.New(s.Clock.Now()),
		RetryAfter: durationpb.New(again)}
}

// Enrol implements the service.
func (s *Server) Enrol(_ context.Context, r *v1.EnrolRequest) (*v1.EnrolResponse, error) {
	s.mu.Lock()
	hook := s.Enrolled
	s.mu.Unlock()
	if hook == nil {
		return s.IssueResponse(r.GetCsr(), "web1")
	}
	response, err := hook(r)
	return response, errs.ToGRPC(err)
}

// Recovers returns how often an identity was recovered, Renewals how often one was renewed.
func (s *Server) Recovers() int { s.mu.Lock(); defer s.mu.Unlock(); return s.recovers }

// Renewals returns how often an identity was renewed.
func (s *Server) Renewals() int { s.mu.Lock(); defer s.mu.Unlock(); return s.renewals }

// Next returns the next session, and fails the test when none comes.
func (s *Server) Next(t testing.TB) *Session {
	t.Helper()
	select {
	case session := <-s.sessions:
		return session
	case <-time.After(10 * time.Second):
		t.Fatal("no session came")
		return nil
	}
}

// NoSession fails the test when a session comes within d.
func (s *Server) NoSession(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-s.sessions:
		t.Fatal("a session came")
	case <-time.After(d):
	}
}

// Send sends a message to the agent.
func (x *Session) Send(t testing.TB, m *v1.ConnectResponse) {
	t.Helper()
	if err := x.stream.Send(m); err != nil {
		t.Fatal(err)
	}
}

// TrySend sends a message that may be refused.
func (x *Session) TrySend(m *v1.ConnectResponse) error { return x.stream.Send(m) }

// SendTask sends a task to the agent.
func (x *Session) SendTask(t testing.TB, task *v1.Task) {
	t.Helper()
	x.Send(t, &v1.ConnectResponse{Message: &v1.ConnectResponse_Task{Task: task}})
}

// Acknowledge acknowledges a result.
func (x *Session) Acknowledge(t testing.TB, id string) {
	t.Helper()
	x.Send(t, &v1.ConnectResponse{Message: &v1.ConnectResponse_Acknowledge{Acknowledge: &v1.TaskAcknowledge{TaskId: id}}})
}

// End ends the stream with err.
func (x *Session) End(err error) { x.once.Do(func() { x.end <- err }) }

// Wait returns the next message for which match holds, and fails the test when none comes.
func (x *Session) Wait(t testing.TB, what string, match func(*v1.ConnectRequest) bool) *v1.ConnectRequest {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case m, ok := <-x.Received:
			if !ok {
				t.Fatalf("the stream ended before: %s", what)
			}
			if match(m) {
				return m
			}
		case <-deadline:
			t.Fatalf("did not come: %s", what)
		}
	}
}

// Result waits for the result of a task.
func (x *Session) Result(t testing.TB, id string) *v1.TaskResult {
	t.Helper()
	return x.Wait(t, "result of "+id, func(m *v1.ConnectRequest) bool { return m.GetResult().GetTaskId() == id }).GetResult()
}

var errNoHello = errors.New("the first message is no Hello")

func (s *Server) allow(ctx context.Context, method string) (certs.Identity, error) {
	id, err := mtls.PeerIdentity(ctx)
	if err != nil {
		return id, err
	}
	s.mu.Lock()
	hook := s.Call
	s.mu.Unlock()
	if hook != nil {
		return id, hook(method, id)
	}
	return id, nil
}

// Connect implements the service.
func (s *Server) Connect(stream grpc.BidiStreamingServer[v1.ConnectRequest, v1.ConnectResponse]) error {
	id, err := s.allow(stream.Context(), "Connect")
	if err != nil {
		return errs.ToGRPC(err)
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetHello() == nil {
		return errNoHello
	}
	s.mu.Lock()
	heartbeat, counter, clk := s.Heartbeat, s.counter, s.Clock
	s.mu.Unlock()
	if heartbeat == 0 {
		heartbeat = 50 * time.Millisecond
	}
	x := &Session{Identity: id, Hello: first.GetHello(), Received: make(chan *v1.ConnectRequest, 1024), stream: stream,
		end: make(chan error, 1)}
	if err := stream.Send(&v1.ConnectResponse{Message: &v1.ConnectResponse_Welcome{Welcome: &v1.Welcome{
		ServerTime: timestamppb.New(clk.Now()), Heartbeat: durationpb.New(heartbeat), SessionId: fmt.Sprintf("%p", x),
		JoinCounter: counter,
	}}}); err != nil {
		return err
	}
	s.sessions <- x
	go func() {
		defer close(x.Received)
		for {
			m, err := stream.Recv()
			if err != nil {
				x.End(nil)
				return
			}
			select {
			case x.Received <- m:
			default: // a test that does not read loses messages
			}
		}
	}()
	return errs.ToGRPC(<-x.end)
}

// Confirm implements the service.
func (s *Server) Confirm(ctx context.Context, r *v1.ConfirmRequest) (*v1.ConfirmResponse, error) {
	if _, err := s.allow(ctx, "Confirm"); err != nil {
		return nil, errs.ToGRPC(err)
	}
	s.mu.Lock()
	hook := s.Confirmed
	s.mu.Unlock()
	if hook == nil {
		return &v1.ConfirmResponse{Decision: v1.ConfirmDecision_CONFIRM_DECISION_CONFIRMED}, nil
	}
	response, err := hook(r)
	return response, errs.ToGRPC(err)
}

// RenewCertificate implements the service.
func (s *Server) RenewCertificate(ctx context.Context, r *v1.RenewCertificateRequest) (*v1.RenewCertificateResponse, error) {
	id, err := s.allow(ctx, "RenewCertificate")
	if err != nil {
		return nil, errs.ToGRPC(err)
	}
	given, err := s.Issue(r.GetCsr(), id.Name)
	if err != nil {
		return nil, errs.ToGRPC(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewals++
	s.counter++
	return &v1.RenewCertificateResponse{Identity: given, JoinCounter: s.counter}, nil
}
