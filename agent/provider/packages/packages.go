// Package packages keeps packages of the operating system installed, held or away, by apt.
//
// What is there is read from dpkg's own status file: a plan that has nothing to do starts no process. apt runs without a
// question to anybody and in a transient unit, so that a restart of the agent does not kill dpkg; whoever comes next waits for
// the unit that is at work and goes on from what it has done. Installing happens with the additions and removes nothing;
// removing comes with the services, and only what is named goes.
package packages

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// maxNames bounds each list of a wish.
const maxNames = 500

// Config makes a Provider.
type Config struct {
	// Host is the machine.
	Host *host.Host
	// Log gets what is worth knowing beyond errors; nil means none.
	Log hclog.Logger
	// Clock says how old the package lists are; nil means the machine's.
	Clock clock.Clock
	// LockWait bounds how long another user of dpkg, such as unattended-upgrades, is waited for; 0 means 5 min.
	LockWait time.Duration
	// Limit bounds one run of apt; 0 means 30 min.
	Limit time.Duration
	// Poll is the time between two looks at a running unit; 0 means 200 ms.
	Poll time.Duration
}

// Provider implements provider.Provider for packages.
type Provider struct {
	host     *host.Host
	log      hclog.Logger
	clock    clock.Clock
	lockWait time.Duration
	limit    time.Duration
	poll     time.Duration

	mu sync.Mutex
	// left is the unit that was still at work when this process was told to stop.
	left string
}

var _ provider.Provider[*v1.PackagesSpec] = (*Provider)(nil)

// New returns the provider.
func New(cfg Config) *Provider {
	p := &Provider{host: cfg.Host, log: cfg.Log, clock: cfg.Clock, lockWait: cfg.LockWait, limit: cfg.Limit, poll: cfg.Poll}
	if p.log == nil {
		p.log = hclog.NewNullLogger()
	}
	if p.clock == nil {
		p.clock = clock.System{}
	}
	if p.lockWait == 0 {
		p.lockWait = 5 * time.Minute
	}
	if p.limit == 0 {
		p.limit = 30 * time.Minute
	}
	if p.poll == 0 {
		p.poll = 200 * time.Millisecond
	}
	return p
}

// Stages are the stages that the provider takes part in.
func Stages() []provider.Stage { return []provider.Stage{provider.Additions, provider.Services} }

// Name implements provider.Provider.
func (p *Provider) Name() string { return "packages" }

// Supplies implements provider.Supplier: a time service that the site wants is there before it is set up.
func (p *Provider) Supplies() bool { return true }

type (
	wish = provider.Wish[*v1.PackagesSpec]
	plan = provider.Plan[*v1.PackagesSpec]
)

// Plan implements provider.Provider. It runs apt, as a trial, only when something is to be removed. Errors: Invalid for names
// that can't be or contradict each other, Precondition where there is no apt, Denied for what must not be installed or removed.
func (p *Provider) Plan(ctx context.Context, w wish) (provider.Plan[*v1.PackagesSpec], error) {
	result := plan{Wish: w}
	if empty(w.Spec) && !p.host.Exists(holdsFile) {
		return result, nil
	}
	if err := check(w.Spec); err != nil {
		return result, err
	}
	s, err := p.look(w.Spec)
	if err != nil {
		return result, err
	}
	if w.Stage == provider.Services {
		if gone := s.toRemove(w.Spec); len(gone) > 0 {
			if err := p.mayGo(ctx, s, gone); err != nil {
				return result, err
			}
			for _, name := range gone {
				result.Changes = append(result.Changes, change(name, v1.ChangeAction_CHANGE_ACTION_DELETE, s.text(name), "not there"))
			}
		}
		return result, nil
	}
	for _, name := range s.missing(w.Spec) {
		result.Changes = append(result.Changes, change(name, v1.ChangeAction_CHANGE_ACTION_CREATE, s.text(name), "installed"))
	}
	hold, release := s.holdChanges(w.Spec)
	for _, name := range hold {
		result.Changes = append(result.Changes, change(name, v1.ChangeAction_CHANGE_ACTION_UPDATE, "may be upgraded", "held at its version"))
	}
	for _, name := range release {
		result.Changes = append(result.Changes, change(name, v1.ChangeAction_CHANGE_ACTION_UPDATE, "held at its version", "may be upgraded"))
	}
	return result, nil
}

