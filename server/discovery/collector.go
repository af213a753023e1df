package discovery

import (
	"context"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/infractl/infractl/internal/clock"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// CollectorConfig is what a Collector reads.
type CollectorConfig struct {
	// Nodes returns all nodes as operators see them.
	Nodes func(context.Context) ([]*v1.Node, error)
	// Rollouts returns the newest rollouts.
	Rollouts func(ctx context.Context, limit int) ([]*v1.Rollout, error)
	// Instances tells of each of the customers' instances and returns how many are in each state; nil: there are none.
	Instances func(ctx context.Context, each func(*v1.Instance)) (map[string]int, error)
	Audit     store.Audit
	// StoreDir is the folder of the database.
	StoreDir string
	Clock    clock.Clock
	Log      hclog.Logger
}

// keptRollouts is how many rollouts are counted, newest first.
const keptRollouts = 50

// Collector shows the site's state. It reads the store at each scrape, so that it never shows what is over.
type Collector struct {
	cfg CollectorConfig

	nodes, inSync, drift, seen, certificate, clock, rollouts, instances, size, audit, failed *prometheus.Desc

	instance, instanceUp, instanceDisk, instanceDiskLimit *prometheus.Desc
}

// NewCollector returns a collector.
func NewCollector(cfg CollectorConfig) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("infractl_"+name, help, labels, nil)
	}
	return &Collector{cfg: cfg,
		nodes:       desc("nodes", "Nodes and probes, by state.", "state"),
		inSync:      desc("node_in_sync", "Whether the node is all that it should be, without drift.", "node"),
		drift:       desc("node_drift", "Differences from its spec that the node last saw.", "node"),
		seen:        desc("node_last_seen_age_seconds", "Time since the node was last heard.", "node"),
		certificate: desc("node_certificate_not_after_seconds", "When the node's certificate expires, in seconds since 1970.", "node"),
		clock:       desc("clock_offset_seconds", "How far the node's clock is ahead, as it last reported; nothing while it follows no source.", "node"),
		rollouts:    desc("rollouts", "The newest rollouts, 50 at most, by state.", "state"),
		instances:   desc("instances", "Customers' instances, by state.", "state"),
		// The label is no "instance": that is the target's.
		instance:          desc("instance_info", "What a customer's instance is; id is in the names of its containers.", "name", "id", "node", "version", "state"),
		instanceUp:        desc("instance_up", "Whether a customer's instance that should work does, as its host last said.", "name"),
		instanceDisk:      desc("instance_disk_bytes", "What a customer's instance holds on its host's disk.", "name"),
		instanceDiskLimit: desc("instance_disk_limit_bytes", "What it may hold there.", "name"),

		size:   desc("store_bytes", "Size of the database with its journal."),
		audit:  desc("audit_entries_total", "Audit entries that were ever written."),
		failed: desc("scrape_failed", "Whether a part of these numbers could not be read.", "part"),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.nodes, c.inSync, c.drift, c.seen, c.certificate, c.clock, c.rollouts, c.instances, c.instance, c.instanceUp, c.instanceDisk,
		c.instanceDiskLimit, c.size, c.audit, c.failed} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeLimit/2)
	defer cancel()
	for _, part := range []struct {
		name string
		read func(context.Context, chan<- prometheus.Metric) error
	}{{"nodes", c.collectNodes}, {"rollouts", c.collectRollouts}, {"instances", c.collectInstances}, {"store", c.collectStore}} {
		failed := 0.0
		if err := part.read(ctx, out); err != nil {
			failed = 1
			c.cfg.Log.Warn("metrics not read", "part", part.name, "error", err)
		}
		out <- gauge(c.failed, failed, part.name)
	}
}

