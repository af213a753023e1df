// Package router makes a Linux host the site's router: address translation, missing static routes, and the tunnel for people.
//
// Interfaces and their addresses belong to the host's own network configuration: they are looked at, and what differs is a
// warning. A static route is set only where the host has none for its prefix; it carries a mark of ours in the kernel, so that
// nothing of anybody else is ever changed. Nothing is written into netplan, systemd-networkd or ifupdown: what was kept is put
// back at boot and by the running agent.
package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Name is the provider's name, Platform the platform that it is for.
const (
	Name     = "router"
	Platform = "linux"
)

// Config makes a Provider.
type Config struct {
	// Host is the machine. Required.
	Host *host.Host
	// Log gets what Repair put back; nil means none.
	Log hclog.Logger
}

// Provider keeps the router. It remembers nothing between calls: the kernel and kept.json say all.
type Provider struct {
	host *host.Host
	log  hclog.Logger
	mu   sync.Mutex // one change of the kernel at a time
}

var (
	_ provider.Provider[*v1.RouterSpec] = (*Provider)(nil)
	_ provider.Widener                  = (*Provider)(nil)
)

// New returns a Provider.
func New(cfg Config) *Provider {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	return &Provider{host: cfg.Host, log: cfg.Log}
}

// Stages are the stages that the provider takes part in.
func Stages() []provider.Stage { return []provider.Stage{provider.Widening, provider.Narrowing} }

// Name implements provider.Provider.
func (p *Provider) Name() string { return Name }

type (
	wish = provider.Wish[*v1.RouterSpec]
	plan = provider.Plan[*v1.RouterSpec]
)

func concerns(stage provider.Stage) bool { return slices.Contains(Stages(), stage) }

// target is what must be so, and what was kept before. Peers of the tunnel are never the old and the new together: who was
// removed is out at once.
func (p *Provider) target(w wish) (old, want Desired, err error) {
	if want, err = fromSpec(w.Spec); err != nil {
		return old, want, err
	}
	if old, err = loadKept(p.host); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return old, want, err
	}
	if w.Stage == provider.Widening {
		want = widen(old, want)
	}
	return old, want, nil
}

// Plan implements provider.Provider. It refuses, with code precondition, a host where both backends of iptables translate, or
// where somebody else has an interface of the tunnel's name.
func (p *Provider) Plan(ctx context.Context, w wish) (provider.Plan[*v1.RouterSpec], error) {
	result := plan{Wish: w}
	if !concerns(w.Stage) {
		return result, nil
	}
	old, want, err := p.target(w)
	if err != nil {
		return result, errs.Wrap("plan router", err)
	}
	result.Changes, err = p.changes(ctx, old, want)
	return result, errs.Wrap("plan router", err)
}

func (p *Provider) changes(ctx context.Context, old, want Desired) ([]*v1.Change, error) {
	var list []*v1.Change
	add := func(subject string, before, after []string) {
		if len(before)+len(after) == 0 {
			return
		}
		action := v1.ChangeAction_CHANGE_ACTION_UPDATE
		switch {
		case len(before) == 0:
			action = v1.ChangeAction_CHANGE_ACTION_CREATE
		case len(after) == 0:
			action = v1.ChangeAction_CHANGE_ACTION_DELETE
		}
		list = append(list, &v1.Change{Provider: Name, Subject: subject, Action: action, Before: before, After: after,
			Risk: v1.Risk_RISK_LOCKOUT})
	}
	now, err := readNAT(ctx, p.host)
	if err != nil {
		return nil, err
	}
	if err := refuse(ctx, p.host, now); err != nil {
		return nil, err
	}
	before, after := natChange(old, want, now)
	add("NAT", before, after)
	l, err := readLinks(ctx, p.host)
	if err != nil {
		return nil, err
	}
	set, drop := l.routePlan(want.Routes)
	add("routes", routeLines(drop), routeLines(set))
	for _, device := range devices(old, want) {
		before, after, err := p.tunnelChange(ctx, l, want, device)
		if err != nil {
			return nil, err
		}
		add("tunnel "+device, before, after)
	}
	return list, nil
}

