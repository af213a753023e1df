package timesync

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const tracking = `Reference ID    : CB007103 (203.0.113.3)
Stratum         : 9
Ref time (UTC)  : Tue Nov 24 20:41:07 2026
System time     : 0.250000124 seconds slow of NTP time
Last offset     : +0.000004163 seconds
Leap status     : Normal
`

func TestClockReports(t *testing.T) {
	for name, c := range map[string]struct {
		got, want *v1.ClockReport
	}{
		"slow is negative": {chronyReport(tracking),
			&v1.ClockReport{Synchronised: true, OffsetSeconds: -0.250000124, Source: "203.0.113.3", Stratum: 9}},
		"nobody is followed": {chronyReport("Reference ID    : 00000000 ()\nStratum         : 0\n" +
			"System time     : 0.000000000 seconds fast of NTP time\nLeap status     : Not synchronised\n"), &v1.ClockReport{}},
		"something else": {chronyReport("506 Cannot talk to daemon\nSystem time : NaN seconds\n"), &v1.ClockReport{}},
	} {
		if d := cmp.Diff(c.want, c.got, protocmp.Transform()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	got := &v1.ClockReport{Synchronised: true}
	timesyncdReport("SystemNTPServers=10.0.10.1\nServerAddress=10.0.10.1\nNTPMessage={ Leap=0, Version=4, Mode=4, Stratum=3, Precision=-24 }\n", got)
	if d := cmp.Diff(&v1.ClockReport{Synchronised: true, Source: "10.0.10.1", Stratum: 3}, got, protocmp.Transform()); d != "" {
		t.Errorf("timesyncd (-want +got):\n%s", d)
	}
}

func TestOnlyNewsOfTheClockAreTold(t *testing.T) {
	clock := func(synchronised bool, offset float64) *v1.ClockReport {
		return &v1.ClockReport{Synchronised: synchronised, OffsetSeconds: offset, Source: "10.0.10.1"}
	}
	for name, c := range map[string]struct {
		old, now *v1.ClockReport
		told     bool
	}{
		"first look":        {nil, clock(true, 0), true},
		"wanders":           {clock(true, 0.001), clock(true, -0.004), false},
		"jumps":             {clock(true, 0.001), clock(true, 0.2), true},
		"far off, wanders":  {clock(true, 10), clock(true, 10.5), false},
		"lost its source":   {clock(true, 0), clock(false, 0), true},
		"service went away": {clock(true, 0), nil, true},
	} {
		if got := Coarse(c.old, c.now); (got == c.now) != c.told {
			t.Errorf("%s: told %v, want %v", name, got == c.now, c.told)
		}
	}
}
