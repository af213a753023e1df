package cmd

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func usageOf(cpu float64, containers int) *v1.GetUsageResponse {
	r := &v1.UsageResult{Host: &v1.Usage{Cpu: cpu, Cpus: 2, MemoryBytes: 1 << 30, MemoryLimitBytes: 2 << 30}}
	for range containers {
		r.Containers = append(r.Containers, &v1.Usage{Name: "c", Cpus: 2})
	}
	return &v1.GetUsageResponse{Nodes: []*v1.NodeUsage{{Node: "web", Usage: r}}}
}

func TestLiveTableIsOneFrameThatFits(t *testing.T) {
	v := &topView{sort: "name", history: map[string][]float64{}}
	for i := range maxHistory + 3 {
		v.take(usageOf(float64(i%3), 40))
	}
	var out bytes.Buffer
	if err := v.draw(&out, time.Unix(0, 0), nil, 100, 20); err != nil {
		t.Fatal(err)
	}
	frame := out.String()
	if !strings.HasPrefix(frame, "\x1b[H") || strings.Contains(frame, "\x1b[2J") {
		t.Errorf("the frame clears the screen first, which flickers: %q", frame[:20])
	}
	lines := strings.Split(strings.TrimSuffix(frame, "\r\n\x1b[J"), "\r\n")
	if len(lines) > 19 {
		t.Errorf("%d lines on a screen of 20", len(lines))
	}
	for _, line := range lines {
		if n := len([]rune(strings.NewReplacer("\x1b[K", "", "\x1b[H", "").Replace(line))); n > 100 {
			t.Errorf("%d columns on a screen of 100: %q", n, line)
		}
	}
	if !strings.Contains(frame, "more lines") {
		t.Error("nothing says that lines are left out")
	}
	out.Reset()
	if err := v.draw(&out, time.Unix(0, 0), errs.New(errs.Unavailable, "gone\x1b[31m"), 100, 20); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "asking again") || strings.Contains(out.String(), "\x1b[31m") {
		t.Errorf("frame = %q", out.String())
	}
}

func TestBarsAndSparks(t *testing.T) {
	for share, want := range map[float64]string{0: "[        ]", 0.5: "[████    ]", 1: "[████████]", 0.0625: "[▌       ]"} {
		if got := bar(share); got != want {
			t.Errorf("bar(%v) = %q, want %q", share, got, want)
		}
	}
	if got := spark([]float64{0, 0.5, 1}); got != "▁▅█         " {
		t.Errorf("spark = %q", got)
	}
	for n, want := range map[float64]string{0: "0 B", 999: "999 B", 1000: "0.977 KiB", 1 << 30: "1 GiB", 123456789: "118 MiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%v) = %q, want %q", n, got, want)
		}
	}
}
