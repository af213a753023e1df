package packages

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// install brings what is missing, at the versions that a trial has shown.
func (p *Provider) install(ctx context.Context, spec *v1.PackagesSpec) error {
	s, err := p.look(spec)
	if err != nil {
		return err
	}
	missing := s.missing(spec)
	if len(missing) == 0 {
		return p.finish()
	}
	if err := p.refresh(ctx, missing); err != nil {
		return err
	}
	out, err := p.trial(ctx, append([]string{"--no-remove", "install", "--"}, missing...)...)
	if err != nil {
		return err
	}
	args := []string{"--no-remove", "install", "--"}
	began, err := p.last()
	if err != nil {
		return err
	}
	if !p.unfinished(began) {
		began = run{}
	}
	began.Wanted = missing
	for _, i := range installs(out) {
		if slices.Contains(rivals, i.name) {
			return errs.New(errs.Denied, "%s comes along and would write firewall rules of its own", i.name).At("packages").
				WithHint("apt-get -s install %s shows what wants it", strings.Join(missing, " "))
		}
		if !i.upgrade {
			began.Packages = append(began.Packages, i.name)
		}
		if slices.Contains(missing, i.name) {
			args = append(args, i.name+"="+i.version)
		}
	}
	if len(args) == 3 { // half installed: apt only configures it
		args = append(args, missing...)
	}
	if err := p.store(began); err != nil {
		return err
	}
	if err := p.inUnit(ctx, "install packages", p.aptGet(args...)...); err != nil {
		return err
	}
	return p.finish()
}

// refresh asks the mirrors anew when a package is not known, or a day after the last time.
func (p *Provider) refresh(ctx context.Context, names []string) error {
	unknown, err := p.unknown(ctx, names)
	if err != nil {
		return err
	}
	if len(unknown) == 0 && !p.stale() {
		return nil
	}
	err = p.inUnit(ctx, "renew the package lists", p.aptGet("-o", "APT::Update::Error-Mode=any", "update")...)
	if err != nil {
		if len(unknown) > 0 || ctx.Err() != nil {
			return err
		}
		p.log.Warn("package lists not renewed; going on with the old ones", "error", err)
		return nil
	}
	if _, err := p.host.WriteFile(stampFile, []byte(p.clock.Now().UTC().Format(time.RFC3339)+"\n"), 0o644); err != nil {
		return err
	}
	if unknown, err = p.unknown(ctx, names); err != nil || len(unknown) == 0 {
		return err
	}
	return errs.New(errs.NotFound, "no repository of this host has the package %s", strings.Join(unknown, ", ")).At("packages").
		WithHint("look at its spelling (apt-cache search %s); a name that several packages provide does not do", unknown[0])
}

func (p *Provider) stale() bool {
	data, err := p.host.ReadFile(stampFile)
	if err != nil {
		return true
	}
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(string(data)))
	age := p.clock.Now().Sub(at)
	return err != nil || age < 0 || age > listsAge
}

// unknown are the names for which apt has no version to install.
func (p *Provider) unknown(ctx context.Context, names []string) ([]string, error) {
	out, err := p.host.RunCmd(ctx, host.Cmd{Argv: append([]string{"apt-cache", "policy", "--"}, names...), Timeout: trialLimit})
	if err != nil {
		return nil, failure("ask apt for its versions", string(out.Stderr), err)
	}
	known, at := map[string]bool{}, ""
	for line := range strings.Lines(string(out.Stdout)) {
		line = strings.TrimRight(line, "\n")
		if name, ok := strings.CutSuffix(line, ":"); ok && !strings.HasPrefix(line, " ") {
			at = bare(name)
		}
		if version, ok := strings.CutPrefix(line, "  Candidate: "); ok && version != "(none)" {
			known[at] = true
		}
	}
	return sorted(names, func(n string) bool { return !known[n] }), nil
}

// hold sets and releases holds. The list of ours is never shorter than what is held because of us.
func (p *Provider) hold(ctx context.Context, spec *v1.PackagesSpec) error {
	s, err := p.look(spec)
	if err != nil {
		return err
	}
	hold, release := s.holdChanges(spec)
	if len(hold)+len(release) == 0 {
		return nil
	}
	if err := p.storeHolds(append(slices.Clone(s.ours), hold...)); err != nil {
		return err
	}
	if err := p.mark(ctx, "hold", hold); err != nil {
		return err
	}
	if err := p.mark(ctx, "unhold", release); err != nil {
		return err
	}
	return p.storeHolds(sorted(append(slices.Clone(s.ours), hold...), func(n string) bool { return !slices.Contains(release, n) }))
}

func (p *Provider) mark(ctx context.Context, verb string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	return p.inUnit(ctx, verb+" packages", append([]string{"apt-mark", verb, "--"}, names...)...)
}

func (p *Provider) storeHolds(names []string) error {
	names = sorted(names, func(string) bool { return true })
	if len(names) == 0 {
		return p.host.Remove(holdsFile)
	}
	_, err := p.host.WriteFile(holdsFile, []byte(strings.Join(names, "\n")+"\n"), 0o600)
	return err
}

// remove takes away what is named, by dpkg: that never takes more, whatever depends on it.
func (p *Provider) remove(ctx context.Context, spec *v1.PackagesSpec) error {
	s, err := p.look(spec)
	if err != nil {
		return err
	}
	gone := s.toRemove(spec)
	if len(gone) == 0 {
		return nil
	}
	if err := p.mayGo(ctx, s, gone); err != nil {
		return err
	}
	return p.inUnit(ctx, "remove packages", append([]string{"dpkg", "--purge", "--"}, gone...)...)
}

// run is what a run of apt was to install anew; it is on disk before apt starts.
type run struct {
	// Wanted are the names that it was asked for, Packages all that came with them and were not there before.
	Wanted   []string `json:"wanted"`
	Packages []string `json:"packages"`
	// Done says that it went well.
	Done bool `json:"done"`
}

func (p *Provider) last() (run, error) {
	data, err := p.host.ReadFile(lastFile)
	if errors.Is(err, fs.ErrNotExist) {
		return run{Done: true}, nil
	}
	if err != nil {
		return run{}, errs.Wrap("read what apt installed last", err)
	}
	var r run
	if err := strictjson.Unmarshal(data, &r); err != nil { // nobody can say any more what was ours: then nothing is
		p.log.Warn("not readable, and left out", "file", lastFile, "error", err)
		return run{Done: true}, nil
	}
	return r, nil
}

func (p *Provider) store(r run) error {
	r.Packages = sorted(r.Packages, func(string) bool { return true })
	data, err := json.Marshal(r)
	if err != nil {
		return errs.Wrap("store what apt installs", err)
	}
	_, err = p.host.WriteFile(lastFile, append(data, '\n'), 0o600)
	return err
}

// unfinished reports whether a run was cut before all that it was asked for was there.
func (p *Provider) unfinished(r run) bool {
	if r.Done {
		return false
	}
	s, err := p.look(&v1.PackagesSpec{Present: r.Wanted})
	return err == nil && len(s.missing(&v1.PackagesSpec{Present: r.Wanted})) > 0
}

// finish marks the last run as done.
func (p *Provider) finish() error {
	r, err := p.last()
	if err != nil || r.Done {
		return err
	}
	r.Done = true
	return p.store(r)
}
