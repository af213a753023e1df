package console

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/internal/console"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/store"
)

// incoming turns a stream's messages into a channel, so that a handler can wait for other things too. err is set before the
// channel is closed.
type incoming[T any] struct {
	messages chan *T
	done     chan struct{}
	err      error
}

func receive[T any](ctx context.Context, recv func() (*T, error)) *incoming[T] {
	in := &incoming[T]{messages: make(chan *T), done: make(chan struct{})}
	go func() {
		defer close(in.messages)
		defer close(in.done)
		for {
			m, err := recv()
			if err != nil {
				in.err = err
				return
			}
			select {
			case in.messages <- m:
			case <-ctx.Done():
				in.err = ctx.Err()
				return
			}
		}
	}()
	return in
}

// first waits for the first message.
func (in *incoming[T]) first(ctx context.Context, limit time.Duration) (*T, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case m, ok := <-in.messages:
		if !ok {
			return nil, in.err
		}
		return m, nil
	case <-timer.C:
		return nil, errs.New(errs.Timeout, "nothing was said within %s", limit)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ended reports whether the other side closed its direction in good order.
func (in *incoming[T]) ended() bool {
	select {
	case <-in.done:
		return errors.Is(in.err, io.EOF)
	default:
		return false
	}
}

// watch waits until a console is over, and returns why: nil after the last message.
func (s *Consoles) watch(ctx context.Context, l *link, caller access.Caller, last <-chan struct{}) error {
	limits := s.cfg.Limits
	idle, life, recheck := time.NewTimer(limits.Idle), time.NewTimer(limits.Life), time.NewTicker(limits.Recheck)
	attach := time.NewTimer(limits.Attach)
	defer idle.Stop()
	defer life.Stop()
	defer recheck.Stop()
	defer attach.Stop()
	for {
		select {
		case <-last:
			return nil
		case <-l.ended:
			return l.cause
		case <-ctx.Done():
			return ctx.Err()
		case <-attach.C:
			if !isAttached(l) {
				return errs.New(errs.Timeout, "the agent did not open its stream within %s", limits.Attach).At("node " + l.node)
			}
		case <-l.activity:
			idle.Reset(limits.Idle)
		case <-idle.C:
			return errs.New(errs.Timeout, "nothing went over it for %s, so it was ended", limits.Idle)
		case <-life.C:
			return errs.New(errs.Timeout, "it was open for %s, so it was ended", limits.Life)
		case <-recheck.C:
			if err := s.cfg.Good(ctx, caller); err != nil {
				return err
			}
		}
	}
}

// Attach serves the stream that an agent opened for an AttachTask.
func (s *Consoles) Attach(stream grpc.BidiStreamingServer[v1.AttachRequest, v1.AttachResponse]) error {
	ctx := stream.Context()
	caller := access.CallerFrom(ctx)
	in := receive(ctx, stream.Recv)
	first, err := in.first(ctx, s.cfg.Limits.Start)
	if err != nil {
		return err
	}
	l, err := s.take(caller.Identity.Name, first.GetAttachId())
	if err != nil {
		s.refuse(ctx, caller, access.ReasonForeign, err)
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for {
			select {
			case m := <-l.toAgent:
				if err := stream.Send(&v1.AttachResponse{Input: m}); err != nil {
					return // the receiving side knows why
				}
			case <-l.ended:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	err = s.outputs(ctx, l, in, caller)
	if errs.Is(err, errs.Invalid) {
		s.refuse(ctx, caller, access.ReasonMalformed, err)
	}
	if err != nil {
		l.end(err)
	}
	return err
}

// outputs hands on what the agent says, to the last message; nil when that was handed on or the operator needs no more.
func (s *Consoles) outputs(ctx context.Context, l *link, in *incoming[v1.AttachRequest], caller access.Caller) error {
	recheck := time.NewTicker(s.cfg.Limits.Recheck)
	defer recheck.Stop()
	for {
		var out *v1.ConsoleOutput
		select {
		case m, ok := <-in.messages:
			if !ok {
				return errs.New(errs.Unavailable, "the agent's stream ended before the end of what it carries").At("node " + l.node)
			}
			out = m.GetOutput()
			if err := console.CheckOutput(out); err != nil {
				return err
			}
			if len(out.GetData()) == 0 && !out.GetEnded() {
				continue // the agent looks whether the stream is still there
			}
		case <-recheck.C:
			if err := s.cfg.Good(ctx, caller); err != nil {
				return err
			}
			continue
		case <-l.ended:
			return nil
		case <-ctx.Done():
			return errs.New(errs.Unavailable, "the agent's stream was cut").At("node " + l.node)
		}
		select {
		case l.toPeer <- out:
		case <-l.ended:
			return nil
		case <-ctx.Done():
			return errs.New(errs.Unavailable, "the agent's stream was cut").At("node " + l.node)
		}
		if out.GetEnded() {
			// The operator's side ends the console; until then the stream stays, so that the agent knows when it was heard.
			select {
			case <-l.ended:
			case <-ctx.Done():
			}
			return nil
		}
	}
}

func (s *Consoles) refuse(ctx context.Context, caller access.Caller, reason access.Reason, err error) {
	s.cfg.Recorder.Refused(ctx, reason, store.AuditEntry{Actor: caller.Actor, Source: caller.Address,
		Action: v1.SessionService_Attach_FullMethodName, Node: caller.Identity.Name, Result: string(errs.CodeOf(err)), Message: err.Error()})
}