func change(name string, action v1.ChangeAction, before, after string) *v1.Change {
	risk := v1.Risk_RISK_NONE
	if action == v1.ChangeAction_CHANGE_ACTION_DELETE {
		risk = v1.Risk_RISK_DATA
	}
	return &v1.Change{Provider: "packages", Subject: name, Action: action, Before: []string{before}, After: []string{after}, Risk: risk}
}

// Apply implements provider.Provider. Errors: Unavailable when dpkg is in use for too long or no mirror answers, NotFound for
// a package that no repository has, Exhausted for a full disk, Precondition for what apt refuses to resolve.
func (p *Provider) Apply(ctx context.Context, pl plan) error {
	if len(pl.Changes) == 0 {
		return nil
	}
	if err := p.ready(ctx); err != nil {
		return err
	}
	if pl.Wish.Stage == provider.Services {
		return p.remove(ctx, pl.Wish.Spec)
	}
	if err := p.install(ctx, pl.Wish.Spec); err != nil {
		return err
	}
	return p.hold(ctx, pl.Wish.Spec)
}

// Verify implements provider.Provider: dpkg says that it is so.
func (p *Provider) Verify(_ context.Context, w wish) error {
	s, err := p.look(w.Spec)
	if err != nil {
		return err
	}
	if w.Stage == provider.Services {
		if gone := s.toRemove(w.Spec); len(gone) > 0 {
			return errs.New(errs.Internal, "still there: %s", strings.Join(gone, ", ")).WithHint("dpkg -l %s", gone[0])
		}
		return nil
	}
	if missing := s.missing(w.Spec); len(missing) > 0 {
		return errs.New(errs.Internal, "apt ended well, and not installed: %s", strings.Join(missing, ", ")).
			WithHint("name the package itself, not one that it provides; dpkg -l %s says more", missing[0])
	}
	if hold, release := s.holdChanges(w.Spec); len(hold)+len(release) > 0 {
		return errs.New(errs.Internal, "holds are not as wanted: %s", strings.Join(append(hold, release...), ", ")).
			WithHint("apt-mark showhold")
	}
	return nil
}

// Keep implements provider.Provider; what was applied is on disk already.
func (p *Provider) Keep(context.Context, wish) error { return nil }

func empty(spec *v1.PackagesSpec) bool {
	return len(spec.GetPresent())+len(spec.GetAbsent())+len(spec.GetHold()) == 0
}

// check refuses what apt would read as something other than a name, and what contradicts itself.
func check(spec *v1.PackagesSpec) error {
	bad := func(hint, format string, args ...any) error {
		return errs.New(errs.Invalid, format, args...).At("packages").WithHint("%s", hint)
	}
	// A "-" at the end would mean "remove it" to apt, "+" stands in real names (g++).
	name := regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{0,98}[a-z0-9+.]$`)
	for _, list := range [][]string{spec.GetPresent(), spec.GetAbsent(), spec.GetHold()} {
		if len(list) > maxNames {
			return bad("split the work over several hosts or use a metapackage", "%d packages, more than %d", len(list), maxNames)
		}
		for _, n := range list {
			if !name.MatchString(n) {
				return bad("a name as in `apt-cache show`, without version and architecture", "%.60q is no package name", n)
			}
		}
	}
	for _, n := range spec.GetAbsent() {
		if slices.Contains(spec.GetPresent(), n) || slices.Contains(spec.GetHold(), n) {
			return bad("leave it in one of the lists", "%s is to be absent and to be there", n)
		}
	}
	for _, n := range spec.GetPresent() {
		if slices.Contains(rivals, n) {
			return errs.New(errs.Denied, "%s would write firewall rules of its own", n).At("packages").
				WithHint("say what may pass under flows; leave it out of packages")
		}
	}
	return nil
}
