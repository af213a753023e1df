// Package sshd configures the SSH server: keys only, no root, the site's port and addresses, modern algorithms.
//
// All of it stands in one drop-in that sorts before every other; keywords that add up instead (Port, ListenAddress, HostKey,
// AllowUsers, AllowGroups) are commented out elsewhere, because there the first value does not win. What decides is always
// `sshd -T` and the sockets, never a file.
//
// Widening opens the new way beside the old: the listeners, allowed users and key files that sshd had, and the new ones;
// what is closed in the end (passwords, root, old algorithms) stays as it was. Narrowing leaves the new alone; while a peer
// lags behind, the old listeners stay. "Old" is what sshd has in effect, so that the widening of what is narrow already
// changes nothing.
//
// People come in with certificates of the site's authority, whose key stands in a file of ours, or with keys of their own. An
// authority that is new is trusted with the widening; one that goes is trusted until the narrowing.
//
// TCP forwarding is `local` everywhere: the relay needs it for `ssh -J`, and a role is not part of the spec. It opens no
// port on the host, and where it may lead is the firewall's affair.
//
// ssh.socket is switched off in favour of ssh.service: with it, systemd and not this configuration says where sshd listens.
//
// An address that comes late at boot is no problem: net.ipv4.ip_nonlocal_bind (and its IPv6 twin) let sshd listen on it
// before it is there, and a drop-in of ssh.service makes systemd try again after any failure.
package sshd

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// The files of this provider.
const (
	dropIn     = "/etc/ssh/sshd_config.d/00-infractl.conf"
	dropIns    = "/etc/ssh/sshd_config.d/*.conf"
	mainFile   = "/etc/ssh/sshd_config"
	keysFile   = "/etc/ssh/infractl-keys/%u" // written by the accounts provider
	caFile     = "/etc/ssh/infractl-user-ca.pub"
	unitDropIn = "/etc/systemd/system/ssh.service.d/infractl.conf"
	sysctlFile = "/etc/sysctl.d/90-infractl-sshd.conf"
	loadedFile = "/var/lib/infractl/sshd/loaded" // digest of the drop-in that sshd runs with
	trialDir   = "/run/infractl/sshd"
	privsepDir = "/run/sshd"
)

// Dialer opens a connection; *net.Dialer is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Config makes a Provider.
type Config struct {
	// Host is the machine.
	Host *host.Host
	// Log gets what is worth knowing beyond errors; nil means none.
	Log hclog.Logger
	// Dialer reads the banner of the listeners; nil means the network.
	Dialer Dialer
	// LocalAddresses are the addresses that the host has; nil means those of its interfaces.
	LocalAddresses func() ([]netip.Addr, error)
	// Wait bounds how long the listeners may take to appear; 0 means 5 s.
	Wait time.Duration
}

// Provider implements provider.Provider for sshd.
type Provider struct {
	host  *host.Host
	log   hclog.Logger
	dial  Dialer
	local func() ([]netip.Addr, error)
	wait  time.Duration

	mu        sync.Mutex
	last      answer     // of present
	supported algorithms // of the binary that stamp describes
	stamp     string
}

var _ provider.Provider[*v1.SshdSpec] = (*Provider)(nil)

// New returns the provider.
func New(cfg Config) *Provider {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.Dialer == nil {
		cfg.Dialer = &net.Dialer{}
	}
	if cfg.LocalAddresses == nil {
		cfg.LocalAddresses = interfaceAddresses
	}
	if cfg.Wait == 0 {
		cfg.Wait = 5 * time.Second
	}
	return &Provider{host: cfg.Host, log: cfg.Log, dial: cfg.Dialer, local: cfg.LocalAddresses, wait: cfg.Wait}
}

// Stages are the stages that the provider takes part in.
func Stages() []provider.Stage {
	return []provider.Stage{provider.Additions, provider.Widening, provider.Narrowing}
}

// Name implements provider.Provider.
func (p *Provider) Name() string { return "sshd" }

type (
	wish = provider.Wish[*v1.SshdSpec]
	plan = provider.Plan[*v1.SshdSpec]
)

// Plan implements provider.Provider. It runs sshd -T once. The only thing that it may make is /run/sshd, without which
// sshd says nothing. Errors: Invalid for a spec that would lock everybody out, Precondition for a host where our file
// cannot win.
func (p *Provider) Plan(ctx context.Context, w wish) (provider.Plan[*v1.SshdSpec], error) {
	result := plan{Wish: w}
	if w.Stage == provider.Additions {
		changes, err := p.unitChanges()
		result.Changes = changes
		return result, err
	}
	t, err := p.target(ctx, w, afresh)
	if err != nil {
		return result, err
	}
	result.Changes = t.changes(p.Name())
	return result, nil
}

// Apply implements provider.Provider: trial on the side, files, systemd, then sshd -T and the sockets.
func (p *Provider) Apply(ctx context.Context, pl plan) error {
	if pl.Wish.Stage == provider.Additions {
		return p.applyUnit(ctx)
	}
	t, err := p.target(ctx, pl.Wish, again)
	if err != nil {
		return err
	}
	if err := p.trial(ctx, t); err != nil {
		return err
	}
	if err := p.sysctls(ctx, t); err != nil {
		return err
	}
	// The drop-in comes first: should the agent die here, nothing that was open is closed. The authorities that it names come
	// before it, and go after it.
	files := append([]host.File{t.dropIn, t.unit}, t.foreign...)
	if !t.caFile.Absent {
		files = append([]host.File{t.caFile}, files...)
	}
	for _, f := range files {
		if _, err := p.host.Write(f); err != nil {
			return err
		}
	}
	if err := p.takeEffect(ctx, t); err != nil {
		return err
	}
	if t.caFile.Absent {
		if _, err := p.host.Write(t.caFile); err != nil {
			return err
		}
	}
	now, err := p.effective(ctx, mainFile)
	if err != nil {
		return err
	}
	if wrong := t.config.mismatches(now); len(wrong) > 0 {
		return notWinning(wrong)
	}
	if err := p.waitForSockets(ctx, t.listeners, t.closing()); err != nil {
		return err
	}
	_, err = p.host.Write(t.loaded)
	return err
}

// Verify implements provider.Provider: effective values, for each user too, the sockets, and a banner from each of them.
func (p *Provider) Verify(ctx context.Context, w wish) error {
	if w.Stage == provider.Additions {
		return p.verifyUnit()
	}
	t, err := p.target(ctx, w, afresh)
	if err != nil {
		return err
	}
	if wrong := t.config.mismatches(t.effective); len(wrong) > 0 {
		return notWinning(wrong)
	}
	var users errgroup.Group
	for _, user := range w.Spec.GetAllowUsers() {
		users.Go(func() error {
			now, err := p.effectiveFor(ctx, mainFile, user, w.Spec)
			if err != nil {
				return err
			}
			if wrong := t.config.mismatches(now); len(wrong) > 0 {
				return errs.Wrap("user "+user, notWinning(wrong))
			}
			return nil
		})
	}
	if err := users.Wait(); err != nil {
		return err
	}
	if err := p.waitForSockets(ctx, t.listeners, t.closing()); err != nil {
		return err
	}
	return p.banners(ctx, t)
}

// Keep implements provider.Provider; what was applied is on disk already.
func (p *Provider) Keep(context.Context, wish) error { return nil }

func interfaceAddresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, errs.Wrap("list the host's addresses", err)
	}
	var addrs []netip.Addr
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				addrs = append(addrs, addr.Unmap())
			}
		}
	}
	return addrs, nil
}
