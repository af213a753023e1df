package firewall

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Name is the provider's name.
const Name = "firewall"

// Config makes a Provider.
type Config struct {
	// Host is the machine. Required.
	Host *host.Host
	// Log gets what Repair put back; nil means none.
	Log hclog.Logger
}

// Provider keeps the firewall. It remembers nothing between calls: the kernel and kept.json say all.
type Provider struct {
	host *host.Host
	log  hclog.Logger
	mu   sync.Mutex // one change of the kernel at a time
	flaw faults
}

var (
	_ provider.Provider[*v1.FirewallSpec] = (*Provider)(nil)
	_ provider.Widener                    = (*Provider)(nil)
)

// New returns a Provider. It takes part in the stages Widening and Narrowing; at the others its plan is empty.
func New(cfg Config) *Provider {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	return &Provider{host: cfg.Host, log: cfg.Log}
}

// Name implements provider.Provider.
func (p *Provider) Name() string { return Name }

// target is the rule set of a wish, and the old one that it was computed from.
func (p *Provider) target(wish provider.Wish[*v1.FirewallSpec]) (old, want RuleSet, err error) {
	wanted, err := FromSpec(wish.Spec)
	if err != nil {
		return old, want, err
	}
	if old, err = loadOld(p.host); err != nil {
		return old, want, err
	}
	if wish.Stage == provider.Widening {
		return old, widen(old, wanted), nil
	}
	return old, narrow(old, wanted, wish.Laggards), nil
}

func concerns(stage provider.Stage) bool {
	return stage == provider.Widening || stage == provider.Narrowing
}

// Plan implements provider.Provider. It costs two processes. It refuses, with code precondition, a host on which somebody else
// manages the same tables.
func (p *Provider) Plan(ctx context.Context, wish provider.Wish[*v1.FirewallSpec]) (provider.Plan[*v1.FirewallSpec], error) {
	plan := provider.Plan[*v1.FirewallSpec]{Wish: wish}
	if !concerns(wish.Stage) {
		return plan, nil
	}
	old, want, err := p.target(wish)
	if err != nil {
		return plan, errs.Wrap("plan firewall", err)
	}
	present, err := readBoth(ctx, p.host)
	if err != nil {
		return plan, errs.Wrap("plan firewall", err)
	}
	if err := p.refuse(ctx, present, want.Docker); err != nil {
		return plan, errs.Wrap("plan firewall", err)
	}
	plan.Changes, err = p.changes(old, want, present)
	return plan, errs.Wrap("plan firewall", err)
}

// changes are the flows that come and go; where the kernel does not hold what was kept, the lines of the kernel itself.
func (p *Provider) changes(old, want RuleSet, present map[family]kernel) ([]*v1.Change, error) {
	var drift []*v1.Change
	asKept := true
	for _, f := range []family{v4, v6} {
		wanted, err := render(want, f, p.flaw)
		if err != nil {
			return nil, err
		}
		lines := present[f].Differences(wanted)
		if len(lines) == 0 {
			continue
		}
		kept, err := render(old, f, p.flaw)
		if err != nil {
			return nil, err
		}
		asKept = asKept && present[f].Same(kept)
		c := change("chains of "+f.String(), v1.ChangeAction_CHANGE_ACTION_UPDATE)
		for _, line := range lines {
			if text, ok := strings.CutPrefix(line, "- "); ok {
				c.Before = append(c.Before, text)
			} else {
				c.After = append(c.After, strings.TrimPrefix(line, "+ "))
			}
		}
		drift = append(drift, c)
	}
	if len(drift) == 0 || !asKept {
		return drift, nil
	}
	var list []*v1.Change
	before := old.named()
	for i, n := range want.named() {
		was, is := before[i].hook.lines(n.name), n.hook.lines(n.name)
		c := change(n.name, v1.ChangeAction_CHANGE_ACTION_UPDATE)
		switch {
		case len(was) == 0:
			c.Action = v1.ChangeAction_CHANGE_ACTION_CREATE
		case len(is) == 0:
			c.Action = v1.ChangeAction_CHANGE_ACTION_DELETE
		}
		c.Before, c.After = iptables.Without(was, is), iptables.Without(is, was)
		if len(c.Before)+len(c.After) > 0 {
			list = append(list, c)
		}
	}
	if len(list) == 0 {
		return drift, nil
	}
	return list, nil
}

func change(subject string, action v1.ChangeAction) *v1.Change {
	return &v1.Change{Provider: Name, Subject: subject, Action: action, Risk: v1.Risk_RISK_LOCKOUT}
}

// Apply implements provider.Provider. Each family is tried in an empty network namespace first, since the kernel may refuse
// what iptables parses. IPv4 and IPv6 are two transactions: where the second fails, the first is taken back.
func (p *Provider) Apply(ctx context.Context, plan provider.Plan[*v1.FirewallSpec]) error {
	if !concerns(plan.Wish.Stage) {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, want, err := p.target(plan.Wish)
	if err != nil {
		return errs.Wrap("apply firewall", err)
	}
	return errs.Wrap("apply firewall", p.install(ctx, want))
}

func (p *Provider) install(ctx context.Context, want RuleSet) error {
	present, err := readBoth(ctx, p.host)
	if err != nil {
		return err
	}
	wanted := map[family]table{}
	for _, f := range []family{v4, v6} {
		if wanted[f], err = render(want, f, p.flaw); err != nil {
			return err
		}
	}
	for _, f := range []family{v4, v6} {
		if present[f].Same(wanted[f]) {
			continue
		}
		if err := iptables.Try(ctx, p.host, f, iptables.Transaction(kernel{}, wanted[f], false)); err != nil {
			return err
		}
	}
	for _, f := range []family{v4, v6} {
		if present[f].Same(wanted[f]) {
			continue
		}
		if err := iptables.Restore(ctx, p.host, f, iptables.Transaction(present[f], wanted[f], false)); err != nil {
			return errors.Join(err, p.takeBack(ctx, present))
		}
	}
	return nil
}

// takeBack brings both families back to what was read before; also when the context has ended meanwhile.
func (p *Provider) takeBack(ctx context.Context, before map[family]kernel) error {
	ctx = context.WithoutCancel(ctx)
	var failed []error
	for _, f := range []family{v4, v6} {
		was := before[f].Ours()
		failed = append(failed, bringBack(ctx, p.host, f, was))
	}
	return errors.Join(failed...)
}

// Verify implements provider.Provider: it reads the kernel again, both families.
func (p *Provider) Verify(ctx context.Context, wish provider.Wish[*v1.FirewallSpec]) error {
	if !concerns(wish.Stage) {
		return nil
	}
	_, want, err := p.target(wish)
	if err != nil {
		return errs.Wrap("verify firewall", err)
	}
	present, err := readBoth(ctx, p.host)
	if err != nil {
		return errs.Wrap("verify firewall", err)
	}
	for _, f := range []family{v4, v6} {
		wanted, err := render(want, f, p.flaw)
		if err != nil {
			return errs.Wrap("verify firewall", err)
		}
		if lines := present[f].Differences(wanted); len(lines) > 0 {
			return errs.Wrap("verify firewall", errs.New(errs.Conflict, "%s differs from what was applied, in %d lines; the first: %s",
				f, len(lines), lines[0]).WithHint("another program on this host writes the same rules: see the warnings of infractl status"))
		}
	}
	return nil
}

// Widened implements provider.Widener: the old lines that the last kept commit left standing.
func (p *Provider) Widened(context.Context) []string {
	rs, err := loadKept(p.host)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return []string{err.Error()}
	}
	return widened(rs)
}
