package app

import (
	"context"
	"path"
	"time"

	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/agent/logins"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// watchLogins reports logins by SSH until ctx ends.
func (a *App) watchLogins(ctx context.Context) {
	logins.New(logins.Config{Host: a.host, Dir: path.Join(a.cfg.StateDir, "logins"), Log: a.log.Named("logins"), Send: a.sendEvent,
		Registerer: a.registry}).Run(ctx)
}

// eventTry bounds how long an event waits for one session: that of a new identity is another one.
const eventTry = 10 * time.Second

// sendEvent hands an event to whichever session is up next.
func (a *App) sendEvent(ctx context.Context, ev *v1.HostEvent) error {
	for {
		if s := a.current(); s != nil {
			try, cancel := context.WithTimeout(ctx, eventTry)
			err := s.Event(try, ev)
			cancel()
			if err == nil {
				return nil
			}
		}
		if err := enrol.Sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}
