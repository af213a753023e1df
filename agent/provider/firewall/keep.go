package firewall

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Files of the provider.
const (
	// KeptFile holds the rule set of the last kept commit.
	KeptFile = "/var/lib/infractl/firewall/kept.json"
	// RulesFileV4 and RulesFileV6 are the same, rendered: what the boot unit restores.
	RulesFileV4 = "/var/lib/infractl/firewall/rules.v4"
	RulesFileV6 = "/var/lib/infractl/firewall/rules.v6"
)

const snapshotKind = "infractl firewall snapshot"

func rulesFile(f family) string {
	if f == v6 {
		return RulesFileV6
	}
	return RulesFileV4
}

// Keep implements provider.Provider: it writes the boot files, then kept.json, which decides what is old from now on.
func (p *Provider) Keep(_ context.Context, wish provider.Wish[*v1.FirewallSpec]) error {
	if !concerns(wish.Stage) {
		return nil
	}
	_, want, err := p.target(wish)
	if err != nil {
		return errs.Wrap("keep firewall", err)
	}
	return errs.Wrap("keep firewall", p.keep(want))
}

func (p *Provider) keep(rs RuleSet) error {
	for _, f := range []family{v4, v6} {
		t, err := render(rs, f, p.flaw)
		if err != nil {
			return err
		}
		if _, err := p.host.WriteFile(rulesFile(f), []byte(iptables.Transaction(kernel{}, t, false)), 0o600); err != nil {
			return err
		}
	}
	data, err := json.MarshalIndent(rs, "", " ")
	if err != nil {
		return err
	}
	_, err = p.host.WriteFile(KeptFile, append(data, '\n'), 0o600)
	return err
}

// loadKept reads kept.json. Where nothing was kept, errors.Is(err, fs.ErrNotExist) holds.
func loadKept(h *host.Host) (RuleSet, error) {
	var rs RuleSet
	data, err := h.ReadFile(KeptFile)
	if err != nil {
		return rs, err
	}
	if err := strictjson.Unmarshal(data, &rs); err != nil || rs.Version != 1 {
		return rs, errs.New(errs.Precondition, "what the firewall last kept can't be read: version %d, %w", rs.Version, err).At(KeptFile).
			WithHint("the rules in the kernel still stand; move the file away, and the next apply starts from open chains")
	}
	return rs, nil
}

// loadOld is what our chains held at the last kept; before the first one, the first-boot rules; else nothing.
func loadOld(h *host.Host) (RuleSet, error) {
	rs, err := loadKept(h)
	if !errors.Is(err, fs.ErrNotExist) {
		return rs, err
	}
	rs, err = loadFirstBoot(h)
	if errors.Is(err, fs.ErrNotExist) {
		return RuleSet{Version: 1}, nil
	}
	return rs, err
}

// snapshot is all that Rollback needs.
type snapshot struct {
	Kind    string      `json:"kind"`
	Version int         `json:"version"`
	V4      *table      `json:"v4"`
	V6      *table      `json:"v6"`
	Files   []host.File `json:"files"`
}

// Snapshot implements provider.Provider: our chains and jumps as the kernel has them, and the kept files.
func (p *Provider) Snapshot(ctx context.Context, _ provider.Plan[*v1.FirewallSpec]) ([]byte, error) {
	present, err := readBoth(ctx, p.host)
	if err != nil {
		return nil, errs.Wrap("snapshot firewall", err)
	}
	ipv4, ipv6 := present[v4].Ours(), present[v6].Ours()
	files, err := p.host.Snapshot(KeptFile, RulesFileV4, RulesFileV6)
	if err != nil {
		return nil, errs.Wrap("snapshot firewall", err)
	}
	return json.Marshal(snapshot{Kind: snapshotKind, Version: 1, V4: &ipv4, V6: &ipv6, Files: files})
}

// Rollback implements provider.Provider. It goes on after a failure, so that one family's trouble does not keep the other
// one closed.
func (p *Provider) Rollback(ctx context.Context, data []byte) error {
	var s snapshot
	if err := strictjson.Unmarshal(data, &s); err != nil {
		return errs.New(errs.Invalid, "this is no snapshot of the firewall: %w", err)
	}
	if s.Kind != snapshotKind || s.Version != 1 || s.V4 == nil || s.V6 == nil {
		return errs.New(errs.Invalid, "this is no snapshot of the firewall: kind %q, version %d", s.Kind, s.Version)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.host.Restore(s.Files)
	return errs.Wrap("roll back firewall", errors.Join(bringBack(ctx, p.host, v4, *s.V4), bringBack(ctx, p.host, v6, *s.V6), err))
}
