package access

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// watcher sees the calls that end before an interceptor: gRPC decodes a unary request first, so that a message that is too
// large or cannot be read never gets to the gate.
type watcher struct{ gate *Gate }

type callState struct {
	method string
	seen   atomic.Bool
}

type callStateKey struct{}

func markSeen(ctx context.Context) {
	if s, ok := ctx.Value(callStateKey{}).(*callState); ok {
		s.seen.Store(true)
	}
}

// TagRPC implements stats.Handler.
func (w watcher) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, callStateKey{}, &callState{method: info.FullMethodName})
}

// HandleRPC implements stats.Handler.
func (w watcher) HandleRPC(ctx context.Context, s stats.RPCStats) {
	end, ok := s.(*stats.End)
	if !ok || end.Error == nil {
		return
	}
	call, ok := ctx.Value(callStateKey{}).(*callState)
	if !ok || call.seen.Load() {
		return
	}
	reason := ReasonMalformed
	switch status.Code(end.Error) {
	case codes.ResourceExhausted:
		reason = ReasonTooLarge
	case codes.Unimplemented:
		reason = ReasonMethod
	case codes.Canceled, codes.Unavailable, codes.DeadlineExceeded, codes.Unknown:
		return // the caller went away
	}
	w.gate.refuse(WithCaller(ctx, w.gate.caller(ctx)), call.method, reason, end.Error)
}

// TagConn implements stats.Handler.
func (w watcher) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (w watcher) HandleConn(context.Context, stats.ConnStats) {}
