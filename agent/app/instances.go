package app

import (
	"context"

	"github.com/infractl/infractl/internal/errs"
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
