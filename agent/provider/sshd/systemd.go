package sshd

import (
	"context"
	"io/fs"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	service = "ssh.service"
	socketU = "ssh.socket"
	// The unit's own RestartPreventExitStatus=255 would give up when no address can be listened on yet.
	unitText = header + `[Unit]
StartLimitIntervalSec=0

[Service]
Restart=on-failure
RestartSec=1
RestartPreventExitStatus=
`
	// oldSocketDropIn ties ssh.service to ssh.socket on Ubuntu 22.10 to 23.10.
	oldSocketDropIn = "/etc/systemd/system/ssh.service.d/00-socket.conf"
)

// socketLinks are what makes systemd listen in sshd's place at boot.
func socketLinks() []string {
	return []string{"/etc/systemd/system/sockets.target.wants/ssh.socket", "/etc/systemd/system/ssh.service.requires/ssh.socket",
		oldSocketDropIn}
}

// serviceLinks are what makes sshd start at boot.
func serviceLinks() []string {
	return []string{"/etc/systemd/system/multi-user.target.wants/ssh.service", "/etc/systemd/system/sshd.service"}
}

// units is how systemd starts sshd now.
type units struct {
	socketEnabled  bool
	serviceEnabled bool
	// listen are the sockets that ssh.socket holds; nil when it holds none.
	listen []listener
}

// ok reports whether nothing has to change.
func (u units) ok() bool { return !u.socketEnabled && u.serviceEnabled && u.listen == nil }

func (p *Provider) units(ctx context.Context) (units, error) {
	var u units
	for _, link := range socketLinks() {
		u.socketEnabled = u.socketEnabled || p.host.Exists(link)
	}
	u.serviceEnabled = p.host.Exists(serviceLinks()[0])
	if !u.socketEnabled {
		return u, nil
	}
	out, err := p.host.Run(ctx, "systemctl", "show", socketU, "-p", "ActiveState", "-p", "Listen", "-p", "BindIPv6Only")
	if err != nil {
		return u, errs.Wrap("ask systemd about "+socketU, err)
	}
	u.listen, err = parseSocketUnit(string(out.Stdout))
	return u, err
}

// parseSocketUnit reads lines like "Listen=[::]:22 (Stream)".
func parseSocketUnit(text string) ([]listener, error) {
	var values []string
	active, both := false, true
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "ActiveState":
			active = value == "active"
		case "BindIPv6Only":
			both = value != "ipv6-only"
		case "Listen":
			if address, ok := strings.CutSuffix(value, " (Stream)"); ok {
				values = append(values, address)
			}
		}
	}
	if !active {
		return nil, nil
	}
	for _, v := range values {
		if port, ok := strings.CutPrefix(v, "[::]:"); ok && both {
			values = append(values, "0.0.0.0:"+port)
		}
	}
	return parseListeners(values)
}

// state answers what `systemctl is-active` or `is-system-running` says. Its exit code only repeats that: "inactive" is an
// answer and no failure.
func (p *Provider) state(ctx context.Context, args ...string) (string, error) {
	out, err := p.host.Run(ctx, append([]string{"systemctl"}, args...)...)
	if text := strings.TrimSpace(string(out.Stdout)); text != "" {
		return text, nil
	}
	return "", errs.Wrap("ask systemd", err)
}

func (p *Provider) active(ctx context.Context, unit string) (bool, error) {
	state, err := p.state(ctx, "is-active", unit)
	return state == "active" || state == "reloading", err
}

// takeEffect makes systemd and sshd follow the files.
func (p *Provider) takeEffect(ctx context.Context, t target) error {
	socketActive, err := p.active(ctx, socketU)
	if err != nil {
		return err
	}
	if err := p.bootLinks(t.units); err != nil {
		return err
	}
	if t.unitsStale() {
		if err := p.host.Systemctl(ctx, "daemon-reload"); err != nil {
			return err
		}
	}
	if socketActive {
		// From here to the restart nobody listens: a few hundred milliseconds. Sessions live on (KillMode=process).
		if err := p.host.Systemctl(ctx, "stop", socketU); err != nil {
			return err
		}
		return p.host.Systemctl(ctx, "restart", service)
	}
	return p.reload(ctx)
}

// bootLinks is `systemctl enable` and `disable` without the seconds that these spend on scripts of SysV.
func (p *Provider) bootLinks(u units) error {
	if !u.serviceEnabled {
		unit := "/usr/lib/systemd/system/" + service
		if !p.host.Exists(unit) {
			unit = "/lib/systemd/system/" + service
		}
		for _, link := range slices.Backward(serviceLinks()) { // the one that decides comes last
			if _, err := p.host.Write(host.File{Path: link, Mode: fs.ModeSymlink | 0o777, Data: []byte(unit)}); err != nil {
				return err
			}
		}
	}
	if !u.socketEnabled {
		return nil
	}
	for _, link := range socketLinks() {
		if err := p.host.Remove(link); err != nil {
			return err
		}
	}
	return nil
}

// reload makes a running sshd read its files again, which moves its ports too, and starts one that is not running.
func (p *Provider) reload(ctx context.Context) error {
	running, err := p.active(ctx, service)
	if err != nil {
		return err
	}
	if running {
		return p.host.Systemctl(ctx, "reload", service)
	}
	if err := p.host.Systemctl(ctx, "reset-failed", service); err != nil {
		return err
	}
	return p.host.Systemctl(ctx, "restart", service)
}

// sysctl is one kernel setting below /proc/sys.
type sysctl struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

func sysctlPath(key string) string { return "/proc/sys/" + strings.ReplaceAll(key, ".", "/") }

// wantedSysctls lets sshd listen on an address that is not there yet. It is only needed where addresses are named.
func (p *Provider) wantedSysctls(spec *v1.SshdSpec) (host.File, []sysctl) {
	if len(spec.GetListenAddresses()) == 0 {
		return host.File{Path: sysctlFile, Absent: true}, nil
	}
	text := header + "# sshd can listen on an address that comes late at boot.\n"
	var list []sysctl
	for _, key := range []string{"net.ipv4.ip_nonlocal_bind", "net.ipv6.ip_nonlocal_bind"} {
		if p.host.Exists(sysctlPath(key)) {
			text += key + " = 1\n"
			list = append(list, sysctl{key, "1"})
		}
	}
	return p.file(sysctlFile, text, 0o644), list
}

func (p *Provider) liveSysctl(key string) (string, error) {
	data, err := p.host.ReadFile(sysctlPath(key))
	return strings.TrimSpace(string(data)), errs.Wrap("read "+key, err)
}

func (p *Provider) setSysctls(ctx context.Context, list []sysctl) error {
	for _, s := range list {
		live, err := p.liveSysctl(s.Key)
		if err != nil {
			return err
		}
		if live == s.Value {
			continue
		}
		if _, err := p.host.Run(ctx, "sysctl", "-q", "-w", s.Key+"="+s.Value); err != nil {
			return errs.Wrap("set "+s.Key, err)
		}
	}
	return nil
}

func (p *Provider) sysctls(ctx context.Context, t target) error {
	if _, err := p.host.Write(t.sysctlFile); err != nil {
		return err
	}
	return p.setSysctls(ctx, t.sysctls)
}
