package app

import (
	"context"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// proxyTurn bounds one turn of the queue of certificates, during which nothing is applied.
const proxyTurn = 5 * time.Minute

// keepProxy goes on with the queue of certificates, never beside an apply.
func (a *App) keepProxy(ctx context.Context) {
	if a.providers.Proxy == nil || a.engine.Spec().GetProxy() == nil {
		return
	}
	var done []string
	var err error
	alone := a.engine.Alone(ctx, func() {
		turn, cancel := context.WithTimeout(ctx, proxyTurn)
		defer cancel()
		done, err = a.providers.Proxy.Tend(turn)
	})
	if err = errs.Join(alone, err); err != nil && ctx.Err() == nil {
		a.log.Warn("cannot go on with the queue of certificates", "error", err)
	}
	for _, name := range done {
		a.log.Info("the proxy's queue went on", "host", name)
	}
}

// proxyWarnings say which names wait for a certificate.
func (a *App) proxyWarnings() []string {
	if a.providers.Proxy == nil || a.engine.Spec().GetProxy() == nil {
		return nil
	}
	return a.providers.Proxy.Warnings()
}
