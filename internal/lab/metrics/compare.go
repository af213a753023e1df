package metrics

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab/demo"
)

// Difference is a metric name with its label names that Debian's page has and the agent's lacks.
type Difference struct {
	// Series is "name{label,label}".
	Series string
	// Why explains it; empty when nothing does.
	Why string
}

// explanations say why a series of Debian's node exporter, 1.5.0 in Debian 12, is not on the agent's page. Each is a change that
// node_exporter or its Go runtime has made since.
func explanations() map[string]string {
	why := map[string]string{
		"go_memstats_lookups_total{}":                                             "Go's runtime does not count lookups any more; the library dropped the number, which was always 0",
		"node_disk_info{device,major,minor,model,path,revision,serial,wwn}":       "the label rotational came in addition",
		"node_exporter_build_info{branch,goarch,goos,goversion,revision,version}": "the label tags came in addition",
		"node_network_info{address,broadcast,device,duplex,ifalias,operstate}":    "the label adminstate came in addition",
	}
	for _, name := range []string{"avail_bytes", "device_error", "files", "files_free", "free_bytes", "readonly", "size_bytes"} {
		why["node_filesystem_"+name+"{device,fstype,mountpoint}"] = "the label device_error came in addition"
	}
	return why
}

// Compare starts Debian's node exporter on a VM, reads both pages, and returns what the agent's lacks and how many series
// names were compared. Values and the number of series of a name are not compared: they change between two looks.
func Compare(ctx context.Context, s *demo.Site, vm, address string) (differences []Difference, compared int, err error) {
	const op = "compare with Debian's node exporter"
	machine := s.Lab.VM(vm)
	if err := machine.WriteFile(ctx, "/etc/default/prometheus-node-exporter", 0o644,
		[]byte("ARGS=\"--web.listen-address=127.0.0.1:19100\"\n")); err != nil {
		return nil, 0, errs.Wrap(op, err)
	}
	if _, err := machine.Must(ctx, "systemctl", "restart", "prometheus-node-exporter.service"); err != nil {
		return nil, 0, errs.Wrap(op, err)
	}
	defer machine.Exec(context.WithoutCancel(ctx), "systemctl", "stop", "prometheus-node-exporter.service") //nolint:errcheck // it goes with the VM
	theirs := ""
	if err := wait(ctx, 20*time.Second, func() (bool, error) {
		r, err := machine.Exec(ctx, "curl", "--silent", "--fail", "http://127.0.0.1:19100/metrics")
		theirs = r.Stdout
		return r.Code == 0 && err == nil, nil
	}); err != nil {
		return nil, 0, errs.Wrap(op, err)
	}
	ours, err := Page(ctx, s, address)
	if err != nil {
		return nil, 0, errs.Wrap(op, err)
	}
	have, want, why := Series(ours), Series(theirs), explanations()
	for _, series := range want {
		if _, found := slices.BinarySearch(have, series); !found {
			differences = append(differences, Difference{series, why[series]})
		}
	}
	return differences, len(want), nil
}

// Series returns the names of a page's metrics with the names of their labels, each once, sorted.
func Series(page string) []string {
	label := regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="(?:[^"\\]|\\.)*"`)
	seen := map[string]bool{}
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		name, rest, labelled := strings.Cut(line, "{")
		if !labelled {
			name, _, _ = strings.Cut(line, " ")
		}
		var labels []string
		if labelled {
			for _, m := range label.FindAllStringSubmatch(rest, -1) {
				labels = append(labels, m[1])
			}
		}
		slices.Sort(labels)
		seen[name+"{"+strings.Join(labels, ",")+"}"] = true
	}
	out := make([]string, 0, len(seen))
	for s := range seen {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}
