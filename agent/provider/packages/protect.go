package packages

import (
	"context"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// rivals write firewall rules of their own accord, some of them as soon as they are installed.
var rivals = []string{"arno-iptables-firewall", "ferm", "firewalld", "iptables-persistent", "netfilter-persistent", "shorewall",
	"shorewall6", "uruk"}

// lifelines are packages without which a way in or out, or the host itself, would be gone.
var lifelines = []string{
	"apt", "bash", "ca-certificates", "cloud-init", "coreutils", "dbus", "dbus-user-session", "dhcpcd", "dhcpcd-base", "dpkg",
	"grub-efi-amd64", "grub-pc", "ifupdown", "infractl-agent", "infractl-server", "init", "iproute2", "ipset", "iptables",
	"isc-dhcp-client", "kmod", "libc6", "libnetplan0", "libpam-modules", "libpam-runtime", "libpam-systemd", "login",
	"netbase", "netplan.io", "networkd-dispatcher", "nftables", "open-vm-tools", "openssh-client", "openssh-server",
	"openssh-sftp-server", "passwd", "procps", "sudo", "systemd", "systemd-resolved", "systemd-sysv", "udev", "wireguard",
	"wireguard-tools",
}

// lifelinePrefixes are the families among them.
var lifelinePrefixes = []string{"grub-", "linux-image-", "linux-modules-", "libsystemd", "libxtables", "libnftables"}

// engines are what containers run on.
var engines = []string{"containerd", "containerd.io", "docker-ce", "docker-engine", "docker.io", "moby-engine", "runc"}

// mayGo refuses a removal that would take a lifeline, or anything that the site does not name, with it.
func (p *Provider) mayGo(ctx context.Context, s *state, names []string) error {
	for _, name := range names {
		if s.packs[name].protected {
			return denied(name, "the host does not work without it")
		}
		if err := p.lifeline(name); err != nil {
			return err
		}
	}
	out, err := p.trial(ctx, append([]string{"purge"}, names...)...)
	if err != nil {
		return err
	}
	for _, name := range removals(out) {
		if err := p.lifeline(name); err != nil {
			return errs.Wrap("remove "+strings.Join(names, " "), err)
		}
		if !slices.Contains(names, name) {
			return errs.New(errs.Denied, "removing %s would also remove %s", strings.Join(names, ", "), name).At("packages").
				WithHint("name %s under absent as well, or leave them both", name)
		}
	}
	if more := installs(out); len(more) > 0 {
		return errs.New(errs.Denied, "without %s apt would install %s in its place", strings.Join(names, ", "), more[0].name).At("packages").
			WithHint("say under present what is to take its place")
	}
	return nil
}

func (p *Provider) lifeline(name string) error {
	prefix := func(s string) bool { return strings.HasPrefix(name, s) }
	switch {
	case slices.Contains(lifelines, name) || slices.ContainsFunc(lifelinePrefixes, prefix):
		return denied(name, "a way to this host, or the host itself, needs it")
	case slices.Contains(engines, name) && p.runs("dockerd", "containerd"):
		return denied(name, "containers run on it")
	}
	return nil
}

func denied(name, why string) error {
	return errs.New(errs.Denied, "%s can't be removed: %s", name, why).At("packages").
		WithHint("take %s out of absent; whoever must remove it does so by hand, at the console", name)
}

// runs reports whether a process of one of the names is there.
func (p *Provider) runs(names ...string) bool {
	files, err := p.host.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return true // not known: then it may be
	}
	return slices.ContainsFunc(files, func(file string) bool {
		name, err := p.host.ReadFile(file)
		return err == nil && slices.Contains(names, strings.TrimSpace(string(name)))
	})
}

// trial asks apt what it would do. It takes no lock and changes nothing.
func (p *Provider) trial(ctx context.Context, args ...string) (string, error) {
	argv := append([]string{"apt-get", "-s", "-q", "-y", "-o", "Debug::NoLocking=1", "-o", "APT::Install-Recommends=0"}, args...)
	out, err := p.host.RunCmd(ctx, host.Cmd{Argv: argv, Env: environment(), Timeout: trialLimit})
	if err != nil {
		return "", failure("ask apt what it would do", string(out.Stdout)+string(out.Stderr), err)
	}
	return string(out.Stdout), nil
}

// removals and installs read a trial's lines: "Remv NAME [OLD]", "Purg NAME [OLD]", "Inst NAME [OLD] (NEW origin [arch])".
func removals(trial string) []string {
	var list []string
	for line := range strings.Lines(trial) {
		if f := strings.Fields(line); len(f) > 1 && (f[0] == "Remv" || f[0] == "Purg") {
			list = append(list, bare(f[1]))
		}
	}
	return list
}

// install is one package that apt would install.
type install struct {
	name, version string
	upgrade       bool
}

func installs(trial string) []install {
	var list []install
	for line := range strings.Lines(trial) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "Inst" {
			continue
		}
		i := install{name: bare(f[1]), upgrade: strings.HasPrefix(f[2], "[")}
		if _, rest, ok := strings.Cut(line, "("); ok {
			i.version, _, _ = strings.Cut(rest, " ")
		}
		list = append(list, i)
	}
	return list
}

// bare is a name without its architecture.
func bare(name string) string {
	name, _, _ = strings.Cut(name, ":")
	return name
}
