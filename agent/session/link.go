package session

import (
	"context"
	"crypto/tls"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// welcomeTimeout bounds connection, handshake and Welcome.
	welcomeTimeout = 15 * time.Second
	// Bounds of the heartbeat that a server may ask for, and what is used when it asks for none.
	minHeartbeat     = 10 * time.Millisecond
	maxHeartbeat     = 5 * time.Minute
	defaultHeartbeat = 15 * time.Second
)

// link is one connection with its stream.
type link struct {
	*Session
	id       *enrol.Identity
	conn     *enrol.Conn
	client   v1.SessionServiceClient
	queue    *queue
	welcomed bool
	sequence uint64 // messages sent in this session
	again    chan struct{}
}

type stream = grpc.BidiStreamingClient[v1.ConnectRequest, v1.ConnectResponse]

func clientTLS(id *enrol.Identity, clk *enrol.Clock) (*tls.Config, error) {
	return mtls.ClientConfig(mtls.ClientOptions{RootPEM: id.RootPEM, Site: id.Identity.Site, Clock: clk,
		Certificate: func() (*tls.Certificate, error) { return id.TLS, nil }})
}

func (s *Session) dial(id *enrol.Identity, try int) (*link, error) {
	config, err := clientTLS(id, s.clock)
	if err != nil {
		return nil, err
	}
	conn, err := enrol.Dial(id.Servers, try, config)
	if err != nil {
		return nil, err
	}
	return &link{Session: s, id: id, conn: conn, client: v1.NewSessionServiceClient(conn), queue: newQueue(),
		again: make(chan struct{}, 1)}, nil
}

// run opens the stream and serves it to its end. The error is the stream's as gRPC gave it, or errAgain.
func (l *link) run(ctx context.Context, fingerprint *v1.HostFingerprint) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(welcomeTimeout, cancel)
	defer late.Stop()
	out, err := l.client.Connect(ctx)
	if err != nil {
		return err
	}
	hello := &v1.Hello{AgentVersion: l.cfg.Version, Protocol: Protocol, BootId: l.cfg.BootID, Fingerprint: fingerprint,
		LocalTime: timestamppb.New(l.clock.Machine()), JoinCounter: l.store.JoinCounter(), Probe: l.cfg.Engine == nil,
		WitnessKey: l.cfg.WitnessKey}
	// An error of Send says only that the stream ended; Recv says why.
	_ = out.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Hello{Hello: hello}})
	first, err := out.Recv()
	if err != nil {
		if !late.Stop() && ctx.Err() != nil {
			return errs.New(errs.Timeout, "the server did not answer within %s", welcomeTimeout)
		}
		return err
	}
	if !late.Stop() {
		return errs.New(errs.Timeout, "the server did not answer within %s", welcomeTimeout)
	}
	welcome := first.GetWelcome()
	if welcome == nil || welcome.GetServerTime() == nil {
		return errs.New(errs.Internal, "the server's first message is no welcome")
	}
	l.welcome(welcome)
	return l.serve(ctx, cancel, out, heartbeatOf(welcome))
}

func heartbeatOf(w *v1.Welcome) time.Duration {
	if w.GetHeartbeat() == nil {
		return defaultHeartbeat
	}
	return min(max(w.GetHeartbeat().AsDuration(), minHeartbeat), maxHeartbeat)
}

// welcome takes what the server says about time, counter and certificate.
func (l *link) welcome(w *v1.Welcome) {
	l.welcomed = true
	if moved := l.clock.Follow(w.GetServerTime().AsTime()); moved.Abs() > 2*time.Second {
		l.log.Info("clock follows the server's", "moved", moved.Round(time.Millisecond))
	}
	if err := l.store.KeepCounter(w.GetJoinCounter()); err != nil {
		l.log.Error("cannot keep the join counter", "error", err)
	}
	if err := l.store.SaveClock(); err != nil {
		l.log.Warn("cannot keep the clock's correction", "error", err)
	}
	l.proven()
	l.gauges.up.Set(1)
	l.log.Info("session began", "session", w.GetSessionId(), "server", l.conn.Peer(), "serial", l.id.Serial())
	l.setStatus(Status{Connected: true, Server: l.conn.Peer(), SessionID: w.GetSessionId()})
}

// serve sends and receives until the stream ends.
func (l *link) serve(ctx context.Context, cancel context.CancelFunc, out stream, heartbeat time.Duration) error {
	l.reporter.restart()
	l.tasks.attach(l.queue)
	defer l.tasks.detach()
	l.queue.putReport()            // the state at once,
	go l.report(ctx, factsEvery/2) // and the facts as soon as they are read

	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if l.send(ctx, out) != nil {
			cancel()
		}
	}()
	received := make(chan error, 1)
	go func() { received <- l.receive(out) }()
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	var err error
	for err == nil {
		select {
		case err = <-received:
		case <-l.again:
			err = errAgain
		case <-ticker.C:
			err = l.tick(ctx)
		}
	}
	cancel()
	<-sent
	return err
}

// tick is what happens with each heartbeat.
func (l *link) tick(ctx context.Context) error {
	l.queue.putHeartbeat()
	l.queue.putReport()
	l.tasks.resend(resendAfter)
	l.tasks.journal.prune(l.clock.Now())
	go l.report(ctx, factsEvery)
	if err := l.store.SaveClock(); err != nil {
		l.log.Warn("cannot keep the clock's correction", "error", err)
	}
	return l.renewWhenDue(ctx)
}

func (l *link) send(ctx context.Context, out stream) error {
	heartbeat := func() *v1.ConnectRequest {
		return &v1.ConnectRequest{Message: &v1.ConnectRequest_Heartbeat{Heartbeat: &v1.Heartbeat{
			Sequence: l.sequence + 1, LocalTime: timestamppb.New(l.clock.Machine())}}}
	}
	for {
		for m := l.queue.next(heartbeat, l.reporter.next); m != nil; m = l.queue.next(heartbeat, l.reporter.next) {
			if err := out.Send(m); err != nil {
				return err
			}
			l.sequence++
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.queue.wake:
		case e := <-l.events:
			err := out.Send(e.msg)
			e.sent <- err
			if err != nil {
				return err
			}
			l.sequence++
		}
	}
}

func (l *link) receive(out stream) error {
	for {
		m, err := out.Recv()
		if err != nil {
			return err
		}
		switch m := m.GetMessage().(type) {
		case *v1.ConnectResponse_Task:
			l.tasks.handle(m.Task)
		case *v1.ConnectResponse_Acknowledge:
			l.tasks.journal.acknowledge(m.Acknowledge.GetTaskId())
		case *v1.ConnectResponse_FullReport:
			l.reporter.full()
			l.queue.putReport()
		default:
			// A newer server's message, or a second Welcome: nothing that this agent could obey.
			l.log.Debug("unknown message passed over")
		}
	}
}