func (p *Provider) tunnelChange(ctx context.Context, l links, want Desired, device string) (before, after []string, err error) {
	var wanted *Tunnel
	if want.Tunnel != nil && want.Tunnel.Interface == device {
		wanted = want.Tunnel
	}
	if wanted != nil && l.exists(device) && !p.host.Exists(keyFile(device)) {
		return nil, nil, errs.New(errs.Precondition, "this host has an interface %s that is not infractl's", device).
			WithHint("remove it, or name another one in the site's vpn section")
	}
	now, err := readTunnel(ctx, p.host, l, device)
	if err != nil {
		return nil, nil, err
	}
	_, public, err := privateKey(p.host, device)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	before, after = tunnelChange(wanted, now, l, public)
	return before, after, nil
}

func routeLines(list []Route) []string {
	lines := make([]string, 0, len(list))
	for _, r := range list {
		lines = append(lines, fmt.Sprintf("%s by %s", r.Prefix, r.Via))
	}
	return lines
}

// devices are the tunnel interfaces that were and that will be.
func devices(list ...Desired) []string {
	var names []string
	for _, d := range list {
		if d.Tunnel != nil && !slices.Contains(names, d.Tunnel.Interface) {
			names = append(names, d.Tunnel.Interface)
		}
	}
	return names
}

// Apply implements provider.Provider. The translations are tried in an empty network namespace first.
func (p *Provider) Apply(ctx context.Context, pl plan) error {
	if !concerns(pl.Wish.Stage) {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old, want, err := p.target(pl.Wish)
	if err != nil {
		return errs.Wrap("apply router", err)
	}
	return errs.Wrap("apply router", p.install(ctx, devices(old, want), want))
}

func (p *Provider) install(ctx context.Context, names []string, want Desired) error {
	if err := installNAT(ctx, p.host, render(want)); err != nil {
		return err
	}
	l, err := readLinks(ctx, p.host)
	if err != nil {
		return err
	}
	set, drop := l.routePlan(want.Routes)
	if err := setRoutes(ctx, p.host, set, drop); err != nil {
		return err
	}
	for _, device := range names {
		if err := p.installDevice(ctx, l, device, want.Tunnel); err != nil {
			return err
		}
	}
	return nil
}

func (p *Provider) installDevice(ctx context.Context, l links, device string, want *Tunnel) error {
	if want == nil || want.Interface != device {
		if !l.exists(device) && !hasUnit(p.host, device) {
			return nil
		}
		return removeTunnel(ctx, p.host, device)
	}
	now, err := readTunnel(ctx, p.host, l, device)
	if err != nil {
		return err
	}
	return installTunnel(ctx, p.host, want, now)
}

// Verify implements provider.Provider: it reads the kernel again.
func (p *Provider) Verify(ctx context.Context, w wish) error {
	if !concerns(w.Stage) {
		return nil
	}
	old, want, err := p.target(w)
	if err != nil {
		return errs.Wrap("verify router", err)
	}
	left, err := p.changes(ctx, old, want)
	if err != nil {
		return errs.Wrap("verify router", err)
	}
	if len(left) > 0 {
		return errs.Wrap("verify router", errs.New(errs.Conflict, "%s differs from what was applied: %q in place of %q",
			left[0].GetSubject(), left[0].GetBefore(), left[0].GetAfter()).
			WithHint("another program on this host sets the same: see the warnings of infractl status"))
	}
	return nil
}

// Widened implements provider.Widener.
func (p *Provider) Widened(context.Context) []string {
	kept, err := loadKept(p.host)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []string{err.Error()}
	}
	return kept.oldLines()
}

// Keep implements provider.Provider.
func (p *Provider) Keep(_ context.Context, w wish) error {
	if !concerns(w.Stage) {
		return nil
	}
	_, want, err := p.target(w)
	if err != nil {
		return errs.Wrap("keep router", err)
	}
	data, err := json.MarshalIndent(want, "", " ")
	if err != nil {
		return errs.Wrap("keep router", err)
	}
	_, err = p.host.WriteFile(KeptFile, append(data, '\n'), 0o600)
	return errs.Wrap("keep router", err)
}
