package timesync

import (
	"context"
	"math"
	"strconv"
	"strings"

	"github.com/infractl/infractl/agent/host"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Report says how well the host keeps time, as its time service says; nil where it has none that is known.
func Report(ctx context.Context, h *host.Host) *v1.ClockReport {
	if h.Has("chronyd") {
		out, err := h.Run(ctx, "chronyc", "-n", "tracking")
		if err != nil { // it does not run
			return &v1.ClockReport{}
		}
		return chronyReport(string(out.Stdout))
	}
	if !h.Has("timedatectl") {
		return nil
	}
	out, err := h.Run(ctx, "timedatectl", "show", "--property=NTPSynchronized", "--value")
	if err != nil {
		return nil
	}
	r := &v1.ClockReport{Synchronised: strings.TrimSpace(string(out.Stdout)) == "yes"}
	if out, err := h.Run(ctx, "timedatectl", "show-timesync"); err == nil {
		timesyncdReport(string(out.Stdout), r)
	}
	return r
}

// chronyReport reads "chronyc -n tracking". Its text says fast or slow, where the numbers of -c leave the sign to the reader.
func chronyReport(text string) *v1.ClockReport {
	r := &v1.ClockReport{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(name) {
		case "Reference ID":
			_, source, _ := strings.Cut(value, "(")
			r.Source = strings.TrimSuffix(source, ")")
		case "Stratum":
			n, _ := strconv.ParseUint(value, 10, 8)
			r.Stratum = uint32(n)
		case "System time":
			f := strings.Fields(value)
			if len(f) < 3 {
				continue
			}
			n, err := strconv.ParseFloat(f[0], 64)
			if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
				continue
			}
			if f[2] == "slow" {
				n = -n
			}
			r.OffsetSeconds = n
		case "Leap status":
			r.Synchronised = value != "Not synchronised"
		}
	}
	return r
}

// timesyncdReport reads "timedatectl show-timesync". It does not say how far the clock is off.
func timesyncdReport(text string, r *v1.ClockReport) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "ServerAddress":
			r.Source = value
		case "NTPMessage":
			_, rest, ok := strings.Cut(value, "Stratum=")
			if digits, _, _ := strings.Cut(rest, ","); ok {
				n, _ := strconv.ParseUint(strings.TrimSpace(digits), 10, 8)
				r.Stratum = uint32(n)
			}
		}
	}
}

// Coarse returns what is worth telling after old: old itself while the clock is as good as it was. A clock that wanders by some
// milliseconds is no news.
func Coarse(old, now *v1.ClockReport) *v1.ClockReport {
	if old == nil || now == nil || old.GetSynchronised() != now.GetSynchronised() || old.GetSource() != now.GetSource() ||
		old.GetStratum() != now.GetStratum() {
		return now
	}
	a, b := old.GetOffsetSeconds(), now.GetOffsetSeconds()
	if math.Abs(a-b) > max(0.02, math.Abs(a)/10) {
		return now
	}
	return old
}
