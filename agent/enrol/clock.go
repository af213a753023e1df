package enrol

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/internal/clock"
)

// stepLimit is the difference between two clocks above which one of them was set by hand or by NTP.
const stepLimit = 500 * time.Millisecond

// Clock is the agent's clock: the machine's, corrected to the server's. Once it knows the server's time it goes on evenly
// even when the machine's clock is set meanwhile, which is just what an apply does that brings time synchronisation.
type Clock struct {
	base   clock.Clock
	steady func() time.Duration

	mu     sync.Mutex
	offset time.Duration
	wall   time.Time
	mark   time.Duration
}

// NewClock returns a clock that follows base until Follow is called. steady returns a time that nobody sets (see Boottime);
// nil means that steps of base are not looked for.
func NewClock(base clock.Clock, steady func() time.Duration) *Clock {
	c := &Clock{base: base, steady: steady, wall: base.Now().Round(0)}
	if steady != nil {
		c.mark = steady()
	}
	return c
}

// Now implements clock.Clock: the corrected time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read().Add(c.offset)
}

// read returns the machine's time and takes a step of it out of the offset.
func (c *Clock) read() time.Time {
	wall := c.base.Now().Round(0) // wall time alone: a monotonic reading would hide the step
	if c.steady == nil {
		return wall
	}
	mark := c.steady()
	if step := wall.Sub(c.wall) - (mark - c.mark); step.Abs() > stepLimit {
		c.offset -= step
	}
	c.wall, c.mark = wall, mark
	return wall
}

// Machine returns the machine's own time.
func (c *Clock) Machine() time.Time { return c.base.Now() }

// Offset returns how far the right time is ahead of the machine's.
func (c *Clock) Offset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read()
	return c.offset
}

// SetOffset sets how far the right time is ahead of the machine's.
func (c *Clock) SetOffset(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read()
	c.offset = d
}

// Follow corrects the clock to the server's time and returns how far it moved.
func (c *Clock) Follow(server time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	offset := server.Sub(c.read())
	moved := offset - c.offset
	c.offset = offset
	return moved
}

// Boottime returns the time since the machine started, suspension included.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // no kernel that runs this agent lacks the clock
	}
	return time.Duration(ts.Nano())
}
