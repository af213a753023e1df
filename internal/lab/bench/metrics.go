package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/metrics"
)

// manyContainers is how many containers a scrape is measured with.
const manyContainers = 40

// watching measures the metrics page: what a real Prometheus sees, what Debian's node exporter has, and what scrapes cost.
func watching(ctx context.Context, o Options, r *Report) error {
	s, err := demo.Boot(ctx, demo.Options{Root: o.Root, Bin: o.Bin, Dir: filepath.Join(o.Dir, "metrics"), Name: "bench-metrics", Out: o.Out})
	if s != nil {
		defer s.Down(context.WithoutCancel(ctx)) //nolint:errcheck // the lab's own report says what stayed
	}
	if err != nil {
		return err
	}
	if err := s.Apply(ctx); err != nil {
		return err
	}
	if err := metrics.StartPrometheus(ctx, s); err != nil {
		return err
	}
	up, err := metrics.WaitUp(ctx, s, time.Minute)
	count := 0
	for _, v := range up {
		count += int(v)
	}
	r.All("pages that Debian's Prometheus finds and reads", count, len(demo.Nodes())+1, "six nodes and the server, through HTTP service discovery")
	if err != nil {
		return err
	}
	differences, compared, err := metrics.Compare(ctx, s, demo.Prod, "10.0.10.20")
	if err != nil {
		return err
	}
	unexplained := 0
	for _, d := range differences {
		why := d.Why
		if why == "" {
			unexplained++
			why = "NOT EXPLAINED"
		}
		r.say("     not on the agent's page: %s: %s", d.Series, why)
	}
	r.Stated("series names of Debian's node exporter", float64(compared), "names", "name and label names, same VM, same moment")
	r.AtMost("of these missing without an explanation", float64(unexplained), 0, "names", "goal of the issue")
	return scrapeCost(ctx, s, r)
}

func scrapeCost(ctx context.Context, s *demo.Site, r *Report) error {
	// Scrapes take turns, and its Prometheus reads six pages on the same two cores.
	if err := metrics.StopPrometheus(ctx, s); err != nil {
		return err
	}
	if err := metrics.StartContainers(ctx, s, manyContainers); err != nil {
		return err
	}
	time.Sleep(11 * time.Second) // until the list of containers is read anew
	if _, err := metrics.Page(ctx, s, "10.0.10.20"); err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	cost, err := metrics.Measure(ctx, s, demo.Prod, "10.0.10.20", 200)
	if err != nil {
		return err
	}
	r.All("containers on the page", cost.Containers, manyContainers, "from cgroup files")
	r.AtMost("scrape with 40 containers, p99", float64(cost.P99.Microseconds())/1000, 60, "ms", "200 scrapes over one TLS connection; the page is "+
		bytesOf(cost.Bytes))
	r.Stated("scrape with 40 containers, median", float64(cost.P50.Microseconds())/1000, "ms", "same")
	r.AtMost("scrapes at 15 s, share of one core", cost.CPU.Seconds()/15*100, 2, "%", "the agent's processor time per scrape / 15 s")
	r.Stated("agent resident right after 200 scrapes with 40 containers", cost.BusyRSS/1e6, "MB", "same")
	r.AtMost("agent resident at rest after them", cost.RSS/1e6, 30, "MB", "Elastic agent 220-280 MB (published)")
	return nil
}

func bytesOf(n int) string { return fmt.Sprintf("%d KB", n/1000) }
