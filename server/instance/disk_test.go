package instance_test

import (
	"strings"
	"testing"
	"time"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// holds makes an instance's host say what the instance holds, and lets time pass until it is asked again.
func (s *server) holds(name string, used, limit, free uint64, full bool) *v1.Instance {
	s.t.Helper()
	i := s.get(name)
	s.mu.Lock()
	s.hosts[i.GetNode()].disk = &v1.UsageResult{InstanceSpaceBytes: 100 << 30, InstanceSpaceFreeBytes: free,
		Instances: []*v1.InstanceDisk{{Id: "elsewher", Bytes: 1}, {Id: i.GetId(), Bytes: used, LimitBytes: limit, Full: full}}}
	s.mu.Unlock()
	s.clock.Advance(time.Minute)
	return s.get(name)
}

func (s *server) findings() string {
	s.t.Helper()
	list, err := s.instances.Findings(ctx())
	if err != nil {
		s.t.Fatalf("findings: %v", err)
	}
	var lines []string
	for _, f := range list {
		lines = append(lines, strings.ToLower(strings.TrimPrefix(f.GetSeverity().String(), "SEVERITY_"))+" "+f.GetWhere()+": "+f.GetMessage())
	}
	return strings.Join(lines, "\n")
}

func TestDiskIsShownAndSaid(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	if i := s.get("acme"); i.GetDisk() != nil {
		t.Errorf("it holds %v before anything was measured", i.GetDisk())
	}
	for name, c := range map[string]struct {
		used, free uint64
		full       bool
		want       string
	}{
		"room":            {89 << 20, 50 << 30, false, ""},
		"near":            {91 << 20, 50 << 30, false, "warning instance acme: its disk space is nearly used up: 91 of 100 MiB"},
		"full":            {96 << 20, 50 << 30, true, "error instance acme: its disk space is used up (96 of 100 MiB): uploads are refused"},
		"host":            {89 << 20, 5 << 30, false, "warning node srv-prod: the disk of its instances is nearly full: 5120 of 102400 MiB are free"},
		"host at its end": {89 << 20, 1000 << 20, false, "error node srv-prod: the disk of its instances is nearly full: 1000 of 102400 MiB are free"},
		"other":           {89 << 20, 101 << 30, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			i := s.holds("acme", c.used, 100<<20, c.free, c.full)
			if i.GetDisk().GetBytes() != c.used || i.GetDisk().GetFull() != c.full || i.GetUsage().GetDiskBytes() != c.used {
				t.Errorf("shown as %v, %v", i.GetDisk(), i.GetUsage())
			}
			if got := s.findings(); got != c.want {
				t.Errorf("findings: %q", got)
			}
		})
	}
	s.mu.Lock()
	s.hosts["srv-prod"].away = true
	s.mu.Unlock()
	s.clock.Advance(time.Hour)
	if i := s.get("acme"); i.GetDisk().GetBytes() == 0 {
		t.Error("what is known goes with its host")
	}
}
