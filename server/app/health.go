package app

import (
	"context"
	"time"

	"github.com/infractl/infractl/server/health"
	"github.com/infractl/infractl/server/store"
)

func (a *App) newHealth() *health.Health {
	return health.New(health.Config{Clock: a.cfg.Clock, Log: a.cfg.Log.Named("health"), DataDir: a.cfg.DataDir,
		Skews: a.hub.Skews, Jumped: a.clockJumped})
}

// clockJumped mends what a jump of the clock breaks: the server's certificate may not be valid yet, and agents follow the
// server's time, which they learn when they connect.
func (a *App) clockJumped(ctx context.Context, by time.Duration) {
	if err := a.certificate.Reissue(); err != nil {
		a.cfg.Log.Error("server certificate not made anew after a jump of the clock", "error", err)
	}
	a.recorder.Write(ctx, store.AuditEntry{Actor: "system", Action: "clock.jump", Target: "server", Result: "ok", Message: by.Round(time.Second).String()})
	a.hub.Reconnect("the server's clock was put forward or back")
}
