package app

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/infractl/infractl/agent/provider/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// keepInstances brings containers of instances back that are gone, never beside an apply.
func (a *App) keepInstances(ctx context.Context) {
	if a.providers.Instances == nil || a.engine.Spec().GetDolibarr() == nil {
		return
	}
	var done []string
	var err error
	alone := a.engine.Alone(ctx, func() { done, err = a.providers.Instances.Repair(ctx) })
	if err = errs.Join(alone, err); err != nil && ctx.Err() == nil {
		a.log.Warn("cannot repair the instances", "error", err)
	}
	for _, line := range done {
		a.log.Warn("instances were repaired", "what", line)
	}
}

// watchInstances measures what instances hold on the disk until ctx ends.
func (a *App) watchInstances(ctx context.Context) {
	if a.providers.Instances == nil {
		return
	}
	a.providers.Instances.WatchDisk(ctx, func(ctx context.Context, do func()) error {
		if a.copied() {
			return nil // a copy changes nothing by itself
		}
		return a.engine.Alone(ctx, do)
	})
}

// usage is what host and containers use, and what instances hold.
func (a *App) usage(ctx context.Context, task *v1.UsageTask) (*v1.UsageResult, error) {
	out, err := a.metrics.Usage().Measure(ctx, task)
	if err != nil || a.providers.Instances == nil {
		return out, err
	}
	list, size, free := a.providers.Instances.Disk()
	for _, h := range list {
		out.Instances = append(out.Instances, h.InstanceDisk)
	}
	if len(list) > 0 {
		out.InstanceSpaceBytes, out.InstanceSpaceFreeBytes = size, free
	}
	return out, nil
}

// instanceDisk exports what instances hold.
type instanceDisk struct {
	instances          *dolibarr.Provider
	bytes, limit, full *prometheus.Desc
}

func newInstanceDisk(p *dolibarr.Provider) *instanceDisk {
	labels := []string{"id", "name"}
	return &instanceDisk{instances: p,
		bytes: prometheus.NewDesc("infractl_instance_disk_bytes", "What an instance holds on the disk.", labels, nil),
		limit: prometheus.NewDesc("infractl_instance_disk_limit_bytes", "What an instance may hold on the disk; absent without a limit.", labels, nil),
		full:  prometheus.NewDesc("infractl_instance_disk_full", "1 while the front keeps uploads out of a full instance.", labels, nil)}
}

// Describe implements prometheus.Collector.
func (d *instanceDisk) Describe(ch chan<- *prometheus.Desc) {
	ch <- d.bytes
	ch <- d.limit
	ch <- d.full
}

// Collect implements prometheus.Collector.
func (d *instanceDisk) Collect(ch chan<- prometheus.Metric) {
	list, _, _ := d.instances.Disk()
	for _, h := range list {
		gauge := func(of *prometheus.Desc, value float64) {
			ch <- prometheus.MustNewConstMetric(of, prometheus.GaugeValue, value, h.GetId(), h.Name)
		}
		gauge(d.bytes, float64(h.GetBytes()))
		if h.GetLimitBytes() > 0 {
			gauge(d.limit, float64(h.GetLimitBytes()))
		}
		full := 0.0
		if h.GetFull() {
			full = 1
		}
		gauge(d.full, full)
	}
}
