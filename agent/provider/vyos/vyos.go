// Package vyos makes a VyOS router what its host spec says; its provider is called "vyos".
//
// VyOS has one configuration for everything, and one commit. So one provider takes the whole host spec: it renders all sections
// for the release that it finds, compares with the running configuration in the parts that are ours, and carries the
// difference out in one commit, which VyOS takes whole or not at all. There is no step between old and new: all of it belongs to
// the widening stage, under the engine's timer, and nothing is left for the narrowing one.
//
// A commit is not saved before it was kept. Rollback commits the way back; a reboot does the same, since the router then
// starts with what was saved. VyOS' own commit-confirm reboots and is not used. Nothing here ran on a real router.
package vyos

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/vyos"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Config makes a Provider.
type Config struct {
	// Host is the router.
	Host *host.Host
	// Log gets what is worth knowing beyond errors; nil means none.
	Log hclog.Logger
	// Wait bounds how long sshd may take to listen after a commit; 0 means 10 s.
	Wait time.Duration
}

// Provider implements provider.Provider for a whole VyOS router.
type Provider struct {
	host *host.Host
	log  hclog.Logger
	wait time.Duration
}

var _ provider.Provider[*v1.HostSpec] = (*Provider)(nil)

// New returns the provider.
func New(cfg Config) *Provider {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.Wait == 0 {
		cfg.Wait = 10 * time.Second
	}
	return &Provider{host: cfg.Host, log: cfg.Log, wait: cfg.Wait}
}

// Stages are the stages that the provider takes part in.
func Stages() []provider.Stage { return []provider.Stage{provider.Widening} }

// Name implements provider.Provider.
func (p *Provider) Name() string { return "vyos" }

type (
	wish = provider.Wish[*v1.HostSpec]
	plan = provider.Plan[*v1.HostSpec]
)

// target is what a wish means on this router, and what is there.
type target struct {
	version vyos.Version
	checker *vyos.Checker
	owned   vyos.Paths
	have    []vyos.Line
	want    []vyos.Line
	key     tunnelKey
	diff    vyos.Difference
}

// target renders a wish. Errors: Precondition for a router of another release or a configuration that cannot be written
// back, Invalid for a spec that the release cannot carry.
func (p *Provider) target(ctx context.Context, spec *v1.HostSpec) (*target, error) {
	version, text, err := p.Version()
	if err != nil {
		return nil, err
	}
	if platform := spec.GetRouter().GetPlatform(); platform != version.String() {
		return nil, errs.New(errs.Precondition, "the site says %s, and this router runs VyOS %s", platform, text).At("nodes/"+spec.GetNode()+"/platform").
			WithHint("write platform: %s, or put the release on the router that the site names", version)
	}
	t := &target{version: version, checker: vyos.NewChecker(version), owned: vyos.Owned(spec, version)}
	if t.have, err = p.running(ctx); err != nil {
		return nil, err
	}
	if t.key, err = p.tunnelKey(spec, version, t.have); err != nil {
		return nil, err
	}
	rendered, err := vyos.Render(spec, version, vyos.Options{PrivateKey: t.key.private})
	if err != nil {
		return nil, err
	}
	t.want = rendered.Lines
	t.diff = t.checker.Diff(t.have, t.want, t.owned)
	return t, nil
}

// Plan implements provider.Provider.
func (p *Provider) Plan(ctx context.Context, w wish) (provider.Plan[*v1.HostSpec], error) {
	result := plan{Wish: w}
	t, err := p.target(ctx, w.Spec)
	if err != nil {
		return result, err
	}
	if err := writable(t.diff.Delete, t.have, t.owned); err != nil {
		return result, err
	}
	result.Changes = changes(t)
	return result, nil
}

// writable refuses a configuration that Rollback could not write back: what is to be removed must be what can be set again.
func writable(gone, have []vyos.Line, owned vyos.Paths) error {
	for _, l := range have {
		if owned.Has(l) && slices.ContainsFunc(gone, func(d vyos.Line) bool { return len(l) >= len(d) && slices.Equal(l[:len(d)], d) }) {
			if err := l.Writable(); err != nil {
				return errs.New(errs.Precondition, "what the router has under %q could not be written back: %w", strings.Join(l[:len(l)-1], " "), err).
					WithHint("remove it by hand, and apply again")
			}
		}
	}
	return nil
}

