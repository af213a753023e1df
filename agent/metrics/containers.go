package metrics

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// containerLabels are those of every series of a container, as cAdvisor has them.
func containerLabels() []string {
	return []string{"id", "name", "image", "container_label_com_docker_compose_project", "container_label_com_docker_compose_service"}
}

// containerCollector shows containers under cAdvisor's names, from cgroup files and /proc: the engine's own statistics take
// a second for each container.
type containerCollector struct {
	list   *list
	reader *reader
	now    func() time.Time
	descs  map[string]*prometheus.Desc
	plain  []value
}

// value is a number of a sample that needs no further label. Negative ones are not known.
type value struct {
	name string
	kind prometheus.ValueType
	of   func(*sample) float64
}

func newContainerCollector(l *list, r *reader) *containerCollector {
	c := &containerCollector{list: l, reader: r, now: time.Now, descs: map[string]*prometheus.Desc{}}
	counter := func(name, help string, of func(*sample) float64, more ...string) {
		c.describe(name, help, more...)
		if of != nil {
			c.plain = append(c.plain, value{name, prometheus.CounterValue, of})
		}
	}
	gauge := func(name, help string, of func(*sample) float64) {
		c.describe(name, help)
		if of != nil {
			c.plain = append(c.plain, value{name, prometheus.GaugeValue, of})
		}
	}
	counter("cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", nil, "cpu")
	counter("cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", func(s *sample) float64 { return s.user })
	counter("cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", func(s *sample) float64 { return s.system })
	limited := func(s *sample, v float64) float64 {
		if s.periods < 0 {
			return -1
		}
		return v
	}
	counter("cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", func(s *sample) float64 { return s.periods })
	counter("cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", func(s *sample) float64 { return limited(s, s.throttled) })
	counter("cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", func(s *sample) float64 { return limited(s, s.throttledTime) })
	gauge("memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed.", func(s *sample) float64 { return s.memory })
	gauge("memory_working_set_bytes", "Current working set in bytes.", func(s *sample) float64 { return s.workingSet })
	gauge("memory_rss", "Size of RSS in bytes.", func(s *sample) float64 { return s.rss })
	gauge("memory_cache", "Number of bytes of page cache memory.", func(s *sample) float64 { return s.cache })
	gauge("memory_max_usage_bytes", "Maximum memory usage recorded in bytes.", func(s *sample) float64 { return s.maxMemory })
	counter("oom_events_total", "Count of out of memory events observed for the container.", func(s *sample) float64 { return s.oomKills })
	gauge("threads", "Number of threads running inside the container.", func(s *sample) float64 { return s.threads })
	gauge("spec_cpu_period", "CPU period of the container.", func(s *sample) float64 { return s.period })
	gauge("spec_cpu_shares", "CPU share of the container.", func(s *sample) float64 { return s.shares })
	gauge("spec_cpu_quota", "CPU quota of the container.", func(s *sample) float64 {
		if s.quota == 0 {
			return -1 // cAdvisor leaves it out too
		}
		return s.quota
	})
	gauge("spec_memory_limit_bytes", "Memory limit for the container.", func(s *sample) float64 { return s.limit })
	gauge("last_seen", "Last time a container was seen by the exporter.", nil)
	gauge("start_time_seconds", "Start time of the container since unix epoch in seconds.", nil)
	for _, way := range []string{"receive", "transmit"} {
		for _, what := range []string{"bytes", "packets", "errors", "packets_dropped"} {
			counter("network_"+way+"_"+what+"_total", "Cumulative count of "+what+" ("+way+").", nil, "interface")
		}
	}
	for _, what := range []string{"reads_bytes_total", "writes_bytes_total", "reads_total", "writes_total"} {
		counter("fs_"+what, "Cumulative count of "+strings.ReplaceAll(strings.TrimSuffix(what, "_total"), "_", " in ")+".", nil, "device")
	}
	c.descs["omitted"] = prometheus.NewDesc("infractl_agent_containers_omitted",
		"Running containers beyond the first 250, which the page leaves out.", nil, nil)
	return c
}

func (c *containerCollector) describe(name, help string, more ...string) {
	c.descs[name] = prometheus.NewDesc("container_"+name, help, append(containerLabels(), more...), nil)
}

// Describe implements prometheus.Collector.
func (c *containerCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *containerCollector) Collect(out chan<- prometheus.Metric) {
	running, omitted := c.list.get(context.Background(), listWait)
	for i := range running {
		c.collect(&running[i], out)
	}
	out <- prometheus.MustNewConstMetric(c.descs["omitted"], prometheus.GaugeValue, float64(omitted))
}

func (c *containerCollector) collect(k *known, out chan<- prometheus.Metric) {
	s, ok := c.reader.read(k.groups)
	if !ok {
		return // it has just ended
	}
	labels := []string{label(k.groups.id), label(k.Name), label(k.Image), label(k.Project()), label(k.Service())}
	emit := func(name string, kind prometheus.ValueType, v float64, more ...string) {
		out <- prometheus.MustNewConstMetric(c.descs[name], kind, v, append(labels[:len(labels):len(labels)], more...)...)
	}
	for _, p := range c.plain {
		if v := p.of(&s); v >= 0 {
			emit(p.name, p.kind, v)
		}
	}
	emit("cpu_usage_seconds_total", prometheus.CounterValue, s.cpu, "total")
	emit("last_seen", prometheus.GaugeValue, float64(c.now().Unix()))
	if !k.started.IsZero() {
		emit("start_time_seconds", prometheus.GaugeValue, float64(k.started.Unix()))
	}
	for name, t := range c.reader.containerTraffic(k.pid) {
		for metric, v := range map[string]float64{
			"receive_bytes": t.receivedBytes, "receive_packets": t.receivedPackets, "receive_errors": t.receivedErrors,
			"receive_packets_dropped": t.receivedDropped, "transmit_bytes": t.sentBytes, "transmit_packets": t.sentPackets,
			"transmit_errors": t.sentErrors, "transmit_packets_dropped": t.sentDropped,
		} {
			emit("network_"+metric+"_total", prometheus.CounterValue, v, label(name))
		}
	}
	for name, d := range s.devices {
		emit("fs_reads_bytes_total", prometheus.CounterValue, d.readBytes, label(name))
		emit("fs_writes_bytes_total", prometheus.CounterValue, d.writtenBytes, label(name))
		emit("fs_reads_total", prometheus.CounterValue, d.reads, label(name))
		emit("fs_writes_total", prometheus.CounterValue, d.writes, label(name))
	}
}

// label bounds what others choose.
func label(s string) string {
	const most = 256
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "?")
}
