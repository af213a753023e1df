package identity

import (
	"strings"
	"testing"
	"time"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
)

func TestClockProblems(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	node := func(r *v1.ClockReport, since time.Duration) fleet.Node {
		return fleet.Node{Clock: fleet.Msg[*v1.ClockReport]{M: r}, ClockSince: now.Add(-since)}
	}
	synced := func(offset float64) *v1.ClockReport {
		return &v1.ClockReport{Synchronised: true, OffsetSeconds: offset, Source: "10.0.10.1"}
	}
	for name, c := range map[string]struct {
		node fleet.Node
		want string
	}{
		"never reported":            {fleet.Node{}, ""},
		"in step":                   {node(synced(0.05), time.Hour), ""},
		"ahead":                     {node(synced(0.2), time.Hour), "0.20 s ahead of 10.0.10.1"},
		"behind":                    {node(synced(-3), time.Hour), "3.00 s behind 10.0.10.1"},
		"just started":              {node(&v1.ClockReport{}, 9*time.Minute), ""},
		"alone for a quarter of it": {node(&v1.ClockReport{}, 15*time.Minute), "follows no source since 2026-01-02T02:49:05Z"},
	} {
		got := clockProblem(c.node, now)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
