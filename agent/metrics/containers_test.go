package metrics

import (
	"bytes"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// engine is a container engine with one running container.
type engine struct {
	inspected int
	gone      bool
}

func webID() string { return strings.Repeat("ab", 32) }

func (e *engine) Containers(context.Context, ...string) ([]docker.Container, error) {
	if e.gone {
		return nil, errs.New(errs.Unavailable, "no engine")
	}
	return []docker.Container{
		{ID: webID(), Name: "web-1", Image: "nginx:1", State: "running",
			Labels: map[string]string{docker.LabelProject: "shop", docker.LabelService: "web"}},
		{ID: strings.Repeat("cd", 32), Name: "old", State: "exited"},
	}, nil
}

func (e *engine) Inspect(_ context.Context, id string) (docker.Detail, error) {
	e.inspected++
	return docker.Detail{Container: docker.Container{ID: id}, Pid: 42, Started: time.Unix(1700000000, 0)}, nil
}

// machine writes files of a host and returns it.
func machine(t *testing.T, files map[string]string) *host.Host {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, strings.ReplaceAll(name, "ID", webID()))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "ID", webID())), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for pid, ns := range map[string]string{"self": "net:[1]", "42": "net:[2]"} {
		if err := os.MkdirAll(filepath.Join(root, "proc", pid, "ns"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(ns, filepath.Join(root, "proc", pid, "ns/net")); err != nil {
			t.Fatal(err)
		}
	}
	return host.New(host.Config{Root: root})
}

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     999       9    0    0    0     0          0         0      999       9    0    0    0     0       0          0
  eth0:    1000      10    1    2    0     0          0         0     2000      20    3    4    0     0       0          0
`

func v1Files() map[string]string {
	return map[string]string{
		"/proc/42/cgroup":  "12:pids:/docker/ID\n7:memory:/docker/ID\n5:cpu,cpuacct:/docker/ID\n3:blkio:/docker/ID\n1:name=systemd:/docker/ID\n0::/docker/ID\n",
		"/proc/42/net/dev": netDev,
		"/sys/fs/cgroup/cpuacct/docker/ID/cpuacct.usage":                           "2500000000\n",
		"/sys/fs/cgroup/cpuacct/docker/ID/cpuacct.stat":                            "user 200\nsystem 50\n",
		"/sys/fs/cgroup/cpu/docker/ID/cpu.cfs_period_us":                           "100000\n",
		"/sys/fs/cgroup/cpu/docker/ID/cpu.cfs_quota_us":                            "50000\n",
		"/sys/fs/cgroup/cpu/docker/ID/cpu.shares":                                  "512\n",
		"/sys/fs/cgroup/cpu/docker/ID/cpu.stat":                                    "nr_periods 10\nnr_throttled 2\nthrottled_time 3000000000\n",
		"/sys/fs/cgroup/memory/docker/ID/memory.usage_in_bytes":                    "1000000\n",
		"/sys/fs/cgroup/memory/docker/ID/memory.max_usage_in_bytes":                "2000000\n",
		"/sys/fs/cgroup/memory/docker/ID/memory.limit_in_bytes":                    "9223372036854771712\n",
		"/sys/fs/cgroup/memory/docker/ID/memory.stat":                              "total_cache 300000\ntotal_rss 600000\ntotal_inactive_file 100000\n",
		"/sys/fs/cgroup/memory/docker/ID/memory.oom_control":                       "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
		"/sys/fs/cgroup/pids/docker/ID/pids.current":                               "5\n",
		"/sys/fs/cgroup/blkio/docker/ID/blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 8192\n8:0 Total 12288\nTotal 12288\n",
		"/sys/fs/cgroup/blkio/docker/ID/blkio.throttle.io_serviced_recursive":      "8:0 Read 1\n8:0 Write 2\n",
	}
}

func v2Files() map[string]string {
	const dir = "/sys/fs/cgroup/system.slice/docker-ID.scope"
	return map[string]string{
		"/proc/42/cgroup":                   "0::/system.slice/docker-ID.scope\n",
		"/proc/42/net/dev":                  netDev,
		"/sys/fs/cgroup/cgroup.controllers": "cpu io memory pids\n",
		dir + "/cpu.stat":                   "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\nnr_periods 10\nnr_throttled 2\nthrottled_usec 3000000\n",
		dir + "/cpu.max":                    "50000 100000\n",
		dir + "/cpu.weight":                 "20\n",
		dir + "/memory.current":             "1000000\n",
		dir + "/memory.peak":                "2000000\n",
		dir + "/memory.max":                 "max\n",
		dir + "/memory.stat":                "anon 600000\nfile 300000\ninactive_file 100000\n",
		dir + "/memory.events":              "oom 1\noom_kill 1\n",
		dir + "/pids.current":               "5\n",
		dir + "/io.stat":                    "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
	}
}

func containersOf(h *host.Host, e Engine) *containers {
	r := newReader(h)
	return &containers{list: newList(e, r, hclog.NewNullLogger()), reader: r, now: func() time.Time { return time.Unix(1700000100, 0) }}
}

// parsed reads the text as Prometheus would: values by metric and labels.
func parsed(t *testing.T, c *containers) map[string]map[string]float64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(c.text(t.Context())))
	if err != nil {
		t.Fatal(err)
	}
	return values(slices.Collect(maps.Values(families)))
}

// TestContainers wants the same numbers of both versions of cgroups.
func TestContainers(t *testing.T) {
	want := map[string]float64{
		"container_cpu_usage_seconds_total": 2.5, "container_cpu_user_seconds_total": 2, "container_cpu_system_seconds_total": 0.5,
		"container_cpu_cfs_periods_total": 10, "container_cpu_cfs_throttled_periods_total": 2, "container_cpu_cfs_throttled_seconds_total": 3,
		"container_memory_usage_bytes": 1000000, "container_memory_working_set_bytes": 900000, "container_memory_rss": 600000,
		"container_memory_cache": 300000, "container_memory_max_usage_bytes": 2000000, "container_oom_events_total": 1,
		"container_threads": 5, "container_spec_cpu_period": 100000, "container_spec_cpu_quota": 50000,
		"container_spec_memory_limit_bytes": 0, "container_last_seen": 1700000100, "container_start_time_seconds": 1700000000,
		"container_network_receive_bytes_total": 1000, "container_network_receive_packets_total": 10,
		"container_network_receive_errors_total": 1, "container_network_receive_packets_dropped_total": 2,
		"container_network_transmit_bytes_total": 2000, "container_network_transmit_packets_total": 20,
		"container_network_transmit_errors_total": 3, "container_network_transmit_packets_dropped_total": 4,
		"container_fs_reads_bytes_total": 4096, "container_fs_writes_bytes_total": 8192, "container_fs_reads_total": 1, "container_fs_writes_total": 2,
		"infractl_agent_containers_omitted": 0,
	}
	for name, c := range map[string]struct {
		files  map[string]string
		id     string
		shares float64
	}{
		"Version1": {v1Files(), "/docker/" + webID(), 512},
		"Version2": {v2Files(), "/system.slice/docker-" + webID() + ".scope", 500},
	} {
		t.Run(name, func(t *testing.T) {
			got := map[string]float64{}
			for metric, series := range parsed(t, containersOf(machine(t, c.files), &engine{})) {
				if len(series) != 1 {
					t.Errorf("%s has %d series, want one", metric, len(series))
				}
				for labels, v := range series {
					got[metric] = v
					for _, l := range []string{"id=" + c.id + ",", "name=web-1,", "image=nginx:1,",
						"container_label_com_docker_compose_project=shop,", "container_label_com_docker_compose_service=web,"} {
						if strings.HasPrefix(metric, "container_") && !strings.Contains(labels, l) {
							t.Errorf("%s lacks %s: %s", metric, l, labels)
						}
					}
				}
			}
			want["container_spec_cpu_shares"] = c.shares
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestListIsKeptAndContainersAreLookedAtOnce(t *testing.T) {
	e := &engine{}
	c := containersOf(machine(t, v2Files()), e)
	for range 3 {
		parsed(t, c)
	}
	c.list.read = time.Time{}
	parsed(t, c)
	if e.inspected != 1 {
		t.Errorf("inspected %d times, want once", e.inspected)
	}
	e.gone, c.list.read = true, time.Time{}
	if got := parsed(t, c); len(got["container_last_seen"]) != 0 {
		t.Error("containers of an engine that is gone are still shown")
	}
}

func TestContainerWithTheHostsNetworkHasNoTraffic(t *testing.T) {
	h := machine(t, v2Files())
	link := h.Path("/proc/42/ns/net")
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("net:[1]", link); err != nil {
		t.Fatal(err)
	}
	if got := parsed(t, containersOf(h, &engine{})); len(got["container_network_receive_bytes_total"]) != 0 || len(got["container_last_seen"]) != 1 {
		t.Errorf("metrics = %v", got)
	}
}

func TestNamesOfOthersAreEscaped(t *testing.T) {
	long := strings.Repeat("é", 200)
	got := label("a\"b\\c\nd\xff" + long)
	if !strings.HasPrefix(got, `a\"b\\c\nd?`) || len(got) > 270 || !utf8.ValidString(got) {
		t.Errorf("label = %q", got)
	}
}

