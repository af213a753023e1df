package firewall

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// refuse says no where somebody else manages the same tables. It starts a process only where tables of the other backend
// exist.
func (p *Provider) refuse(ctx context.Context, present map[family]kernel, docker bool) error {
	if conf, err := p.host.ReadFile("/etc/ufw/ufw.conf"); err == nil && p.host.Has("ufw") && setting(string(conf), "ENABLED") == "yes" {
		return errs.New(errs.Precondition, "ufw is active on this host").WithHint("ufw disable")
	}
	if p.firewalldRuns() {
		return errs.New(errs.Precondition, "firewalld is active on this host").WithHint("systemctl disable --now firewalld")
	}
	if docker && p.dockerUsesNftables() {
		return errs.New(errs.Precondition, "Docker uses its nftables backend, which has no DOCKER-USER chain").
			At("/etc/docker/daemon.json").WithHint(`set "firewall-backend" to "iptables" and restart Docker`)
	}
	return p.otherBackend(ctx, present)
}

func setting(conf, name string) string {
	value := ""
	for line := range strings.Lines(conf) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && k == name {
			value = strings.ToLower(strings.Trim(v, `"' `))
		}
	}
	return value
}

func (p *Provider) firewalldRuns() bool {
	if p.host.Exists("/sys/fs/cgroup/system.slice/firewalld.service") ||
		p.host.Exists("/sys/fs/cgroup/systemd/system.slice/firewalld.service") {
		return true
	}
	pid, err := p.host.ReadFile("/run/firewalld.pid")
	return err == nil && p.host.Exists("/proc/"+strings.TrimSpace(string(pid))+"/comm")
}

func (p *Provider) dockerUsesNftables() bool {
	data, err := p.host.ReadFile("/etc/docker/daemon.json")
	if err != nil {
		return false
	}
	var conf struct {
		Backend string `json:"firewall-backend"`
	}
	// Docker's own file: other keys are its affair, and one that does not parse does not start a Docker either.
	return json.Unmarshal(data, &conf) == nil && strings.HasPrefix(conf.Backend, "nftables")
}

// otherBackend refuses when both backends of iptables hold filter rules: both would decide, and each shows only its own.
func (p *Provider) otherBackend(ctx context.Context, present map[family]kernel) error {
	for _, f := range []family{v4, v6} {
		other, listed := strings.Replace(f.save(), "-save", "-legacy-save", 1), "/proc/net/ip_tables_names"
		if f == v6 {
			listed = "/proc/net/ip6_tables_names"
		}
		if present[f].legacy {
			other = strings.Replace(f.save(), "-save", "-nft-save", 1)
			if !p.host.Has(other) {
				continue
			}
		} else if names, err := p.host.ReadFile(listed); err != nil || !strings.Contains("\n"+string(names), "\nfilter\n") {
			continue
		}
		out, err := p.host.RunCmd(ctx, host.Cmd{Argv: []string{other, "-t", "filter"}, Timeout: commandTimeout})
		if err != nil {
			return errs.Wrap("look at the other iptables backend", err)
		}
		k, err := parse(string(out.Stdout))
		if err != nil {
			return errs.Wrap("look at the other iptables backend", err)
		}
		for _, rules := range k.rules {
			if len(rules) > 0 {
				return errs.New(errs.Precondition, "%s has rules in both backends of iptables; %s shows the others", f, other).
					WithHint("remove those rules, or choose that backend with update-alternatives --config %s",
						strings.TrimSuffix(f.save(), "-save"))
			}
		}
	}
	return nil
}
