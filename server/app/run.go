package app

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

const (
	cleanEvery = time.Hour
	renewEvery = 12 * time.Hour
)

// Run does the work that is not a call, until ctx ends; then it closes the server.
func (a *App) Run(ctx context.Context) error {
	a.cfg.Log.Info("server runs", "site", a.authority.Site(), "sessions", a.Addresses().Sessions,
		"enrolment", a.Addresses().Enrolment, "fingerprint", a.authority.Fingerprint())
	var work sync.WaitGroup
	start := func(name string, run func(context.Context) error) {
		work.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				a.cfg.Log.Error("a part of the server ended", "part", name, "error", err)
			}
		})
	}
	start("sessions", a.hub.Run)
	start("upkeep", a.upkeep)
	start("health", a.health.Run)
	a.operations.run(start)
	<-ctx.Done()
	work.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := a.fleet.Alive(last, a.cfg.Clock.Now()); err != nil {
		a.cfg.Log.Warn("time of shutdown not written", "error", err)
	}
	return a.Close()
}

// upkeep says that the server lives, forgets what is over, and renews the issuing certificate.
func (a *App) upkeep(ctx context.Context) error {
	alive, clean, renew := time.NewTicker(fleet.AliveEvery), time.NewTicker(cleanEvery), time.NewTicker(renewEvery)
	defer alive.Stop()
	defer clean.Stop()
	defer renew.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-alive.C:
			err = a.fleet.Alive(ctx, a.cfg.Clock.Now())
		case <-clean.C:
			err = a.clean(ctx)
		case <-renew.C:
			err = a.renew(ctx)
		}
		if err != nil && ctx.Err() == nil {
			a.cfg.Log.Error("upkeep failed", "error", err)
		}
	}
}

// renew renews the issuing certificate when it is due.
func (a *App) renew(ctx context.Context) error {
	renewed, err := a.authority.RenewIssuing()
	if renewed {
		serial := certs.SerialHex(a.authority.Issuing().SerialNumber)
		a.cfg.Log.Info("issuing certificate renewed", "serial", serial)
		a.recorder.Write(ctx, store.AuditEntry{Actor: "system", Action: "certificate.renew", Target: "issuing", Result: "ok",
			Message: "serial " + serial})
	}
	return err
}

// clean forgets what nobody needs any more. Revisions of the site are kept for good.
func (a *App) clean(ctx context.Context) error {
	if !a.health.ClockTrusted() { // what is old by a wrong clock may be young
		a.cfg.Log.Warn("nothing old is removed while the clock is in doubt")
		return nil
	}
	a.codes.Prune()
	removed, err := a.store.PruneAudit(ctx, a.cfg.Clock.Now().Add(-a.cfg.KeepAudit))
	if removed > 0 {
		a.cfg.Log.Info("old audit entries removed", "entries", removed, "older_than", a.cfg.KeepAudit)
		a.recorder.Write(ctx, store.AuditEntry{Actor: "system", Action: "audit.prune", Result: "ok",
			Message: strconv.Itoa(removed) + " entries older than " + a.cfg.KeepAudit.String()})
	}
	return errs.Join(err, a.enrolment.Prune(ctx), a.people.operators.Prune(ctx), a.vault.Prune(ctx), a.operations.rollouts.Prune(ctx),
		a.operations.engine.Prune(ctx))
}

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
