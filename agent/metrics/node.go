package metrics

import (
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/node_exporter/collector"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// collectorLimit is how long one collector may take; the page goes on without one that takes longer.
const collectorLimit = 4 * time.Second

// nodeFlags are what Debian's package changes of node_exporter's defaults, so that the page has what its page has. Beyond that
// the host's ends of containers' networks are left out: they come and go under random names, container_network_* has their
// numbers, and with forty containers they would be half of the page.
func nodeFlags(h *host.Host) []string {
	return []string{
		"--path.rootfs=" + h.Path("/"),
		"--collector.systemd",
		"--collector.netdev.device-exclude=^(lo|veth.*)$",
		"--collector.netclass.ignored-devices=^veth.*$",
		"--collector.filesystem.mount-points-exclude=^/(dev|proc|run|sys|mnt|media|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)",
		"--collector.filesystem.mount-timeout=1s",
		"--collector.textfile.directory=/var/lib/prometheus/node-exporter",
	}
}

// nodeCollector runs node_exporter's collectors. Unlike node_exporter's own runner it does not wait for one that hangs, on a
// dead NFS server for example; that one is left out until it has come back.
type nodeCollector struct {
	// load makes the collectors at the first scrape: a host that nobody watches does without their memory.
	load  func() (map[string]collector.Collector, error)
	log   hclog.Logger
	limit time.Duration

	mu      sync.Mutex
	hanging map[string]time.Time

	// meminfo are the lines of /proc/meminfo; nil leaves out what the collector does not know.
	meminfo func() []string

	duration, success, build *prometheus.Desc
	version                  []string
}

func newNodeCollector(h *host.Host, r *reader, log hclog.Logger) *nodeCollector {
	c := newRunner(func() (map[string]collector.Collector, error) {
		// Without a command line that was parsed there would be no collectors, and no error either.
		if _, err := kingpin.CommandLine.Parse(nodeFlags(h)); err != nil {
			return nil, errs.Wrap("set node_exporter's collectors up", err)
		}
		made, err := collector.NewNodeCollector(slog.New(slog.DiscardHandler))
		if err != nil {
			return nil, errs.Wrap("set node_exporter's collectors up", err)
		}
		return made.Collectors, nil
	}, log)
	c.meminfo = func() []string { return r.lines("/proc/meminfo") }
	return c
}

func newRunner(load func() (map[string]collector.Collector, error), log hclog.Logger) *nodeCollector {
	c := &nodeCollector{load: sync.OnceValues(load), log: log, limit: collectorLimit, hanging: map[string]time.Time{}}
	c.duration = prometheus.NewDesc("node_scrape_collector_duration_seconds", "node_exporter: Duration of a collector scrape.",
		[]string{"collector"}, nil)
	c.success = prometheus.NewDesc("node_scrape_collector_success", "node_exporter: Whether a collector succeeded.",
		[]string{"collector"}, nil)
	c.build = prometheus.NewDesc("node_exporter_build_info", "The node_exporter whose collectors these are, inside of infractl-agent.",
		[]string{"branch", "goarch", "goos", "goversion", "revision", "tags", "version"}, nil)
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "github.com/prometheus/node_exporter" {
				version = d.Version
			}
		}
	}
	c.version = []string{"", runtime.GOARCH, runtime.GOOS, runtime.Version(), "", "", version}
	return c
}

// Describe implements prometheus.Collector. It says nothing: the collectors' metrics are known only once they were read.
func (c *nodeCollector) Describe(chan<- *prometheus.Desc) {}

// result is what one collector gave.
type result struct {
	name    string
	metrics []prometheus.Metric
	err     error
	took    time.Duration
}

// Collect implements prometheus.Collector.
func (c *nodeCollector) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(c.build, prometheus.GaugeValue, 1, c.version...)
	list, err := c.load()
	if err != nil {
		out <- prometheus.NewInvalidMetric(c.success, err)
		return
	}
	results := make(chan result, len(list))
	waiting := map[string]bool{}
	for name, one := range list {
		if !c.begin(name) {
			c.emit(out, result{name: name, err: errs.New(errs.Timeout, "the collector does not answer"), took: c.limit})
			continue
		}
		waiting[name] = true
		go func() { results <- c.run(name, one) }()
	}
	late := time.NewTimer(c.limit)
	defer late.Stop()
	for len(waiting) > 0 {
		select {
		case r := <-results:
			delete(waiting, r.name)
			c.emit(out, r)
		case <-late.C:
			for name := range waiting {
				c.log.Warn("a collector hangs and is left out", "collector", name, "limit", c.limit)
				c.emit(out, result{name: name, err: errs.New(errs.Timeout, "the collector does not answer"), took: c.limit})
			}
			return
		}
	}
}

// begin reports whether a collector may run: one at a time of each.
func (c *nodeCollector) begin(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, busy := c.hanging[name]; busy {
		return false
	}
	c.hanging[name] = time.Now()
	return true
}

// run reads one collector to its end, however long that takes. A defect in it must not end the agent.
func (c *nodeCollector) run(name string, one collector.Collector) (r result) {
	begun := time.Now()
	r.name = name
	ch := make(chan prometheus.Metric, 64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m := range ch {
			r.metrics = append(r.metrics, m)
		}
	}()
	err := update(one, ch)
	close(ch)
	<-done
	if name == "meminfo" && err == nil && c.meminfo != nil {
		r.metrics = append(r.metrics, moreMemory(r.metrics, c.meminfo())...)
	}
	r.err, r.took = err, time.Since(begun)
	c.mu.Lock()
	delete(c.hanging, name)
	c.mu.Unlock()
	return r
}

func update(one collector.Collector, ch chan<- prometheus.Metric) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errs.New(errs.Internal, "the collector met a defect: %v", p)
		}
	}()
	return one.Update(ch)
}

func (c *nodeCollector) emit(out chan<- prometheus.Metric, r result) {
	for _, m := range r.metrics {
		out <- m
	}
	success := 1.0
	if r.err != nil {
		success = 0
		if !collector.IsNoDataError(r.err) {
			c.log.Debug("a collector failed", "collector", r.name, "error", r.err)
		}
	}
	out <- prometheus.MustNewConstMetric(c.duration, prometheus.GaugeValue, r.took.Seconds(), r.name)
	out <- prometheus.MustNewConstMetric(c.success, prometheus.GaugeValue, success, r.name)
}
