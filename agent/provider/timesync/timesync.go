// Package timesync sets where a host takes its time from; its provider is called "time".
//
// Where chrony is installed it is configured, else systemd-timesyncd, which can be a client only. The servers that the
// distribution's chrony.conf names are commented out: the firewall would drop what goes to them. That the clock is in step is
// not asked for, because it takes minutes; that the servers are in use is.
package timesync

import (
	"context"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	header     = "# Written by infractl; changes here are undone.\n"
	loadedFile = "/var/lib/infractl/time/loaded" // digest of the files that the service runs with
	pause      = 100 * time.Millisecond
)

// Config makes a Provider.
type Config struct {
	// Host is the machine.
	Host *host.Host
	// Log gets what is worth knowing beyond errors; nil means none.
	Log hclog.Logger
	// Wait bounds how long the service may take to answer; 0 means 5 s.
	Wait time.Duration
}

// Provider implements provider.Provider for the time.
type Provider struct {
	host *host.Host
	log  hclog.Logger
	wait time.Duration
}

var _ provider.Provider[*v1.TimeSpec] = (*Provider)(nil)

// New returns the provider.
func New(cfg Config) *Provider {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.Wait == 0 {
		cfg.Wait = 5 * time.Second
	}
	return &Provider{host: cfg.Host, log: cfg.Log, wait: cfg.Wait}
}

// Stages are the stages that the provider takes part in.
func Stages() []provider.Stage { return []provider.Stage{provider.Additions} }

// Name implements provider.Provider.
func (p *Provider) Name() string { return "time" }

type (
	wish = provider.Wish[*v1.TimeSpec]
	plan = provider.Plan[*v1.TimeSpec]
)

// Plan implements provider.Provider. It runs no process. Errors: Invalid for servers that can't be, Precondition where no
// time service is installed, or none that can serve others.
func (p *Provider) Plan(_ context.Context, w wish) (provider.Plan[*v1.TimeSpec], error) {
	result := plan{Wish: w}
	if leftAlone(w.Spec) {
		return result, nil
	}
	t, err := p.target(w.Spec)
	if err != nil {
		return result, err
	}
	result.Changes, err = p.changes(t)
	return result, err
}

// Apply implements provider.Provider.
func (p *Provider) Apply(ctx context.Context, pl plan) error {
	if leftAlone(pl.Wish.Spec) {
		return nil
	}
	t, err := p.target(pl.Wish.Spec)
	if err != nil {
		return err
	}
	for _, dir := range t.service.folders {
		if err := p.folder(ctx, dir); err != nil {
			return err
		}
	}
	for _, f := range t.files {
		if _, err := p.host.Write(f); err != nil {
			return err
		}
	}
	if err := p.enable(t.service); err != nil {
		return err
	}
	if err := p.host.Systemctl(ctx, "restart", t.service.unit); err != nil {
		return err
	}
	_, err = p.host.Write(t.loaded)
	return err
}

// folder makes a folder that services without root's rights can read. The agent's umask may be tighter than that.
func (p *Provider) folder(ctx context.Context, path string) error {
	if err := p.host.Mkdir(path, 0o755); err != nil {
		return err
	}
	have, err := p.host.Stat(path)
	if err != nil || have.Mode.Perm() == 0o755 {
		return err
	}
	_, err = p.host.Run(ctx, "chmod", "0755", path)
	return errs.Wrap("open "+path+" to its readers", err)
}

// enable is `systemctl enable` without the seconds that it spends on scripts of SysV.
func (p *Provider) enable(s service) error {
	if p.enabled(s) {
		return nil
	}
	unit := "/usr/lib/systemd/system/" + s.unit
	if !p.host.Exists(unit) {
		unit = "/lib/systemd/system/" + s.unit
	}
	for _, link := range slices.Backward(s.links) { // the one that decides comes last
		if _, err := p.host.Write(host.File{Path: link, Mode: os.ModeSymlink | 0o777, Data: []byte(unit)}); err != nil {
			return err
		}
	}
	return nil
}

// Verify implements provider.Provider: the service answers and knows the servers.
func (p *Provider) Verify(ctx context.Context, w wish) error {
	if leftAlone(w.Spec) {
		return nil
	}
	t, err := p.target(w.Spec)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.wait)
	defer cancel()
	for {
		err := t.service.verify(ctx, p, w.Spec)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// Keep implements provider.Provider; what was applied is on disk already.
func (p *Provider) Keep(context.Context, wish) error { return nil }

// leftAlone reports whether the site names no time server: then the host keeps what it has.
func leftAlone(spec *v1.TimeSpec) bool { return len(spec.GetServers()) == 0 }

// check refuses what would break the files.
func check(spec *v1.TimeSpec) error {
	bad := func(hint, format string, args ...any) error {
		return errs.New(errs.Invalid, format, args...).At("ntp").WithHint("%s", hint)
	}
	if len(spec.GetServers()) > 32 || len(spec.GetAllow()) > 1000 {
		return bad("name one to four servers", "%d time servers", len(spec.GetServers()))
	}
	name := regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
	for _, s := range spec.GetServers() {
		if !isAddress(s) && !name.MatchString(s) {
			return bad("give an address or a name", "%q is no time server", s)
		}
	}
	for _, prefix := range spec.GetAllow() {
		if _, err := netip.ParsePrefix(prefix); err != nil && !isAddress(prefix) {
			return bad("write it as 10.0.10.0/24", "%q is no prefix", prefix)
		}
	}
	return nil
}

func isAddress(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}

func (p *Provider) file(path, text string) host.File {
	return host.File{Path: path, Data: []byte(text), Mode: 0o644, UID: os.Geteuid(), GID: os.Getegid()}
}

// addresses are the servers that need no name server.
func addresses(spec *v1.TimeSpec) []string {
	return slices.DeleteFunc(slices.Clone(spec.GetServers()), func(s string) bool { return !isAddress(s) })
}
