package health

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

type world struct {
	*Health
	clock  *clock.Fake
	passed time.Duration
	skews  []time.Duration
	jumps  []time.Duration
	free   uint64
	files  bool
}

func newWorld() *world {
	w := &world{clock: clock.NewFake(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)), free: 1 << 40, files: true}
	w.Health = New(Config{Clock: w.clock, Log: hclog.NewNullLogger(), DataDir: "/data", Skews: func() []time.Duration { return w.skews },
		Jumped:  func(_ context.Context, by time.Duration) { w.jumps = append(w.jumps, by) },
		Elapsed: func() time.Duration { return w.passed }, Room: func(string) (uint64, bool, error) { return w.free, w.files, nil }})
	return w
}

// pass lets time pass, and moves the clock by off besides.
func (w *world) pass(d, off time.Duration) {
	w.passed += d
	w.clock.Advance(d + off)
	w.Look(context.Background())
}

func (w *world) want(t *testing.T, trusted bool, finding string) {
	t.Helper()
	var texts []string
	for _, f := range w.Findings() {
		texts = append(texts, f.GetMessage())
	}
	got := strings.Join(texts, "; ")
	if w.ClockTrusted() != trusted || (finding == "") != (got == "") || !strings.Contains(got, finding) {
		t.Errorf("trusted %v, findings %q; want %v, %q", w.ClockTrusted(), got, trusted, finding)
	}
}

const day = 24 * time.Hour

func TestAJumpIsToldUntilTheClockIsBack(t *testing.T) {
	for _, off := range []time.Duration{day, -day} {
		w := newWorld()
		w.pass(Every, 0)
		w.want(t, true, "")
		w.pass(Every, off)
		w.want(t, false, "clock was put "+way(off)+" by 24h0m0s")
		w.pass(Every, 0)
		w.want(t, false, "clock was put")
		w.pass(Every, -off)
		w.pass(Every, 0)
		w.want(t, true, "")
		if len(w.jumps) != 2 || w.jumps[0] != off || w.jumps[1] != -off {
			t.Errorf("jumps = %v", w.jumps)
		}
	}
}

func TestHostsDecideWhoIsRight(t *testing.T) {
	w := newWorld()
	w.skews = []time.Duration{0, time.Second, -time.Second}
	w.pass(Every, day) // their sessions end, and they come back and say what they think
	w.skews = []time.Duration{-day, -day, 0}
	w.pass(Every, 0)
	w.want(t, false, "2 hosts agree that the server's clock is 24h0m0s ahead")
	w.skews = []time.Duration{0, time.Second, -day} // it was the hosts that were late
	w.pass(Every, 0)
	w.want(t, true, "")
}

func TestAClockThatWasWrongFromTheStartIsToldByTheHosts(t *testing.T) {
	w := newWorld()
	w.skews = []time.Duration{day, day, day + 2*time.Second}
	w.want(t, false, "3 hosts agree that the server's clock is 24h0m0s behind")
	w.skews = []time.Duration{day, 0, -day} // no two agree
	w.want(t, true, "")
	w.skews = []time.Duration{day} // one host alone may be wrong itself
	w.want(t, true, "")
}

func TestAServerWithoutHostsBelievesItsClockAfterAWhile(t *testing.T) {
	w := newWorld()
	w.pass(Every, day)
	w.pass(alone, 0)
	w.want(t, false, "clock was put")
	w.pass(Every, 0)
	w.want(t, true, "")
}

func TestSmallStepsAreNoJumps(t *testing.T) {
	w := newWorld()
	for range 100 {
		w.pass(Every, 10*time.Second)
	}
	w.want(t, true, "")
	if len(w.jumps) > 0 {
		t.Errorf("jumps = %v", w.jumps)
	}
}

func TestTheDiskIsTold(t *testing.T) {
	w := newWorld()
	for _, c := range []struct {
		free     uint64
		files    bool
		want     string
		severity v1.Severity
	}{
		{100 << 20, true, "nearly full: 100 MiB free", v1.Severity_SEVERITY_WARNING},
		{1 << 20, true, "disk is full (1 MiB free): changes are refused, reading goes on", v1.Severity_SEVERITY_ERROR},
		{1 << 40, false, "no more files", v1.Severity_SEVERITY_ERROR},
	} {
		w.free, w.files = c.free, c.files
		w.pass(Every, 0)
		w.want(t, true, c.want)
		if f := w.Findings(); len(f) != 1 || f[0].GetSeverity() != c.severity {
			t.Errorf("findings = %v", f)
		}
	}
	w.free, w.files = 1<<40, true
	w.pass(Every, 0)
	w.want(t, true, "")
}

func TestTheKernelIsAsked(t *testing.T) {
	if free, files, err := room(t.TempDir()); err != nil || !files || free == 0 {
		t.Errorf("room = %d, %v, %v", free, files, err)
	}
	if _, _, err := room("/does/not/exist"); err == nil {
		t.Error("a folder that is not there has room")
	}
}
