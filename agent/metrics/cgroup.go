package metrics

import (
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/agent/host"
)

// cgroupRoot is where cgroup file systems are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// userHZ is the unit of clock ticks that Linux shows to programs.
const userHZ = 100

// reader reads cgroups and what belongs to a process.
type reader struct {
	host   *host.Host
	v2     bool
	boot   float64 // seconds since 1970
	ownNet string  // the host's network namespace
	// buffers are for one file each.
	buffers buffers
}

func newReader(h *host.Host) *reader {
	r := &reader{host: h, v2: h.Exists(cgroupRoot + "/cgroup.controllers")}
	r.ownNet, _ = os.Readlink(h.Path("/proc/self/ns/net"))
	for _, line := range r.lines("/proc/stat") {
		if rest, ok := strings.CutPrefix(line, "btime "); ok {
			r.boot, _ = strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	return r
}

// groups are the folders of one container: by controller for version 1, all the same for version 2.
type groups struct {
	id                                string // the path below the root, as cAdvisor's label id
	cpu, cpuacct, memory, blkio, pids string
}

// groupsOf returns the folders of a process, false when the process is gone or is not the container's with that id.
func (r *reader) groupsOf(pid int, containerID string) (groups, bool) {
	g := groups{}
	for _, line := range r.lines("/proc/" + strconv.Itoa(pid) + "/cgroup") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 || !strings.Contains(parts[2], containerID) || strings.Contains(parts[2], "..") {
			continue
		}
		if parts[1] == "" {
			if r.v2 {
				dir := path.Join(cgroupRoot, parts[2])
				return groups{id: parts[2], cpu: dir, cpuacct: dir, memory: dir, blkio: dir, pids: dir}, true
			}
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			dir := path.Join(cgroupRoot, controller, parts[2])
			switch controller {
			case "cpu":
				g.cpu = dir
			case "cpuacct":
				g.cpuacct = dir
			case "memory":
				g.memory, g.id = dir, parts[2]
			case "blkio":
				g.blkio = dir
			case "pids":
				g.pids = dir
			}
		}
	}
	return g, g.id != ""
}

// sample is what one container has used. A field that the kernel does not tell is negative.
type sample struct {
	cpu, user, system                 float64 // seconds
	periods, throttled, throttledTime float64
	memory, workingSet, rss, cache    float64 // bytes
	maxMemory, oomKills               float64
	threads                           float64
	devices                           map[string]device
	spec
}

// spec is what one container may use. It changes rarely, and is read less often than the rest.
type spec struct {
	limit                 float64 // bytes; 0: none
	quota, period, shares float64 // microseconds; quota 0: none
}

type device struct{ readBytes, writtenBytes, reads, writes float64 }

// read samples a container; false when it is gone.
func (r *reader) read(g groups, may spec) (sample, bool) {
	s := sample{user: -1, system: -1, periods: -1, memory: -1, rss: -1, cache: -1, maxMemory: -1, oomKills: -1, threads: -1, spec: may}
	s.threads = r.number(g.pids + "/pids.current")
	if r.v2 {
		return s, r.readV2(g, &s)
	}
	return s, r.readV1(g, &s)
}

// spec reads what a container may use.
func (r *reader) spec(g groups) spec {
	if r.v2 {
		return r.specV2(g)
	}
	s := spec{period: max(0, r.number(g.cpu+"/cpu.cfs_period_us")), quota: max(0, r.number(g.cpu+"/cpu.cfs_quota_us")),
		shares: r.number(g.cpu + "/cpu.shares"), limit: max(0, r.number(g.memory+"/memory.limit_in_bytes"))}
	if s.limit >= noLimit {
		s.limit = 0
	}
	return s
}

func (r *reader) specV2(g groups) spec {
	s := spec{shares: -1, limit: max(0, r.number(g.memory+"/memory.max"))}
	if quota := strings.Fields(r.text(g.cpu + "/cpu.max")); len(quota) == 2 {
		s.period = parse(quota[1])
		if quota[0] != "max" {
			s.quota = parse(quota[0])
		}
	}
	if weight := r.number(g.cpu + "/cpu.weight"); weight > 0 {
		s.shares = float64(int64(2 + (weight-1)*262142/9999)) // the inverse of what runc makes of shares
	}
	return s
}

func (r *reader) readV2(g groups, s *sample) bool {
	cpu := r.pairs(g.cpu + "/cpu.stat")
	s.memory = r.number(g.memory + "/memory.current")
	if len(cpu) == 0 && s.memory < 0 {
		return false
	}
	s.cpu, s.user, s.system = cpu["usage_usec"]/1e6, cpu["user_usec"]/1e6, cpu["system_usec"]/1e6
	if _, ok := cpu["nr_periods"]; ok && s.quota > 0 {
		s.periods, s.throttled, s.throttledTime = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_usec"]/1e6
	}
	stat := r.pairs(g.memory + "/memory.stat")
	s.rss, s.cache = stat["anon"], stat["file"]
	s.workingSet = max(0, s.memory-stat["inactive_file"])
	s.maxMemory = r.number(g.memory + "/memory.peak")
	if events := r.pairs(g.memory + "/memory.events"); len(events) > 0 {
		s.oomKills = events["oom_kill"]
	}
	s.devices = r.ioV2(g.blkio)
	return true
}

// ioV2 reads io.stat: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...".
func (r *reader) ioV2(dir string) map[string]device {
	out := map[string]device{}
	for _, line := range r.lines(dir + "/io.stat") {
		fields := strings.Fields(line)
		if len(fields) < 2 || len(out) >= maxDevices {
			continue
		}
		d := device{}
		for _, f := range fields[1:] {
			name, value, _ := strings.Cut(f, "=")
			switch v := parse(value); name {
			case "rbytes":
				d.readBytes = v
			case "wbytes":
				d.writtenBytes = v
			case "rios":
				d.reads = v
			case "wios":
				d.writes = v
			}
		}
		out[fields[0]] = d
	}
	return out
}

// noLimit is from where on a limit of version 1 means none.
const noLimit = 1 << 60

func (r *reader) readV1(g groups, s *sample) bool {
	usage := r.number(g.cpuacct + "/cpuacct.usage")
	s.memory = r.number(g.memory + "/memory.usage_in_bytes")
	if usage < 0 && s.memory < 0 {
		return false
	}
	s.cpu = max(0, usage) / 1e9
	if ticks := r.pairs(g.cpuacct + "/cpuacct.stat"); len(ticks) > 0 {
		s.user, s.system = ticks["user"]/userHZ, ticks["system"]/userHZ
	}
	if s.quota > 0 {
		cpu := r.pairs(g.cpu + "/cpu.stat")
		s.periods, s.throttled, s.throttledTime = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_time"]/1e9
	}
	stat := r.pairs(g.memory + "/memory.stat")
	s.rss, s.cache = stat["total_rss"], stat["total_cache"]
	s.workingSet = max(0, s.memory-stat["total_inactive_file"])
	s.maxMemory = r.number(g.memory + "/memory.max_usage_in_bytes")
	if oom := r.pairs(g.memory + "/memory.oom_control"); len(oom) > 0 {
		s.oomKills = oom["oom_kill"]
	}
	s.devices = r.ioV1(g.blkio)
	return true
}

// ioV1 reads the throttle files, which count without any I/O scheduler: "8:0 Read 4096".
func (r *reader) ioV1(dir string) map[string]device {
	out := map[string]device{}
	for i, file := range []string{"/blkio.throttle.io_service_bytes_recursive", "/blkio.throttle.io_serviced_recursive"} {
		for _, line := range r.lines(dir + file) {
			f := strings.Fields(line)
			if len(f) != 3 {
				continue
			}
			d, known := out[f[0]]
			if !known && len(out) >= maxDevices {
				continue
			}
			switch v := parse(f[2]); {
			case f[1] == "Read" && i == 0:
				d.readBytes = v
			case f[1] == "Write" && i == 0:
				d.writtenBytes = v
			case f[1] == "Read":
				d.reads = v
			case f[1] == "Write":
				d.writes = v
			}
			out[f[0]] = d
		}
	}
	return out
}

// started returns when a process began.
func (r *reader) started(pid int) time.Time {
	text := r.text("/proc/" + strconv.Itoa(pid) + "/stat")
	_, rest, ok := strings.Cut(text, ") ") // a name may have anything in it
	f := strings.Fields(rest)
	if !ok || len(f) < 20 || r.boot == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64((r.boot + parse(f[19])/userHZ) * 1000))
}

func (r *reader) lines(file string) []string {
	return strings.Split(strings.TrimSuffix(r.text(file), "\n"), "\n")
}

// number reads a file that holds one number; -1 when it does not.
func (r *reader) number(file string) float64 {
	v, err := strconv.ParseFloat(strings.TrimSpace(r.text(file)), 64)
	if err != nil {
		return -1
	}
	return v
}

// pairs reads lines of a name and a number.
func (r *reader) pairs(file string) map[string]float64 {
	out := map[string]float64{}
	for _, line := range r.lines(file) {
		if name, value, ok := strings.Cut(line, " "); ok {
			out[name] = parse(strings.TrimSpace(value))
		}
	}
	return out
}

// parse reads a number; what is none is 0.
func parse(s string) float64 {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || v < 0 {
		return 0
	}
	return v
}
