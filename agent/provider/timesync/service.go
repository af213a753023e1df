package timesync

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// service is one of the programs that can keep the time.
type service struct {
	unit, process string
	// links make the unit start at boot; the first one decides.
	links []string
	// folders must be readable by the service's own user.
	folders []string
	files   func(p *Provider, spec *v1.TimeSpec) ([]host.File, error)
	verify  func(ctx context.Context, p *Provider, spec *v1.TimeSpec) error
}

const (
	chronyMain    = "/etc/chrony/chrony.conf"
	chronyConf    = "/etc/chrony/conf.d/infractl.conf"
	chronySources = "/etc/chrony/sources.d/infractl.sources"
	timesyncdConf = "/etc/systemd/timesyncd.conf.d/infractl.conf"
	takenOver     = "# infractl took this over: "
)

func chrony() service {
	return service{unit: "chrony.service", process: "chronyd", files: chronyFiles, verify: verifyChrony,
		links:   []string{"/etc/systemd/system/multi-user.target.wants/chrony.service", "/etc/systemd/system/chronyd.service"},
		folders: []string{"/etc/chrony/conf.d", "/etc/chrony/sources.d"}}
}

func timesyncd() service {
	return service{unit: "systemd-timesyncd.service", process: "systemd-timesyn", files: timesyncdFiles, verify: verifyTimesyncd,
		links: []string{"/etc/systemd/system/sysinit.target.wants/systemd-timesyncd.service",
			"/etc/systemd/system/dbus-org.freedesktop.timesync1.service"},
		folders: []string{"/etc/systemd/timesyncd.conf.d"}}
}

// target is all that must be so.
type target struct {
	service service
	files   []host.File
	loaded  host.File
}

func (p *Provider) target(spec *v1.TimeSpec) (target, error) {
	var t target
	if err := check(spec); err != nil {
		return t, err
	}
	switch {
	case p.host.Has("chronyd"):
		t.service = chrony()
	case len(spec.GetAllow()) > 0:
		return t, errs.New(errs.Precondition, "this host is to serve the time and has no chrony").
			WithHint("apt-get install chrony")
	case p.host.Exists("/usr/lib/systemd/systemd-timesyncd") || p.host.Exists("/lib/systemd/systemd-timesyncd"):
		t.service = timesyncd()
	default:
		return t, errs.New(errs.Precondition, "no time service is installed").WithHint("apt-get install chrony")
	}
	var err error
	if t.files, err = t.service.files(p, spec); err != nil {
		return t, err
	}
	sum := sha256.New()
	for _, f := range t.files {
		fmt.Fprintf(sum, "%s\n%s\n", f.Path, f.Data)
	}
	t.loaded = p.file(loadedFile, fmt.Sprintf("%x\n", sum.Sum(nil)))
	t.loaded.Mode = 0o600
	return t, nil
}

// enabled reports whether the service starts at boot.
func (p *Provider) enabled(s service) bool { return p.host.Exists(s.links[0]) }

// running reports whether a process of the service's name is there. It reads /proc: asking systemd would cost a process.
func (p *Provider) running(s service) (bool, error) {
	files, err := p.host.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return false, errs.Wrap("list processes", err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		name, err := p.host.ReadFile(file)
		return err == nil && strings.TrimSpace(string(name)) == s.process
	}), nil
}

func chronyFiles(p *Provider, spec *v1.TimeSpec) ([]host.File, error) {
	old, err := p.host.Stat(chronyMain)
	if err != nil {
		return nil, err
	}
	if old.Absent {
		return nil, errs.New(errs.Precondition, "there is no %s", chronyMain).
			WithHint("apt-get install --reinstall chrony, with -o DPkg::Options::=--force-confmiss")
	}
	main := old
	main.Data = []byte(chronyText(string(old.Data)))
	conf := header + "# Step a clock that is far off, in the first three updates after a start only.\nmakestep 1 3\n"
	for _, prefix := range spec.GetAllow() {
		conf += "allow " + prefix + "\n"
	}
	sources := header
	for _, s := range spec.GetServers() {
		kind := "pool"
		if isAddress(s) {
			kind = "server"
		}
		sources += kind + " " + s + " iburst\n"
	}
	return []host.File{main, p.file(chronyConf, conf), p.file(chronySources, sources)}, nil
}

// chronyText is the distribution's file without servers of its own, reading the two folders that ours are in.
func chronyText(text string) string {
	var b strings.Builder
	missing := []string{"confdir /etc/chrony/conf.d", "sourcedir /etc/chrony/sources.d"}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) > 1 {
			switch strings.ToLower(f[0]) {
			case "pool", "server", "peer":
				b.WriteString(takenOver)
			case "confdir", "sourcedir":
				missing = slices.DeleteFunc(missing, func(m string) bool {
					want := strings.Fields(m)
					return strings.EqualFold(want[0], f[0]) && slices.Contains(f[1:], want[1])
				})
			}
		}
		b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	for _, m := range missing {
		b.WriteString(m + "\n")
	}
	return b.String()
}

func verifyChrony(ctx context.Context, p *Provider, spec *v1.TimeSpec) error {
	if _, err := p.host.Run(ctx, "chronyc", "-n", "tracking"); err != nil {
		return errs.Wrap("ask chrony", err)
	}
	out, err := p.host.Run(ctx, "chronyc", "-n", "-c", "sources")
	if err != nil {
		return errs.Wrap("ask chrony for its sources", err)
	}
	// ^,*,10.0.10.1,3,6,17,...
	var have []string
	for line := range strings.Lines(string(out.Stdout)) {
		if f := strings.Split(line, ","); len(f) > 2 {
			have = append(have, f[2])
		}
	}
	for _, s := range addresses(spec) {
		if !slices.Contains(have, s) {
			return errs.New(errs.Internal, "chrony does not use %s", s).At(chronySources).WithHint("journalctl -u chrony says why")
		}
	}
	return nil
}

func timesyncdFiles(p *Provider, spec *v1.TimeSpec) ([]host.File, error) {
	text := header + "[Time]\nNTP=" + strings.Join(spec.GetServers(), " ") + "\nFallbackNTP=\n"
	return []host.File{p.file(timesyncdConf, text)}, nil
}

func verifyTimesyncd(ctx context.Context, p *Provider, spec *v1.TimeSpec) error {
	out, err := p.host.Run(ctx, "timedatectl", "show-timesync", "--property=SystemNTPServers", "--value")
	if err != nil {
		return errs.Wrap("ask systemd-timesyncd", err)
	}
	have := strings.Fields(string(out.Stdout))
	for _, s := range spec.GetServers() {
		if !slices.Contains(have, s) {
			return errs.New(errs.Internal, "systemd-timesyncd does not use %s", s).At(timesyncdConf).
				WithHint("journalctl -u systemd-timesyncd says why")
		}
	}
	return nil
}
