package firewall

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/infractl/infractl/agent/iptables"
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
	return iptables.OneBackend(ctx, p.host, iptables.Filter(), present)
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