func gauge(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (c *Collector) collectNodes(ctx context.Context, out chan<- prometheus.Metric) error {
	nodes, err := c.cfg.Nodes(ctx)
	if err != nil {
		return err
	}
	counts := zeros(v1.NodeState_name, "NODE_STATE_")
	told := map[string]bool{} // a second machine under a name has no numbers of its own
	for _, n := range nodes {
		counts[word(n.GetState().String(), "NODE_STATE_")]++
		if n.GetEnrolled() == nil || told[n.GetName()] || n.GetState() == v1.NodeState_NODE_STATE_REVOKED {
			continue
		}
		told[n.GetName()] = true
		c.collectNode(n, out)
	}
	emit(out, c.nodes, counts)
	return nil
}

func (c *Collector) collectNode(n *v1.Node, out chan<- prometheus.Metric) {
	name, state := n.GetName(), n.GetHostState()
	if n.GetWantedDigest() != "" {
		sync := 0.0
		if state.GetNarrowedDigest() == n.GetWantedDigest() && state.GetArmedCommit() == "" && len(state.GetDrift())+len(state.GetDegraded()) == 0 {
			sync = 1
		}
		out <- gauge(c.inSync, sync, name)
		out <- gauge(c.drift, float64(len(state.GetDrift())), name)
	}
	if n.GetLastSeen() != nil {
		out <- gauge(c.seen, max(0, c.cfg.Clock.Now().Sub(n.GetLastSeen().AsTime()).Seconds()), name)
	}
	if n.GetClock().GetSynchronised() {
		out <- gauge(c.clock, n.GetClock().GetOffsetSeconds(), name)
	}
	if n.GetCertificateNotAfter() != nil {
		out <- gauge(c.certificate, float64(n.GetCertificateNotAfter().AsTime().Unix()), name)
	}
}

func (c *Collector) collectRollouts(ctx context.Context, out chan<- prometheus.Metric) error {
	list, err := c.cfg.Rollouts(ctx, keptRollouts)
	if err != nil {
		return err
	}
	counts := zeros(v1.RolloutState_name, "ROLLOUT_STATE_")
	for _, r := range list {
		counts[word(r.GetState().String(), "ROLLOUT_STATE_")]++
	}
	emit(out, c.rollouts, counts)
	return nil
}

func (c *Collector) collectInstances(ctx context.Context, out chan<- prometheus.Metric) error {
	if c.cfg.Instances == nil {
		return nil
	}
	counts, err := c.cfg.Instances(ctx, func(i *v1.Instance) { c.collectInstance(i, out) })
	if err != nil {
		return err
	}
	emit(out, c.instances, counts)
	return nil
}

func (c *Collector) collectInstance(i *v1.Instance, out chan<- prometheus.Metric) {
	name := i.GetName()
	out <- gauge(c.instance, 1, name, i.GetId(), i.GetNode(), i.GetVersion(), word(i.GetState().String(), "INSTANCE_STATE_"))
	switch i.GetState() {
	case v1.InstanceState_INSTANCE_STATE_ACTIVE:
		out <- gauge(c.instanceUp, 1, name)
	case v1.InstanceState_INSTANCE_STATE_BROKEN:
		out <- gauge(c.instanceUp, 0, name)
	}
	if d := i.GetDisk(); d != nil {
		out <- gauge(c.instanceDisk, float64(d.GetBytes()), name)
		if d.GetLimitBytes() > 0 {
			out <- gauge(c.instanceDiskLimit, float64(d.GetLimitBytes()), name)
		}
	}
}

func (c *Collector) collectStore(ctx context.Context, out chan<- prometheus.Metric) error {
	latest, err := c.cfg.Audit.ListAudit(ctx, store.AuditFilter{Limit: 1, Reverse: true})
	if err != nil {
		return err
	}
	entries := 0.0
	if len(latest) > 0 {
		entries = float64(latest[0].Seq)
	}
	out <- prometheus.MustNewConstMetric(c.audit, prometheus.CounterValue, entries)
	out <- gauge(c.size, float64(folderSize(c.cfg.StoreDir)))
	return nil
}

// zeros makes a count for each state, so that a state that nothing is in shows as 0.
func zeros(names map[int32]string, prefix string) map[string]int {
	counts := make(map[string]int, len(names))
	for number, name := range names {
		if number != 0 {
			counts[word(name, prefix)] = 0
		}
	}
	return counts
}

func word(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

func emit(out chan<- prometheus.Metric, d *prometheus.Desc, counts map[string]int) {
	for state, n := range counts {
		out <- gauge(d, float64(n), state)
	}
}

// folderSize counts what it can see: files of a database come and go.
func folderSize(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				bytes += info.Size()
			}
		}
		return nil
	})
	return bytes
}
