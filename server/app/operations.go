package app

import (
	"context"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/server/api"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/session"
)

// operations is the part of the server that knows site revisions and rollouts.
type operations struct {
	cfg       Config
	revisions *revision.Revisions
	rollouts  *rollout.Rollouts
	api       *api.API
}

func newOperations(a *App) *operations {
	o := &operations{cfg: a.cfg}
	o.revisions = revision.New(revision.Config{Records: a.store, Nodes: a.fleet, Clock: a.cfg.Clock, Site: a.authority.Site()})
	o.rollouts = rollout.New(rollout.Config{Store: a.store, Fleet: a.fleet, Hub: a.hub,
		Revisions: rollout.FromRevisions(o.revisions), Clock: a.cfg.Clock, Log: a.cfg.Log.Named("rollout")})
	o.api = api.New(api.Config{Revisions: o.revisions, Rollouts: o.rollouts, Hub: a.hub, Fleet: a.fleet, Audit: a.store,
		Clock: a.cfg.Clock, Log: a.cfg.Log.Named("api")})
	return o
}

func (o *operations) site() fleet.Site {
	if o.cfg.site != nil {
		return o.cfg.site
	}
	return api.SiteInfo{Revisions: o.revisions, Rollouts: o.rollouts}
}

func (o *operations) confirmer() session.Confirmer { return o.rollouts }

func (o *operations) register(s grpc.ServiceRegistrar) { o.api.Register(s) }

func (o *operations) run(start func(string, func(context.Context) error)) {
	start("rollouts", o.rollouts.Run)
}
