package access

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/infractl/infractl/certs"
)

// Live knows the calls of operators that are under way, so that an identity or a role that is withdrawn ends them at once.
type Live struct {
	mu    sync.Mutex
	calls map[string]map[*liveCall]struct{}
}

// NewLive returns an empty Live. All gates that operators come through share one.
func NewLive() *Live { return &Live{calls: make(map[string]map[*liveCall]struct{})} }

// liveCall is one call under way; its context ends when the call is cut.
type liveCall struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	rule   Rule
}

// cutError is the cause of a context that Cut has ended.
type cutError struct{ err error }

func (c *cutError) Error() string { return c.err.Error() }
func (c *cutError) Unwrap() error { return c.err }

// begin notes a call before its caller is looked up, so that no removal falls between the two. The caller calls end.
func (l *Live) begin(ctx context.Context, operator string, rule Rule) (call *liveCall, end func()) {
	call = &liveCall{rule: rule}
	call.ctx, call.cancel = context.WithCancelCause(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls[operator] == nil {
		l.calls[operator] = make(map[*liveCall]struct{})
	}
	l.calls[operator][call] = struct{}{}
	return call, func() {
		call.cancel(nil)
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.calls[operator], call)
		if len(l.calls[operator]) == 0 {
			delete(l.calls, operator)
		}
	}
}

// Calls returns how many calls an operator has under way.
func (l *Live) Calls(operator string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.calls[operator])
}

// Cut ends an operator's calls with an error, but for those that keep (nil: none) says may go on.
func (l *Live) Cut(operator string, err error, keep func(Rule) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for call := range l.calls[operator] {
		if keep == nil || !keep(call.rule) {
			call.cancel(&cutError{err})
		}
	}
}

// verdict is the error of a call: that of the cut, if it was cut.
func (c *liveCall) verdict(err error) error {
	var cut *cutError
	if c != nil && errors.As(context.Cause(c.ctx), &cut) {
		return cut.err
	}
	return err
}

// cutGrace is how long a handler may take to notice that its call was cut; what it says then reaches nobody any more.
const cutGrace = time.Second

// run calls f and returns its error, or that of the cut soon after it: f may hang on a peer that says nothing, and the end of
// the stream frees it.
func (c *liveCall) run(f func() error) error {
	if c == nil {
		return f()
	}
	ended := make(chan error, 1)
	go func() { ended <- f() }()
	select {
	case err := <-ended:
		return c.verdict(err)
	case <-c.ctx.Done():
	}
	if c.verdict(nil) == nil { // the caller went away: what is under way goes on to its end
		return <-ended
	}
	grace := time.NewTimer(cutGrace)
	defer grace.Stop()
	select {
	case err := <-ended:
		return c.verdict(err)
	case <-grace.C:
		return c.verdict(c.ctx.Err())
	}
}

// live notes the call of an operator; for everybody else it does nothing.
func (g *Gate) live(ctx context.Context, method string) (*liveCall, context.Context, func()) {
	if g.cfg.Listener != Main || g.cfg.Live == nil {
		return nil, ctx, func() {}
	}
	c := g.caller(ctx)
	if c.Identity.Kind != certs.KindOperator {
		return nil, ctx, func() {}
	}
	call, end := g.cfg.Live.begin(ctx, c.Identity.Name, g.cfg.Table[method])
	left := c.Identity.NotAfter.Sub(g.cfg.Clock.Now()) // a stream does not outlive the certificate that opened it
	limit, stop := context.WithTimeout(call.ctx, max(left, 0))
	return call, limit, func() { stop(); end() }
}
