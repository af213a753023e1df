package instance

import (
	"context"
	"sync"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

const (
	// madePerHost is how many instances are made at once on a host, if it has twice as many cores: each keeps one busy from its network to
	// its login page, and half of them belongs to the neighbours' pages.
	madePerHost = 4
	// turnLimit is how long a creation keeps its turn: one that hangs must not keep the others waiting.
	turnLimit = 2 * time.Minute
)

// turns bound how many instances are made at once on a host.
type turns struct {
	mu    sync.Mutex
	hosts map[string]chan struct{}
	// held give the turns of operations back.
	held map[string]func()
}

// take waits until an operation has its turn on a host; it may have it already. waits is called when it is not there at once.
func (t *turns) take(ctx context.Context, op, host string, cores int, waits func()) error {
	t.mu.Lock()
	if t.held[op] != nil {
		t.mu.Unlock()
		return nil
	}
	turn := t.hosts[host]
	if turn == nil {
		turn = make(chan struct{}, min(max(1, cores/2), madePerHost))
		t.hosts[host] = turn
	}
	t.mu.Unlock()
	select {
	case turn <- struct{}{}:
	default:
		waits()
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return errs.Wrap("wait for other creations on "+host, ctx.Err())
		}
	}
	give := sync.OnceFunc(func() { <-turn })
	timer := time.AfterFunc(turnLimit, give)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held[op] = func() {
		timer.Stop()
		give()
	}
	return nil
}

// end gives the turn of an operation back, if it has one.
func (t *turns) end(op string) {
	t.mu.Lock()
	give := t.held[op]
	delete(t.held, op)
	t.mu.Unlock()
	if give != nil {
		give()
	}
}
