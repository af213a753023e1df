package session

import (
	"context"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// AttachStream is the agent's side of SessionService.Attach.
type AttachStream = grpc.BidiStreamingClient[v1.AttachRequest, v1.AttachResponse]

// Consoles carries logs and commands; agent/console implements it.
type Consoles interface {
	// Attach carries one to its end, over a stream that open opens on a connection of its own; done frees that.
	Attach(ctx context.Context, open func(context.Context) (s AttachStream, done func(), err error), task *v1.AttachTask) error
}

// openConsole opens a stream for a console on a connection of its own, so that the session never waits behind it.
func (s *Session) openConsole(ctx context.Context) (AttachStream, func(), error) {
	conn, err := s.apart()
	if err != nil {
		return nil, nil, err
	}
	stream, err := v1.NewSessionServiceClient(conn).Attach(ctx)
	if err != nil {
		conn.Close()
		return nil, nil, errs.FromGRPC(err)
	}
	return stream, func() { conn.Close() }, nil
}

// attachConsole does an AttachTask.
func (t *tasks) attachConsole(work *v1.AttachTask) (*v1.AttachResult, error) {
	return &v1.AttachResult{}, t.consoles.Attach(t.ctx, t.open, work)
}
