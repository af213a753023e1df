package app

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider/router"
	"github.com/infractl/infractl/agent/provider/timesync"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// observeEvery is how often clock and router are looked at while nothing happens.
const observeEvery = time.Minute

// observer looks now and then at what changes by itself: the clock, and who came through the router's tunnel.
type observer struct {
	host   *host.Host
	router Router // nil where the host is none
	spec   func() *v1.HostSpec
	offset prometheus.Gauge
	synced prometheus.Gauge

	mu     sync.Mutex
	clock  *v1.ClockReport
	routes *v1.RouterReport
}

func newObserver(h *host.Host, router Router, spec func() *v1.HostSpec, registry prometheus.Registerer) *observer {
	o := &observer{host: h, router: router, spec: spec,
		offset: prometheus.NewGauge(prometheus.GaugeOpts{Name: "infractl_clock_offset_seconds",
			Help: "How far the host's clock is ahead, as its time service says; negative when it is behind."}),
		synced: prometheus.NewGauge(prometheus.GaugeOpts{Name: "infractl_clock_synchronised",
			Help: "1 while the host's clock follows a source."})}
	registry.MustRegister(o.offset, o.synced)
	return o
}

// Look looks at both now.
func (o *observer) Look(ctx context.Context) {
	clock := timesync.Report(ctx, o.host)
	var routes *v1.RouterReport
	if o.router != nil {
		routes = o.router.Report(ctx, o.spec())
	}
	if ctx.Err() != nil { // it was cut short and may have gaps
		return
	}
	o.offset.Set(clock.GetOffsetSeconds())
	o.synced.Set(0)
	if clock.GetSynchronised() {
		o.synced.Set(1)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clock, o.routes = timesync.Coarse(o.clock, clock), routes
}

// Clock implements session.Observed.
func (o *observer) Clock() *v1.ClockReport {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.clock
}

// Router implements session.Observed.
func (o *observer) Router() *v1.RouterReport {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.routes
}

// observe looks until ctx ends, and tells the server what changed.
func (a *App) observe(ctx context.Context) {
	for {
		a.observer.Look(ctx)
		if s := a.current(); s != nil {
			s.Report()
		}
		if enrol.Sleep(ctx, observeEvery) != nil {
			return
		}
	}
}

// routerWarnings are what the router's host has otherwise than the site says.
func (a *App) routerWarnings(ctx context.Context) []string {
	if w, ok := a.providers.Router.(interface {
		Warnings(context.Context, *v1.RouterSpec) []string
	}); ok {
		return w.Warnings(ctx, a.engine.Spec().GetRouter())
	}
	return nil
}

// repairers are the providers that put back what of theirs is gone.
func (a *App) repairers() []repairer {
	var list []repairer
	if a.providers.Firewall != nil {
		list = append(list, a.providers.Firewall)
	}
	if r, ok := a.providers.Router.(repairer); ok {
		list = append(list, r)
	}
	return list
}

type repairer interface {
	Repair(ctx context.Context) ([]string, error)
}

// linuxRouter is the router's section of a spec, for a Linux host that is one.
func linuxRouter(s *v1.HostSpec) (*v1.RouterSpec, bool) {
	return s.GetRouter(), s.GetRouter().GetPlatform() == router.Platform
}
