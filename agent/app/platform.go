package app

import (
	"context"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/vyos"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// vyosProviders are the capabilities on a VyOS router: one provider gets the whole spec, since VyOS has one configuration and
// rewrites by itself every file that the others would write.
func vyosProviders(h *host.Host, log hclog.Logger) *Providers {
	router := vyos.New(vyos.Config{Host: h, Log: log.Named("vyos")})
	return &Providers{
		Bound: []provider.Bound{provider.Bind(router,
			func(s *v1.HostSpec) (*v1.HostSpec, bool) { return s, s.GetRouter() != nil }, vyos.Stages()...)},
		Router: router,
	}
}

// Router is what the agent needs of a router beside commits.
type Router interface {
	// Report says how the router is.
	Report(ctx context.Context, spec *v1.HostSpec) *v1.RouterReport
}

// linuxOnly keeps a Linux host from a spec that was made for VyOS: each section would be possible here, and all of them wrong.
// It takes part in every stage, refuses such a spec, and never has anything to change.
type linuxOnly struct{}

var _ provider.Bound = linuxOnly{}

// Name implements provider.Bound.
func (linuxOnly) Name() string { return "platform" }

// At implements provider.Bound.
func (linuxOnly) At(provider.Stage) bool { return true }

// Plan implements provider.Bound.
func (linuxOnly) Plan(_ context.Context, spec *v1.HostSpec, _ provider.Stage, _ []string) (provider.Step, error) {
	platform := spec.GetRouter().GetPlatform()
	if !strings.HasPrefix(platform, "vyos-") {
		return nil, nil
	}
	return nil, errs.New(errs.Precondition, "the site says that %s is a router with %s, and this host runs no VyOS", spec.GetNode(), platform).
		At("nodes/" + spec.GetNode() + "/platform").WithHint("write platform: linux, or enrol the VyOS router under this name")
}

// Keep implements provider.Bound.
func (linuxOnly) Keep(context.Context, *v1.HostSpec, provider.Stage, []string) error { return nil }

// Rollback implements provider.Bound.
func (linuxOnly) Rollback(context.Context, []byte) error { return nil }
