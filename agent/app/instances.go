package app

import (
	"context"

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
	var size, free uint64
	if out.Instances, size, free = a.providers.Instances.Disk(); len(out.Instances) > 0 {
		out.InstanceSpaceBytes, out.InstanceSpaceFreeBytes = size, free
	}
	return out, nil
}
