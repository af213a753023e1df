package app

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/accounts"
	"github.com/infractl/infractl/agent/provider/containers"
	"github.com/infractl/infractl/agent/provider/dns"
	"github.com/infractl/infractl/agent/provider/dolibarr"
	"github.com/infractl/infractl/agent/provider/firewall"
	"github.com/infractl/infractl/agent/provider/packages"
	"github.com/infractl/infractl/agent/provider/proxy"
	"github.com/infractl/infractl/agent/provider/router"
	"github.com/infractl/infractl/agent/provider/sshd"
	"github.com/infractl/infractl/agent/provider/system"
	"github.com/infractl/infractl/agent/provider/timesync"
	"github.com/infractl/infractl/agent/provider/vyos"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Providers are the capabilities of this version.
type Providers struct {
	// Bound are all of them, in the order of an apply.
	Bound []provider.Bound
	// Firewall puts its own chains back; nil where nothing is managed.
	Firewall Firewall
	// System says what of its spec can't be so here; nil where nothing is managed.
	System *system.Provider
	// SSH tells where the SSH server listens; nil where nothing is managed.
	SSH *sshd.Provider
	// Stacks are the container stacks; nil where nothing is managed.
	Stacks *Stacks
	// Proxy goes on with the queue of certificates; nil where nothing is managed.
	Proxy *proxy.Provider
	// Instances are the Dolibarr instances; nil where nothing is managed.
	Instances *dolibarr.Provider
	// Router tells how the router is; nil where the host is none that we know.
	Router Router
}

// Firewall is what the agent needs of the firewall beside commits.
type Firewall interface {
	// Repair puts chains and jumps back that are gone, and says what it did.
	Repair(ctx context.Context) ([]string, error)
	// Foreign lists rules of others that still have a say.
	Foreign(ctx context.Context) ([]string, error)
}

// NewProviders makes the providers of h. This is the one place that knows them all.
func NewProviders(h *host.Host, log hclog.Logger) *Providers {
	if vyos.Is(h) {
		return vyosProviders(h, log)
	}
	fw := firewall.New(firewall.Config{Host: h, Log: log.Named("firewall")})
	ssh := sshd.New(sshd.Config{Host: h, Log: log.Named("sshd")})
	sys := system.New(system.Config{Host: h, Log: log.Named("system")})
	stacks := newStacks(h, log)
	nat := router.New(router.Config{Host: h, Log: log.Named("router")})
	front := proxy.New(proxy.Config{Host: h, Fetcher: stacks.fetcher, Log: log.Named("proxy")})
	instances := dolibarr.New(dolibarr.Config{Host: h, Engine: stacks.Engine, Images: stacks.Images(), Fetcher: stacks.fetcher,
		Log: log.Named("dolibarr")})
	return &Providers{
		Proxy:     front,
		Stacks:    stacks,
		Instances: instances,
		Router:    nat,
		Bound: []provider.Bound{
			linuxOnly{},
			provider.Bind(packages.New(packages.Config{Host: h, Log: log.Named("packages")}),
				func(s *v1.HostSpec) (*v1.PackagesSpec, bool) { return s.GetPackages(), s.GetPackages() != nil }, packages.Stages()...),
			provider.Bind(sys,
				func(s *v1.HostSpec) (*v1.SystemSpec, bool) { return s.GetSystem(), s.GetSystem() != nil }, system.Stages()...),
			provider.Bind(timesync.New(timesync.Config{Host: h, Log: log.Named("time")}),
				func(s *v1.HostSpec) (*v1.TimeSpec, bool) { return s.GetTime(), s.GetTime() != nil }, timesync.Stages()...),
			provider.Bind(accounts.New(accounts.Config{Host: h, Log: log.Named("accounts")}),
				func(s *v1.HostSpec) (*v1.AccountsSpec, bool) { return s.GetAccounts(), s.GetAccounts() != nil }, accounts.Stages()...),
			provider.Bind(fw,
				func(s *v1.HostSpec) (*v1.FirewallSpec, bool) { return s.GetFirewall(), s.GetFirewall() != nil },
				provider.Widening, provider.Narrowing),
			provider.Bind(nat, linuxRouter, router.Stages()...),
			provider.Bind(ssh,
				func(s *v1.HostSpec) (*v1.SshdSpec, bool) { return s.GetSshd(), s.GetSshd() != nil }, sshd.Stages()...),
			provider.Bind(stacks.Provider,
				func(s *v1.HostSpec) (*v1.ContainersSpec, bool) { return s.GetContainers(), s.GetContainers() != nil },
				containers.Stages()...),
			provider.Bind(instances,
				func(s *v1.HostSpec) (*v1.DolibarrSpec, bool) { return s.GetDolibarr(), s.GetDolibarr() != nil }, dolibarr.Stages()...),
			provider.Bind(dns.New(dns.Config{Host: h, Fetcher: stacks.fetcher, Log: log.Named("dns")}),
				func(s *v1.HostSpec) (*v1.DnsSpec, bool) { return s.GetDns(), s.GetDns() != nil }, dns.Stages()...),
			provider.Bind(front,
				func(s *v1.HostSpec) (*v1.ProxySpec, bool) { return s.GetProxy(), s.GetProxy() != nil }, proxy.Stages()...),
		},
		Firewall: fw,
		System:   sys,
		SSH:      ssh,
	}
}

// sshFacts adapts the sshd provider to what facts ask for.
type sshFacts struct{ provider *sshd.Provider }

// Listening implements facts.SSH.
func (s sshFacts) Listening(ctx context.Context) (ports []uint32, addresses []string, err error) {
	ports, addresses, _, err = s.provider.Facts(ctx)
	return ports, addresses, err
}