// changes says what an apply does, by the first two words of the lines. Secret values are hidden.
func changes(t *target) []*v1.Change {
	var out []*v1.Change
	at := func(l vyos.Line) *v1.Change {
		subject := strings.Join(l[:min(2, len(l))], " ")
		for _, c := range out {
			if c.GetSubject() == subject {
				return c
			}
		}
		c := &v1.Change{Provider: "vyos", Subject: subject, Action: v1.ChangeAction_CHANGE_ACTION_UPDATE, Risk: v1.Risk_RISK_LOCKOUT}
		out = append(out, c)
		return c
	}
	for _, l := range t.diff.Delete {
		c := at(l)
		c.Before = append(c.Before, strings.TrimPrefix(l.Redacted(), "set "))
	}
	for _, l := range t.diff.Set {
		c := at(l)
		c.After = append(c.After, strings.TrimPrefix(l.Redacted(), "set "))
	}
	if t.key.missing {
		out = append(out, &v1.Change{Provider: "vyos", Subject: "key of the tunnel", Action: v1.ChangeAction_CHANGE_ACTION_CREATE,
			Risk: v1.Risk_RISK_NONE, After: []string{"made on the router, which keeps it"}})
	}
	return out
}

// Apply implements provider.Provider: one commit, not saved. Errors: Precondition when VyOS refuses it, and then nothing has changed.
func (p *Provider) Apply(ctx context.Context, pl plan) error {
	t, err := p.target(ctx, pl.Wish.Spec)
	if err != nil {
		return err
	}
	if t.key.missing {
		if err := p.makeKey(t.key); err != nil {
			return err
		}
		if t, err = p.target(ctx, pl.Wish.Spec); err != nil {
			return err
		}
	}
	return p.commit(ctx, t.diff)
}

// Verify implements provider.Provider: the router runs what was wished, and sshd listens where it should.
func (p *Provider) Verify(ctx context.Context, w wish) error {
	t, err := p.target(ctx, w.Spec)
	if err != nil {
		return err
	}
	if !t.diff.Empty() || t.key.missing {
		first := append(slices.Clone(t.diff.Delete), t.diff.Set...)
		if len(first) == 0 {
			return errs.New(errs.Precondition, "the tunnel has no key")
		}
		return errs.New(errs.Precondition, "the running configuration is not what was committed: %s", strings.TrimPrefix(first[0].Redacted(), "set "))
	}
	if w.Spec.GetSshd() == nil {
		return nil
	}
	return p.listens(ctx, w.Spec.GetSshd().GetPort())
}

// Keep implements provider.Provider: only now is the configuration saved.
func (p *Provider) Keep(ctx context.Context, _ wish) error {
	return errs.Wrap("save the configuration", p.script(ctx, "save", []string{"save"}))
}

// snapshot is what was there in the parts that are ours. It holds the tunnel's key on 1.4 and later; the engine's folder is
// root's alone.
type snapshot struct {
	Format  int         `json:"format"`
	Release string      `json:"release"`
	Owned   vyos.Paths  `json:"owned"`
	Lines   []vyos.Line `json:"lines"`
	// Keys are files of the tunnel's key that were not there.
	Keys []string `json:"keys,omitempty"`
}

// Snapshot implements provider.Provider.
func (p *Provider) Snapshot(ctx context.Context, pl plan) ([]byte, error) {
	t, err := p.target(ctx, pl.Wish.Spec)
	if err != nil {
		return nil, err
	}
	s := snapshot{Format: 1, Release: t.version.String(), Owned: t.owned, Lines: []vyos.Line{}}
	for _, l := range t.have {
		if t.owned.Has(l) {
			s.Lines = append(s.Lines, l)
		}
	}
	if t.key.missing {
		s.Keys = []string{t.key.path, pubFile13}
	}
	return json.Marshal(s)
}

// Rollback implements provider.Provider: one commit that leads back. It does not use "load": that migrates a file without
// the footer of its release, and would also undo what others changed meanwhile.
func (p *Provider) Rollback(ctx context.Context, data []byte) error {
	var s snapshot
	if err := json.Unmarshal(data, &s); err != nil || s.Format != 1 || s.Lines == nil {
		return errs.New(errs.Invalid, "this is no snapshot of the router's configuration")
	}
	version, _, err := p.Version()
	if err != nil {
		return err
	}
	if version.String() != s.Release {
		return errs.New(errs.Precondition, "the snapshot is of %s, and this router runs %s", s.Release, version).
			WithHint("the saved configuration holds since the reboot into the other image")
	}
	have, err := p.running(ctx)
	if err != nil {
		return err
	}
	if err := p.commit(ctx, vyos.NewChecker(version).Diff(have, s.Lines, s.Owned)); err != nil {
		return err
	}
	for _, path := range s.Keys {
		if path != keyFile && path != keyFile13 && path != pubFile13 {
			continue
		}
		if err := p.host.Remove(path); err != nil {
			return err
		}
	}
	return nil
}
