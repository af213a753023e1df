package metrics

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"time"
)

// containers shows containers under cAdvisor's names, from cgroup files and /proc: the engine's own statistics take a second
// for each container. It writes the text itself; forty containers are some two thousand lines, and nothing else of the page
// needs them as objects.
type containers struct {
	list   *list
	reader *reader
	now    func() time.Time
}

// seen is one container as it was read for one page.
type seen struct {
	labels  string
	started time.Time
	sample  sample
	traffic map[string]traffic
}

// family is one metric. of calls add for each series of a container, with a further label or without.
type family struct {
	name, kind, help string
	of               func(s *seen, add func(label string, v float64))
}

// text is the part of the page about containers.
func (c *containers) text(ctx context.Context) []byte {
	running, omitted := c.list.get(ctx, listWait)
	all := make([]seen, 0, len(running))
	for i := range running {
		k := &running[i]
		if s, ok := c.reader.read(k.groups, k.spec); ok { // else it has just ended
			all = append(all, seen{labels: labels(k), started: k.started, sample: s, traffic: c.reader.containerTraffic(k)})
		}
	}
	var out bytes.Buffer
	out.Grow(len(all) * 12 << 10)
	if len(all) > 0 {
		for _, f := range c.families() {
			f.write(&out, all)
		}
	}
	(&family{"infractl_agent_containers_omitted", "gauge", "Running containers beyond the first 250, which the page leaves out.", nil}).head(&out)
	out.WriteString("infractl_agent_containers_omitted " + strconv.Itoa(omitted) + "\n")
	return out.Bytes()
}

// labels are those of every series of a container, as cAdvisor has them.
func labels(k *known) string {
	return `container_label_com_docker_compose_project="` + label(k.Project()) + `",container_label_com_docker_compose_service="` +
		label(k.Service()) + `",id="` + label(k.groups.id) + `",image="` + label(k.Image) + `",name="` + label(k.Name) + `"`
}

// label bounds and escapes what others choose.
func label(s string) string {
	const most = 256
	if len(s) > most {
		s = s[:most]
	}
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(strings.ToValidUTF8(s, "?"))
}

func (f *family) head(out *bytes.Buffer) {
	out.WriteString("# HELP " + f.name + " " + f.help + "\n# TYPE " + f.name + " " + f.kind + "\n")
}

func (f *family) write(out *bytes.Buffer, all []seen) {
	headed := false
	for i := range all {
		s := &all[i]
		f.of(s, func(more string, v float64) {
			if !headed {
				f.head(out)
				headed = true
			}
			out.WriteString(f.name)
			out.WriteByte('{')
			out.WriteString(s.labels)
			out.WriteString(more)
			out.WriteString("} ")
			out.Write(strconv.AppendFloat(out.AvailableBuffer(), v, 'g', -1, 64))
			out.WriteByte('\n')
		})
	}
}

// families are all metrics of containers.
func (c *containers) families() []family {
	var list []family
	plain := func(kind, name, help string, of func(*sample) float64) {
		list = append(list, family{"container_" + name, kind, help, func(s *seen, add func(string, float64)) {
			if v := of(&s.sample); v >= 0 { // what the kernel does not tell is negative
				add("", v)
			}
		}})
	}
	quota := func(s *sample, v float64) float64 { // cAdvisor leaves these out where there is no quota
		if s.quota <= 0 || s.periods < 0 {
			return -1
		}
		return v
	}
	list = append(list, family{"container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.",
		func(s *seen, add func(string, float64)) { add(`,cpu="total"`, s.sample.cpu) }})
	plain("counter", "cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", func(s *sample) float64 { return s.user })
	plain("counter", "cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", func(s *sample) float64 { return s.system })
	plain("counter", "cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", func(s *sample) float64 { return quota(s, s.periods) })
	plain("counter", "cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", func(s *sample) float64 { return quota(s, s.throttled) })
	plain("counter", "cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", func(s *sample) float64 { return quota(s, s.throttledTime) })
	plain("gauge", "memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed.", func(s *sample) float64 { return s.memory })
	plain("gauge", "memory_working_set_bytes", "Current working set in bytes.", func(s *sample) float64 { return s.workingSet })
	plain("gauge", "memory_rss", "Size of RSS in bytes.", func(s *sample) float64 { return s.rss })
	plain("gauge", "memory_cache", "Number of bytes of page cache memory.", func(s *sample) float64 { return s.cache })
	plain("gauge", "memory_max_usage_bytes", "Maximum memory usage recorded in bytes.", func(s *sample) float64 { return s.maxMemory })
	plain("counter", "oom_events_total", "Count of out of memory events observed for the container.", func(s *sample) float64 { return s.oomKills })
	plain("gauge", "threads", "Number of threads running inside the container.", func(s *sample) float64 { return s.threads })
	plain("gauge", "spec_cpu_period", "CPU period of the container.", func(s *sample) float64 { return s.period })
	plain("gauge", "spec_cpu_quota", "CPU quota of the container.", func(s *sample) float64 {
		if s.quota == 0 {
			return -1
		}
		return s.quota
	})
	plain("gauge", "spec_cpu_shares", "CPU share of the container.", func(s *sample) float64 { return s.shares })
	plain("gauge", "spec_memory_limit_bytes", "Memory limit for the container.", func(s *sample) float64 { return s.limit })
	now := float64(c.now().Unix())
	plain("gauge", "last_seen", "Last time a container was seen by the exporter.", func(*sample) float64 { return now })
	list = append(list, family{"container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.",
		func(s *seen, add func(string, float64)) {
			if !s.started.IsZero() {
				add("", float64(s.started.Unix()))
			}
		}})
	return append(append(list, networkFamilies()...), diskFamilies()...)
}

func networkFamilies() (list []family) {
	for _, f := range []struct {
		what string
		of   func(traffic) float64
	}{
		{"receive_bytes", func(t traffic) float64 { return t.receivedBytes }}, {"receive_packets", func(t traffic) float64 { return t.receivedPackets }},
		{"receive_errors", func(t traffic) float64 { return t.receivedErrors }}, {"receive_packets_dropped", func(t traffic) float64 { return t.receivedDropped }},
		{"transmit_bytes", func(t traffic) float64 { return t.sentBytes }}, {"transmit_packets", func(t traffic) float64 { return t.sentPackets }},
		{"transmit_errors", func(t traffic) float64 { return t.sentErrors }}, {"transmit_packets_dropped", func(t traffic) float64 { return t.sentDropped }},
	} {
		list = append(list, family{"container_network_" + f.what + "_total", "counter", "Cumulative count of " + strings.ReplaceAll(f.what, "_", " ") + ".",
			func(s *seen, add func(string, float64)) {
				for name, t := range s.traffic {
					add(`,interface="`+label(name)+`"`, f.of(t))
				}
			}})
	}
	return list
}

func diskFamilies() (list []family) {
	for _, f := range []struct {
		what string
		of   func(device) float64
	}{
		{"reads_bytes", func(d device) float64 { return d.readBytes }}, {"writes_bytes", func(d device) float64 { return d.writtenBytes }},
		{"reads", func(d device) float64 { return d.reads }}, {"writes", func(d device) float64 { return d.writes }},
	} {
		list = append(list, family{"container_fs_" + f.what + "_total", "counter", "Cumulative count of " + strings.ReplaceAll(f.what, "_", " in ") + ".",
			func(s *seen, add func(string, float64)) {
				for name, d := range s.sample.devices {
					add(`,device="`+label(name)+`"`, f.of(d))
				}
			}})
	}
	return list
}
