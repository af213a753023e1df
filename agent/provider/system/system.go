// Package system sets a host's name, its hosts file, its resolver, its time zone and its kernel settings.
//
// Additions sets all of it but the kernel settings below net., which belong to the widening commit: a wrong one can cut the
// host off. A section that the spec leaves empty is left alone. A kernel setting that the spec no longer names goes back to
// the value that it had before infractl set it.
package system

import (
	"context"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// The files of this provider.
const (
	hostnameFile  = "/etc/hostname"
	hostsFile     = "/etc/hosts"
	resolvFile    = "/etc/resolv.conf"
	resolvedFile  = "/etc/systemd/resolved.conf.d/infractl.conf"
	localtimeFile = "/etc/localtime"
	timezoneFile  = "/etc/timezone"
	sysctlFile    = "/etc/sysctl.d/90-infractl.conf"
	netFile       = "/etc/sysctl.d/90-infractl-net.conf"
	loadedFile    = "/var/lib/infractl/system/resolved" // digest of the drop-in that systemd-resolved runs with
	originalFile  = "/var/lib/infractl/system/sysctls.json"
	liveHostname  = "/proc/sys/kernel/hostname"
	zoneinfo      = "/usr/share/zoneinfo"
	header        = "# Written by infractl; changes here are undone.\n"
)

// Config makes a Provider.
type Config struct {
	// Host is the machine.
	Host *host.Host
	// Log gets what is worth knowing beyond errors; nil means none.
	Log hclog.Logger
}

// Provider implements provider.Provider for the system.
type Provider struct {
	host *host.Host
	log  hclog.Logger
}

var _ provider.Provider[*v1.SystemSpec] = (*Provider)(nil)

// New returns the provider.
func New(cfg Config) *Provider {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	return &Provider{host: cfg.Host, log: cfg.Log}
}

// Stages are the stages that the provider takes part in.
func Stages() []provider.Stage { return []provider.Stage{provider.Additions, provider.Widening} }

// Name implements provider.Provider.
func (p *Provider) Name() string { return "system" }

type (
	wish = provider.Wish[*v1.SystemSpec]
	plan = provider.Plan[*v1.SystemSpec]
)

// target is all that must be so.
type target struct {
	files []host.File
	// hostname is set where the kernel has another one.
	hostname string
	// resolved says that systemd-resolved is in charge of the resolver and does not use the wanted servers.
	resolved bool
	// loaded is written once it does.
	loaded  *host.File
	sysctls sysctls
}

// target compares host and wish. Errors: Invalid for values that can't be, Precondition when tzdata is missing.
func (p *Provider) target(w wish) (target, error) {
	var t target
	if err := check(w.Spec); err != nil {
		return t, err
	}
	var err error
	if w.Stage == provider.Additions {
		if err = p.names(&t, w.Spec); err != nil {
			return t, err
		}
		if err = p.resolver(&t, w.Spec); err != nil {
			return t, err
		}
		if err = p.timezone(&t, w.Spec); err != nil {
			return t, err
		}
	}
	t.sysctls, err = p.sysctls(w)
	return t, err
}

// names adds host name and hosts file.
func (p *Provider) names(t *target, spec *v1.SystemSpec) error {
	if spec.GetHostname() == "" {
		return nil
	}
	t.files = append(t.files, p.file(hostnameFile, spec.GetHostname()+"\n"))
	live, err := p.host.ReadFile(liveHostname)
	if err != nil {
		return errs.Wrap("read the host name", err)
	}
	if strings.TrimSpace(string(live)) != spec.GetHostname() {
		t.hostname = spec.GetHostname()
	}
	old, err := p.host.Stat(hostsFile)
	if err != nil {
		return err
	}
	t.files = append(t.files, p.file(hostsFile, hosts(string(old.Data), spec)))
	return nil
}

// timezone adds the time zone.
func (p *Provider) timezone(t *target, spec *v1.SystemSpec) error {
	name := spec.GetTimezone()
	if name == "" {
		return nil
	}
	if !p.host.Exists(zoneinfo) {
		return errs.New(errs.Precondition, "the time zone database is not installed").WithHint("apt-get install tzdata")
	}
	info, err := os.Stat(p.host.Path(zoneinfo + "/" + name))
	if err != nil || !info.Mode().IsRegular() {
		return errs.New(errs.Invalid, "%q is no time zone that this host knows", name).At("timezone").
			WithHint("timedatectl list-timezones lists them; they look like Europe/Paris")
	}
	link := host.File{Path: localtimeFile, Mode: os.ModeSymlink | 0o777, Data: []byte(zoneinfo + "/" + name),
		UID: os.Geteuid(), GID: os.Getegid()}
	have, err := p.host.Stat(localtimeFile)
	if err != nil {
		return err
	}
	if string(have.Data) == ".."+zoneinfo+"/"+name { // as timedatectl writes it
		link.Data = have.Data
	}
	t.files = append(t.files, link, p.file(timezoneFile, name+"\n"))
	return nil
}

func (p *Provider) file(path, text string) host.File {
	return host.File{Path: path, Data: []byte(text), Mode: 0o644, UID: os.Geteuid(), GID: os.Getegid()}
}

// Plan implements provider.Provider.
func (p *Provider) Plan(_ context.Context, w wish) (provider.Plan[*v1.SystemSpec], error) {
	result := plan{Wish: w}
	t, err := p.target(w)
	if err != nil {
		return result, err
	}
	result.Changes, err = p.changes(t, w.Stage)
	return result, err
}

// Apply implements provider.Provider.
func (p *Provider) Apply(ctx context.Context, pl plan) error {
	t, err := p.target(pl.Wish)
	if err != nil {
		return err
	}
	for _, f := range t.files {
		if f.Path == resolvedFile {
			if err := p.folder(ctx, "/etc/systemd/resolved.conf.d"); err != nil {
				return err
			}
		}
		if _, err := p.host.Write(f); err != nil {
			return err
		}
	}
	if t.hostname != "" {
		if _, err := p.host.Run(ctx, "hostname", "--", t.hostname); err != nil {
			return errs.Wrap("set the host name", err)
		}
	}
	if t.resolved {
		if err := p.restartResolved(ctx); err != nil {
			return err
		}
		if _, err := p.host.Write(*t.loaded); err != nil {
			return err
		}
	}
	return p.applySysctls(ctx, t.sysctls)
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

// Verify implements provider.Provider: what the kernel and the resolver have in effect. Whether a name server answers is not
// asked: it may be one of ours that comes later.
func (p *Provider) Verify(_ context.Context, w wish) error {
	t, err := p.target(w)
	if err != nil {
		return err
	}
	left, err := p.changes(t, w.Stage)
	if err != nil || len(left) == 0 {
		return err
	}
	var subjects []string
	for _, c := range left {
		subjects = append(subjects, c.GetSubject())
	}
	return errs.New(errs.Internal, "not in effect: %s", strings.Join(subjects, ", "))
}

// Keep implements provider.Provider; what was applied is on disk already.
func (p *Provider) Keep(context.Context, wish) error { return nil }

// Warnings returns what the spec asks for and this kernel can't do. It is no difference that an apply could mend.
func (p *Provider) Warnings(spec *v1.SystemSpec) []string {
	var list []string
	for key := range spec.GetSysctls() {
		if why := p.unsettable(key); why != "" {
			list = append(list, "kernel setting "+key+" "+why)
		}
	}
	slices.Sort(list)
	return list
}
