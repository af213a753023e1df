package session

import (
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// Skews returns how far the clocks of the machines with live sessions are ahead, as they last said.
func (h *Hub) Skews() []time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]time.Duration, 0, len(h.live))
	for node := range h.live {
		out = append(out, h.seen[node].skew)
	}
	return out
}

// Reconnect ends all live sessions for a reason that is told to the agents, which come back by themselves and learn the
// server's time anew.
func (h *Hub) Reconnect(reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.live {
		c.end(errs.New(errs.Unavailable, "%s", reason))
	}
}
