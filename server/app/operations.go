package app

import (
	"context"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/session"
)

// operations is the part of the server that knows site revisions.
type operations struct {
	app       *App
	revisions *revision.Revisions
}

func newOperations(a *App) *operations {
	return &operations{app: a, revisions: revision.New(revision.Config{Records: a.store, Nodes: a.fleet, Clock: a.cfg.Clock})}
}

func (o *operations) site() fleet.Site {
	if o.app.cfg.site != nil {
		return o.app.cfg.site
	}
	return siteView{o.revisions}
}

func (o *operations) confirmer() session.Confirmer { return noCommits{} }

func (o *operations) register(grpc.ServiceRegistrar) {}

func (o *operations) run(func(string, func(context.Context) error)) {}

// siteView is what identities need to know of site and rollouts.
type siteView struct{ revisions *revision.Revisions }

// Wanted implements fleet.Site.
func (s siteView) Wanted(ctx context.Context) ([]fleet.Wanted, bool, error) {
	return s.revisions.Wanted(ctx)
}

// Status implements fleet.Site.
func (s siteView) Status(ctx context.Context) (fleet.SiteStatus, error) {
	current, err := s.revisions.Current(ctx)
	return fleet.SiteStatus{Revision: current}, err
}

// noCommits refuses every commit: this server has started none.
type noCommits struct{}

// Confirm implements session.Confirmer.
func (noCommits) Confirm(context.Context, string, *v1.ConfirmRequest) (*v1.ConfirmResponse, error) {
	return nil, errs.New(errs.NotFound, "this server knows no commits")
}
