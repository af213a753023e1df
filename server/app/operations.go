package app

import (
	"context"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/api"
	"github.com/infractl/infractl/server/console"
	"github.com/infractl/infractl/server/dns"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/image"
	"github.com/infractl/infractl/server/instance"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/secret"
	"github.com/infractl/infractl/server/session"
	"github.com/infractl/infractl/server/vpn"
)

// operations is the part of the server that knows site revisions and rollouts.
type operations struct {
	cfg       Config
	revisions *revision.Revisions
	rollouts  *rollout.Rollouts
	engine    *operation.Engine
	api       *api.API
	secrets   *secret.Service
	consoles  *console.Consoles
	images    *image.Service
	tunnel    *vpn.Service
	contents  *dns.Contents
	names     *dns.Service
	publisher *dns.Publisher
	instances *instance.Instances
}

func newOperations(a *App) *operations {
	o := &operations{cfg: a.cfg}
	peers := vpn.NewPeers(a.store)
	zones := dns.NewKeeper(a.store, a.cfg.Clock)
	o.instances = instance.New(instance.Config{Store: a.store, Fleet: a.fleet, Hub: a.hub, Clock: a.cfg.Clock, Log: a.cfg.Log.Named("instance"),
		Site: a.authority.Site(), Sign: a.authority.SignDocument,
		Publish: func(ctx context.Context) (int, error) { return o.publisher.Publish(ctx) },
		Retract: func(ctx context.Context) (int, error) { return o.publisher.Retract(ctx) }})
	o.revisions = revision.New(revision.Config{Records: a.store, Nodes: a.fleet, Clock: a.cfg.Clock, Site: a.authority.Site(),
		Sources: []revision.Source{a.vault, a.people.ssh, a.images, peers, o.instances}, Zones: zones})
	o.contents, o.names = dns.NewContents(zones, wantedSpecs{o.revisions}), dns.NewService(dns.Config{Sites: o.revisions})
	o.publisher = dns.NewPublisher(dns.PublisherConfig{Sites: o.revisions, Secrets: a.vault, Store: a.store, Clock: a.cfg.Clock, Log: a.cfg.Log.Named("dns")})
	a.vault.Use(wantedSpecs{o.revisions})
	o.rollouts = rollout.New(rollout.Config{Store: a.store, Fleet: a.fleet, Hub: a.hub,
		Revisions: rollout.FromRevisions(o.revisions), Clock: a.cfg.Clock, Log: a.cfg.Log.Named("rollout")})
	o.secrets = secret.NewService(a.vault, o.rollouts)
	o.images = image.NewService(a.images, wantedSpecs{o.revisions}, o.atWork)
	o.tunnel = vpn.NewService(vpn.Config{Peers: peers, Sites: o.revisions, Deliver: o.rollouts, Clock: a.cfg.Clock,
		Router: func(ctx context.Context, node string) (*v1.RouterReport, error) {
			return routerReport(ctx, a.fleet, node)
		}})
	o.consoles = newConsoles(a, o.revisions)
	o.engine = operation.New(operation.Config{Store: a.store, Hub: a.hub, Kinds: o.kinds(), Clock: a.cfg.Clock,
		Log: a.cfg.Log.Named("operation"), Parallel: turns})
	o.images.ForTemplates(o.instances.Archives)
	o.instances.Use(o.revisions, o.rollouts, a.vault, o.engine)
	o.api = api.New(api.Config{Revisions: o.revisions, Rollouts: o.rollouts, Operations: o.engine, Hub: a.hub, Fleet: a.fleet, Audit: a.store,
		Clock: a.cfg.Clock, Log: a.cfg.Log.Named("api")})
	return o
}

// turns is how many operations move at once. Their steps wait for hosts most of the time, and bound themselves what works a host hard.
const turns = 64

// kinds are the operations of steps that this server can carry out. Rollouts are no lists of steps.
func (o *operations) kinds() []operation.Kind { return o.instances.Kinds() }

func (o *operations) site() fleet.Site {
	if o.cfg.site != nil {
		return o.cfg.site
	}
	return api.SiteInfo{Revisions: o.revisions, Rollouts: o.rollouts}
}

func (o *operations) confirmer() session.Confirmer { return o.rollouts }

func (o *operations) register(s grpc.ServiceRegistrar) {
	o.api.Register(s)
	v1.RegisterSecretServiceServer(s, o.secrets)
	v1.RegisterConsoleServiceServer(s, o.consoles)
	v1.RegisterImageServiceServer(s, o.images)
	v1.RegisterVpnServiceServer(s, o.tunnel)
	v1.RegisterDnsServiceServer(s, o.names)
	v1.RegisterInstanceServiceServer(s, instance.NewService(o.instances))
}

func (o *operations) run(start func(string, func(context.Context) error)) {
	start("rollouts", o.rollouts.Run)
	start("operations", o.engine.Run)
	start("public records", o.publisher.Run)
	start("instances", o.instances.Run)
}

// routerReport returns what a router last reported, nil before its first report.
func routerReport(ctx context.Context, nodes *fleet.Fleet, name string) (*v1.RouterReport, error) {
	n, err := nodes.Node(ctx, name)
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	return n.Router.M, err
}