func TestUsage(t *testing.T) {
	files := v2Files()
	files["/proc/stat"] = "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 50 0 50 400 0 0 0 0 0 0\ncpu1 50 0 50 400 0 0 0 0 0 0\nbtime 1600000000\n"
	files["/proc/meminfo"] = "MemTotal:    1000 kB\nMemFree:  1 kB\nMemAvailable: 400 kB\n"
	files["/proc/loadavg"] = "0.75 0.5 0.25 1/100 12345\n"
	h := machine(t, files)
	r := newReader(h)
	u := &Usage{host: h, reader: r, list: newList(&engine{}, r, hclog.NewNullLogger())}
	got, err := u.Measure(t.Context(), &v1.UsageTask{})
	if err != nil {
		t.Fatal(err)
	}
	x := got.GetHost()
	if x.GetCpus() != 2 || x.GetMemoryBytes() != 600<<10 || x.GetMemoryLimitBytes() != 1000<<10 || x.GetLoad() != 0.75 || x.GetDiskLimitBytes() == 0 {
		t.Errorf("host = %v", x)
	}
	if len(got.GetContainers()) != 1 {
		t.Fatalf("containers = %v", got.GetContainers())
	}
	c := got.GetContainers()[0]
	if c.GetName() != "web-1" || c.GetMemoryBytes() != 900000 || c.GetCpus() != 0.5 || c.GetMemoryLimitBytes() != 1000<<10 || c.GetProcesses() != 5 {
		t.Errorf("container = %v", c)
	}
	first, second := look{at: time.Unix(10, 0)}, look{at: time.Unix(12, 0)}
	if got := rate(1, 4, first, second); got != 1.5 {
		t.Errorf("rate = %v, want 1.5", got)
	}
	if got := rate(4, 1, first, second); got != 0 {
		t.Errorf("rate of a counter that began anew = %v, want 0", got)
	}
}
