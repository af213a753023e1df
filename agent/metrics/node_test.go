package metrics

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/node_exporter/collector"
)

// stub is a collector whose behaviour the test chooses.
type stub func(ch chan<- prometheus.Metric) error

// Update implements collector.Collector.
func (s stub) Update(ch chan<- prometheus.Metric) error { return s(ch) }

func gather(t *testing.T, c prometheus.Collector) map[string]map[string]float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return values(families)
}

// values are those of gauges and counters, by metric and labels.
func values(families []*dto.MetricFamily) map[string]map[string]float64 {
	out := map[string]map[string]float64{}
	for _, f := range families {
		out[f.GetName()] = map[string]float64{}
		for _, m := range f.GetMetric() {
			key := ""
			for _, l := range m.GetLabel() {
				key += l.GetName() + "=" + l.GetValue() + ","
			}
			out[f.GetName()][key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

func TestCollectorThatHangsIsLeftOut(t *testing.T) {
	desc := prometheus.NewDesc("good", "A number.", nil, nil)
	good := stub(func(ch chan<- prometheus.Metric) error {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, 7)
		return nil
	})
	release, calls := make(chan struct{}), make(chan struct{}, 10)
	dead := stub(func(chan<- prometheus.Metric) error {
		calls <- struct{}{}
		<-release
		return nil
	})
	broken := stub(func(chan<- prometheus.Metric) error { return errors.New("no such file") })
	defect := stub(func(chan<- prometheus.Metric) error { panic("index out of range") })
	c := newRunner(func() (map[string]collector.Collector, error) {
		return map[string]collector.Collector{"good": good, "dead": dead, "broken": broken, "defect": defect}, nil
	}, hclog.NewNullLogger())
	c.limit = 20 * time.Millisecond
	want := map[string]float64{"collector=good,": 1, "collector=dead,": 0, "collector=broken,": 0, "collector=defect,": 0}
	for range 3 { // the second and third time it is not even asked
		got := gather(t, c)
		if got["good"][""] != 7 {
			t.Errorf("good = %v", got["good"])
		}
		for name, ok := range want {
			if got["node_scrape_collector_success"][name] != ok {
				t.Errorf("success of %s = %v, want %v", name, got["node_scrape_collector_success"][name], ok)
			}
		}
	}
	if len(calls) != 1 {
		t.Errorf("the hanging collector was asked %d times, want once", len(calls))
	}
	close(release)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if gather(t, c)["node_scrape_collector_success"]["collector=dead,"] == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a collector that came back is still left out")
		}
	}
}

func TestMemoryThatTheCollectorDoesNotKnow(t *testing.T) {
	given := []prometheus.Metric{prometheus.MustNewConstMetric(prometheus.NewDesc("node_memory_MemTotal_bytes", "x", nil, nil), prometheus.GaugeValue, 1)}
	got := moreMemory(given, []string{"MemTotal: 1 kB", "Balloon:  2 kB", "Active(new): 3 kB", "Pages_Total: 4", "", "bad-name: 5", "empty:"})
	want := map[string]float64{"node_memory_Balloon_bytes": 2048, "node_memory_Active_new_bytes": 3072, "node_memory_Pages_Total": 4}
	all := gather(t, stubMetrics(got))
	if len(all) != len(want) {
		t.Errorf("metrics = %v", all)
	}
	for name, v := range want {
		if all[name][""] != v {
			t.Errorf("%s = %v, want %v", name, all[name][""], v)
		}
	}
}

// stubMetrics is a collector of fixed metrics.
type stubMetrics []prometheus.Metric

// Describe implements prometheus.Collector.
func (stubMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (s stubMetrics) Collect(out chan<- prometheus.Metric) {
	for _, m := range s {
		out <- m
	}
}
