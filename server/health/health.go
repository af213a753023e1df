// Package health watches what the server itself stands on: its clock and its disk. What is wrong is logged once, shown in
// status while it lasts, and mended as far as a server can.
package health

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
)

// Every is how often a running server looks.
const Every = 5 * time.Second

const (
	// jump is how far the clock must move against the time that passed before it counts as put forward or back.
	jump = time.Minute
	// agreed is how near the hosts' clocks are to a right one.
	agreed = 30 * time.Second
	// alone is how long a server without hosts doubts its clock after a jump.
	alone = time.Hour
)

// Config is what Health needs.
type Config struct {
	Clock clock.Clock
	Log   hclog.Logger
	// DataDir is a folder on the disk of the database.
	DataDir string
	// Skews returns how far the clocks of the hosts with live sessions are ahead, as they last said.
	Skews func() []time.Duration
	// Jumped is called after the clock was put forward (or back, if by is negative).
	Jumped func(ctx context.Context, by time.Duration)
	// Room returns the free space of the disk in bytes and whether files can be made; nil asks the kernel.
	Room func(dir string) (free uint64, files bool, err error)
	// Elapsed returns the time since some moment, which nobody puts forward or back; nil asks the runtime.
	Elapsed func() time.Duration
}

// Health is the watch. Its methods may be called from many goroutines.
type Health struct {
	cfg Config

	mu   sync.Mutex
	wall time.Time
	mono time.Duration
	// off is how far the clock was put since it was last known to be right; since is when it was.
	off   time.Duration
	since time.Duration
	at    time.Time
	disk  *v1.Finding
}

// New returns a watch that has looked once.
func New(cfg Config) *Health {
	if cfg.Elapsed == nil {
		begun := time.Now()
		cfg.Elapsed = func() time.Duration { return time.Since(begun) }
	}
	if cfg.Room == nil {
		cfg.Room = room
	}
	h := &Health{cfg: cfg}
	h.wall, h.mono = cfg.Clock.Now(), cfg.Elapsed()
	h.disk = h.lookAtDisk()
	return h
}

// Run looks now and then until ctx ends.
func (h *Health) Run(ctx context.Context) error {
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			h.Look(ctx)
		}
	}
}

// Look looks once.
func (h *Health) Look(ctx context.Context) {
	disk := h.lookAtDisk()
	h.mu.Lock()
	before := h.disk
	h.disk = disk
	by := h.lookAtClock()
	h.mu.Unlock()
	switch {
	case disk != nil && (before == nil || before.GetSeverity() != disk.GetSeverity()):
		h.cfg.Log.Error(disk.GetMessage(), "where", disk.GetWhere(), "hint", disk.GetHint())
	case disk == nil && before != nil:
		h.cfg.Log.Info("the disk has room again", "where", before.GetWhere())
	}
	if by != 0 {
		h.cfg.Log.Error("the clock was put "+way(by), "by", by.Abs().Round(time.Second), "now", h.cfg.Clock.Now().UTC())
		h.cfg.Jumped(ctx, by)
	}
}

// lookAtClock compares the clock with the time that passed, and returns by how much it was put.
func (h *Health) lookAtClock() time.Duration {
	wall, mono := h.cfg.Clock.Now(), h.cfg.Elapsed()
	by := wall.Round(0).Sub(h.wall.Round(0)) - (mono - h.mono)
	h.wall, h.mono = wall, mono
	if by.Abs() < jump {
		by = 0
	}
	if by != 0 {
		h.off, h.since, h.at = h.off+by, mono, wall
	}
	if h.off != 0 && by == 0 && (h.off.Abs() < jump || h.hostsAgree() || len(h.cfg.Skews()) == 0 && mono-h.since > alone) {
		h.off = 0
	}
	return by
}

// hostsAgree reports whether most hosts have the server's time.
func (h *Health) hostsAgree() bool {
	skew, n := h.majority()
	return n > 0 && skew.Abs() < agreed
}

// majority returns how far the clocks of most hosts are ahead, and how many they are; 0 when there is no majority.
func (h *Health) majority() (time.Duration, int) {
	skews := slices.Clone(h.cfg.Skews())
	if len(skews) == 0 {
		return 0, 0
	}
	slices.Sort(skews)
	median := skews[len(skews)/2]
	n := 0
	for _, s := range skews {
		if (s - median).Abs() < agreed {
			n++
		}
	}
	if 2*n <= len(skews) {
		return 0, 0
	}
	return median, n
}

// wrong returns how far the hosts say that the server's clock is ahead, when at least two of them agree that it is wrong.
func (h *Health) wrong() (ahead time.Duration, hosts int) {
	skew, n := h.majority()
	if n < 2 || skew.Abs() < jump {
		return 0, 0
	}
	return -skew, n
}

// ClockTrusted reports whether nothing speaks against the clock. What is old by a doubtful clock is not removed.
func (h *Health) ClockTrusted() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, hosts := h.wrong()
	return h.off == 0 && hosts == 0
}

// Findings are what a person should know.
func (h *Health) Findings() []*v1.Finding {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*v1.Finding
	if ahead, n := h.wrong(); n > 0 {
		out = append(out, &v1.Finding{Severity: v1.Severity_SEVERITY_ERROR, Where: "server clock",
			Message: fmt.Sprintf("%d hosts agree that the server's clock is %s %s", n, ahead.Abs().Round(time.Second), side(ahead)),
			Hint:    "on the server: timedatectl; what expires meanwhile is good again once the clock is right"})
	} else if h.off != 0 {
		out = append(out, &v1.Finding{Severity: v1.Severity_SEVERITY_WARNING, Where: "server clock",
			Message: fmt.Sprintf("the server's clock was put %s by %s at %s", way(h.off), h.off.Abs().Round(time.Second),
				h.at.UTC().Format(time.RFC3339)),
			Hint: "if it is wrong now: timedatectl; the finding goes when the hosts agree with the clock"})
	}
	if h.disk != nil {
		out = append(out, h.disk)
	}
	return out
}

func way(d time.Duration) string {
	if d < 0 {
		return "back"
	}
	return "forward"
}

func side(d time.Duration) string {
	if d < 0 {
		return "behind"
	}
	return "ahead"
}

// Site returns a site whose status has the findings too.
func (h *Health) Site(inner fleet.Site) fleet.Site { return site{inner, h} }

type site struct {
	fleet.Site
	health *Health
}

// Status implements fleet.Site.
func (s site) Status(ctx context.Context) (fleet.SiteStatus, error) {
	st, err := s.Site.Status(ctx)
	st.Findings = slices.Concat(st.Findings, s.health.Findings())
	return st, err
}
