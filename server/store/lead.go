package store

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/errs"
)

// LeadConfig says who leads what.
type LeadConfig struct {
	Leases Leases
	// Name is the lease, Holder this server's name in it. A holder that is the same over a restart need not wait for its own
	// lease.
	Name, Holder string
	// Life is how long the lease lives without being renewed.
	Life time.Duration
	Log  hclog.Logger
}

// Lead calls lead whenever this server holds the lease, again and again until ctx ends. The context of lead ends when the
// lease is lost; what it returned is logged, and it begins again after a moment.
func Lead(ctx context.Context, cfg LeadConfig, lead func(context.Context) error) {
	for ctx.Err() == nil {
		lease, err := cfg.Leases.Acquire(ctx, cfg.Name, cfg.Holder, cfg.Life)
		if err != nil {
			if !errs.Is(err, errs.Conflict) && ctx.Err() == nil {
				cfg.Log.Error("cannot take the leader's lease", "lease", cfg.Name, "error", err)
			}
			rest(ctx, cfg.Life/5)
			continue
		}
		if err := leadWith(ctx, cfg, lease, lead); err != nil && ctx.Err() == nil {
			cfg.Log.Error("the leader's work stopped and begins again", "lease", cfg.Name, "error", err)
			rest(ctx, min(time.Second, cfg.Life/5))
		}
	}
}

// leadWith leads for as long as the lease can be renewed.
func leadWith(ctx context.Context, cfg LeadConfig, lease Lease, lead func(context.Context) error) error {
	leading, stop := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	renewal.Go(func() {
		defer stop()
		for rest(leading, cfg.Life/3) {
			renewed, err := cfg.Leases.Renew(leading, lease, cfg.Life)
			if err != nil {
				if leading.Err() == nil {
					cfg.Log.Warn("lost the leader's lease", "lease", cfg.Name, "error", err)
				}
				return
			}
			lease = renewed
		}
	})
	err := lead(leading)
	stop()
	renewal.Wait()
	if rerr := cfg.Leases.Release(context.WithoutCancel(ctx), lease); rerr != nil {
		cfg.Log.Debug("could not give back the leader's lease", "lease", cfg.Name, "error", rerr)
	}
	return err
}

// rest waits for d and reports whether ctx still goes on.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
