package app

import (
	"context"
	"errors"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/discovery"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/identity"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// newPages makes what is read over HTTP on the main listener.
func (a *App) newPages(site fleet.Site) *discovery.Server {
	return discovery.New(discovery.Config{SiteName: a.authority.Site(), Site: site, Fleet: a.fleet, Gatherer: a.registry,
		Addresses: func() []string { sessions, _ := a.advertised(); return sessions },
		Admit:     a.gate(access.Main).Page, Log: a.cfg.Log.Named("discovery")})
}

// servePages registers what only a complete server can tell, and answers.
func (a *App) servePages(nodes *identity.Nodes) {
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		discovery.NewCollector(discovery.CollectorConfig{
			Nodes: func(ctx context.Context) ([]*v1.Node, error) {
				list, err := nodes.ListNodes(ctx, &v1.ListNodesRequest{})
				return list.GetNodes(), err
			},
			Rollouts: a.operations.rollouts.List, Instances: a.operations.instances.Overview, Audit: a.store, StoreDir: a.cfg.storeDir(), Clock: a.cfg.Clock,
			Log: a.cfg.Log.Named("metrics")}))
	a.serving.Go(func() {
		if err := a.pages.Serve(); err != nil && !errors.Is(err, http.ErrServerClosed) {
			a.cfg.Log.Error("pages ended", "error", err)
		}
	})
}
