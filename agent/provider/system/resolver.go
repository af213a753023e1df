package system

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	resolvedUnit = "systemd-resolved.service"
	// resolvedUplinks is where systemd-resolved writes the servers that it uses.
	resolvedUplinks = "/run/systemd/resolve/resolv.conf"
)

// resolver adds the resolver's files. Where /etc/resolv.conf leads to systemd-resolved, that is what programs ask, and it gets
// a drop-in; everywhere else the file itself is written.
func (p *Provider) resolver(t *target, spec *v1.SystemSpec) error {
	if len(spec.GetNameservers()) == 0 {
		return nil
	}
	have, err := p.host.Stat(resolvFile)
	if err != nil {
		return err
	}
	link := have.Mode&os.ModeSymlink != 0 && strings.Contains(string(have.Data), "systemd/resolve/")
	if !link || !p.resolvedInstalled() {
		text := header
		if len(spec.GetSearch()) > 0 {
			text += "search " + strings.Join(spec.GetSearch(), " ") + "\n"
		}
		for _, address := range spec.GetNameservers() {
			text += "nameserver " + address + "\n"
		}
		t.files = append(t.files, p.file(resolvFile, text))
		return nil
	}
	// "~." sends every name to our servers, also where a network card has servers of its own. No fallback: the firewall
	// would drop what goes to the servers built into resolved.
	text := header + "[Resolve]\nDNS=" + strings.Join(spec.GetNameservers(), " ") + "\nFallbackDNS=\nDomains=" +
		strings.Join(append(slices.Clone(spec.GetSearch()), "~."), " ") + "\n"
	t.files = append(t.files, p.file(resolvedFile, text))
	loaded := p.file(loadedFile, fmt.Sprintf("%x\n", sha256.Sum256([]byte(text))))
	loaded.Mode = 0o600
	same, err := p.host.InSync(loaded)
	t.loaded, t.resolved = &loaded, !same || !p.uses(spec.GetNameservers())
	return err
}

func (p *Provider) resolvedInstalled() bool {
	return p.host.Exists("/usr/lib/systemd/systemd-resolved") || p.host.Exists("/lib/systemd/systemd-resolved")
}

// uses reports whether systemd-resolved uses all these servers.
func (p *Provider) uses(nameservers []string) bool {
	data, err := p.host.ReadFile(resolvedUplinks)
	if err != nil {
		return false // it is not running
	}
	var have []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "nameserver" {
			have = append(have, f[1])
		}
	}
	return all(nameservers, func(address string) bool { return slices.Contains(have, address) })
}

// restartResolved and not reload: only systemd 254 and later can reload it.
func (p *Provider) restartResolved(ctx context.Context) error {
	_, err := p.host.Run(ctx, "systemctl", "restart", resolvedUnit)
	return errs.Wrap("restart the resolver", err)
}
