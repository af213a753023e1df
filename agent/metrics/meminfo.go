package metrics

import (
	"regexp"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// moreMemory are the lines of /proc/meminfo that today's collector passes over and earlier versions showed: it knows a fixed
// list of names, and kernels have more. given are what it gave.
func moreMemory(given []prometheus.Metric, meminfo []string) []prometheus.Metric {
	named := regexp.MustCompile(`fqName: "([^"]*)"`)
	have := make(map[string]bool, len(given))
	for _, m := range given {
		if found := named.FindStringSubmatch(m.Desc().String()); found != nil {
			have[found[1]] = true
		}
	}
	var out []prometheus.Metric
	for _, line := range meminfo {
		key, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !ok || len(f) == 0 {
			continue
		}
		name, value := "node_memory_"+strings.NewReplacer("(", "_", ")", "").Replace(key), parse(f[0])
		if len(f) > 1 && f[1] == "kB" {
			name, value = name+"_bytes", value*1024
		}
		if have[name] || !plainName(name) {
			continue
		}
		have[name] = true
		out = append(out, prometheus.MustNewConstMetric(
			prometheus.NewDesc(name, "Memory information field "+strings.TrimPrefix(name, "node_memory_")+".", nil, nil), prometheus.GaugeValue, value))
	}
	return out
}

func plainName(s string) bool {
	for _, c := range []byte(s) {
		if c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}
