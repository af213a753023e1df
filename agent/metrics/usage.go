package metrics

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Bounds of the time that rates are measured over.
const (
	usualOver = time.Second
	maxOver   = 10 * time.Second
)

// Usage measures what host and containers use now.
type Usage struct {
	host   *host.Host
	list   *list
	reader *reader
}

// look is what was seen at one moment.
type look struct {
	at         time.Time
	busy       float64 // seconds of all processors
	cpus       int
	received   float64
	sent       float64
	containers map[string]sample
	traffic    map[string]traffic // sums
}

// Measure looks twice and returns the difference. Errors: Invalid for a time that is out of bounds, ctx's.
func (u *Usage) Measure(ctx context.Context, task *v1.UsageTask) (*v1.UsageResult, error) {
	over := usualOver
	if task.GetOver() != nil {
		over = task.GetOver().AsDuration()
	}
	if over <= 0 || over > maxOver {
		return nil, errs.New(errs.Invalid, "usage is measured over more than nothing and at most %s", maxOver)
	}
	running, _ := u.list.get(ctx, listLimit)
	first := u.look(running)
	timer := time.NewTimer(over)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
	}
	second := u.look(running)
	result := &v1.UsageResult{Host: u.hostUsage(first, second)}
	for i := range running {
		k := &running[i]
		before, known := first.containers[k.ID]
		after, alive := second.containers[k.ID]
		if known && alive {
			result.Containers = append(result.Containers, containerUsage(k, before, after, first, second, result.Host))
		}
	}
	slices.SortFunc(result.Containers, func(a, b *v1.Usage) int { return strings.Compare(a.GetName(), b.GetName()) })
	return result, nil
}

func (u *Usage) look(running []known) look {
	l := look{at: time.Now(), containers: map[string]sample{}, traffic: map[string]traffic{}}
	for _, line := range u.reader.lines("/proc/stat") {
		f := strings.Fields(line)
		switch {
		case len(f) < 9 || !strings.HasPrefix(f[0], "cpu"):
		case f[0] == "cpu": // user nice system idle iowait irq softirq steal
			l.busy = (parse(f[1]) + parse(f[2]) + parse(f[3]) + parse(f[6]) + parse(f[7]) + parse(f[8])) / userHZ
		default:
			l.cpus++
		}
	}
	for name, t := range u.reader.traffic("/proc/self/net/dev", 256) {
		if u.physical(name) {
			l.received, l.sent = l.received+t.receivedBytes, l.sent+t.sentBytes
		}
	}
	for i := range running {
		k := &running[i]
		s, ok := u.reader.read(k.groups, k.spec)
		if !ok {
			continue
		}
		l.containers[k.ID] = s
		sum := traffic{}
		for _, t := range u.reader.containerTraffic(k) {
			sum.receivedBytes, sum.sentBytes = sum.receivedBytes+t.receivedBytes, sum.sentBytes+t.sentBytes
		}
		l.traffic[k.ID] = sum
	}
	return l
}

// physical reports whether an interface leads out of the host: bridges and their ports would count everything twice.
func (u *Usage) physical(name string) bool {
	for _, prefix := range []string{"veth", "docker", "br-", "virbr", "wg", "tun", "dummy"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return !u.host.Exists(path.Join("/sys/class/net", name, "bridge"))
}

func rate(before, after float64, first, second look) float64 {
	took := second.at.Sub(first.at).Seconds()
	if took <= 0 || after < before {
		return 0
	}
	return (after - before) / took
}

func (u *Usage) hostUsage(first, second look) *v1.Usage {
	out := &v1.Usage{Cpu: rate(first.busy, second.busy, first, second), Cpus: float64(second.cpus),
		ReceivedBytesPerSecond: rate(first.received, second.received, first, second),
		SentBytesPerSecond:     rate(first.sent, second.sent, first, second)}
	total, available := 0.0, 0.0
	for _, line := range u.reader.lines("/proc/meminfo") {
		switch f := strings.Fields(line); {
		case len(f) < 2:
		case f[0] == "MemTotal:":
			total = parse(f[1]) * 1024
		case f[0] == "MemAvailable:":
			available = parse(f[1]) * 1024
		}
	}
	out.MemoryLimitBytes, out.MemoryBytes = uint64(total), uint64(max(0, total-available))
	if f := strings.Fields(u.reader.text("/proc/loadavg")); len(f) > 0 {
		out.Load = parse(f[0])
	}
	var fs unix.Statfs_t
	if unix.Statfs(u.host.Path("/"), &fs) == nil {
		out.DiskLimitBytes = fs.Blocks * uint64(fs.Bsize)
		out.DiskBytes = (fs.Blocks - fs.Bfree) * uint64(fs.Bsize)
	}
	if list, err := u.host.Glob("/proc/[0-9]*"); err == nil {
		for _, p := range list {
			if _, err := strconv.Atoi(path.Base(p)); err == nil {
				out.Processes++
			}
		}
	}
	return out
}

func containerUsage(k *known, before, after sample, first, second look, h *v1.Usage) *v1.Usage {
	out := &v1.Usage{Name: strings.ToValidUTF8(k.Name, "?"), Cpu: rate(before.cpu, after.cpu, first, second), Cpus: h.GetCpus(),
		MemoryBytes: uint64(max(0, after.workingSet)), MemoryLimitBytes: uint64(after.limit), Processes: uint32(max(0, after.threads)),
		ReceivedBytesPerSecond: rate(first.traffic[k.ID].receivedBytes, second.traffic[k.ID].receivedBytes, first, second),
		SentBytesPerSecond:     rate(first.traffic[k.ID].sentBytes, second.traffic[k.ID].sentBytes, first, second)}
	if after.quota > 0 && after.period > 0 {
		out.Cpus = after.quota / after.period
	}
	if out.GetMemoryLimitBytes() == 0 || out.GetMemoryLimitBytes() > h.GetMemoryLimitBytes() {
		out.MemoryLimitBytes = h.GetMemoryLimitBytes()
	}
	return out
}
