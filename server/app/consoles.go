package app

import (
	"context"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/console"
	"github.com/infractl/infractl/server/revision"
)

func newConsoles(a *App, revisions *revision.Revisions) *console.Consoles {
	return console.New(console.Config{Hub: a.hub, Wanted: wantedSpecs{revisions}, Recorder: a.recorder, Good: a.stillGood,
		Clock: a.cfg.Clock, Log: a.cfg.Log.Named("console"), Limits: a.cfg.Consoles})
}

// stillGood looks an identity up again while a console of it is open: neither a revocation nor the end of a certificate waits for
// the end of a stream.
func (a *App) stillGood(ctx context.Context, caller access.Caller) error {
	revoked, err := a.fleet.Revoked.Get(ctx, caller.KeyHash)
	switch {
	case err == nil:
		return access.RevokedError(a.authority, caller.Identity.Serial, caller.KeyHash, revoked.Value.Identity)
	case !errs.Is(err, errs.NotFound):
		return errs.Wrap("look up revocation", err)
	case !a.cfg.Clock.Now().Before(caller.Identity.NotAfter):
		return errs.New(errs.Unauthenticated, "the certificate of %s has expired", caller.Actor)
	}
	return nil
}
