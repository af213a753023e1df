package packages

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
)

// snapshot is what Rollback needs.
type snapshot struct {
	Version int `json:"version"`
	// Before are the packages that dpkg knew, with their state. Those of an unfinished run of ours are not among them.
	Before map[string]string `json:"before,omitempty"`
	// Held says of each package that a change is about whether it was held.
	Held map[string]bool `json:"held,omitempty"`
	// Removed are installed packages that are to go, as name=version, and Conffiles are their configuration.
	Removed   []string    `json:"removed,omitempty"`
	Conffiles []host.File `json:"conffiles,omitempty"`
	// Files are our own.
	Files []host.File `json:"files"`
	// Unfinished says that there was such a run; then its record goes with what it installed.
	Unfinished bool `json:"unfinished,omitempty"`
}

const snapshotVersion = 1

// Snapshot implements provider.Provider.
func (p *Provider) Snapshot(_ context.Context, pl plan) ([]byte, error) {
	s := snapshot{Version: snapshotVersion, Held: map[string]bool{}}
	var err error
	if s.Files, err = p.host.Snapshot(lastFile, holdsFile); err != nil {
		return nil, err
	}
	if len(pl.Changes) == 0 {
		return json.Marshal(s)
	}
	now, err := p.look(pl.Wish.Spec)
	if err != nil {
		return nil, err
	}
	if pl.Wish.Stage == provider.Services {
		return p.snapshotOfRemoval(s, now, pl)
	}
	for _, c := range pl.Changes {
		s.Held[c.GetSubject()] = now.packs[c.GetSubject()].held
	}
	if s.Before, err = p.all(); err != nil {
		return nil, err
	}
	r, err := p.last()
	if err != nil {
		return nil, err
	}
	if s.Unfinished = p.unfinished(r); s.Unfinished {
		for _, name := range r.Packages {
			delete(s.Before, name)
		}
	}
	return json.Marshal(s)
}

func (p *Provider) snapshotOfRemoval(s snapshot, now *state, pl plan) ([]byte, error) {
	for _, name := range now.toRemove(pl.Wish.Spec) {
		k := now.packs[name]
		s.Held[name] = k.held
		if !k.installed {
			continue
		}
		s.Removed = append(s.Removed, name+"="+k.version)
		files, err := p.host.Snapshot(k.conffiles...)
		if err != nil {
			return nil, err
		}
		s.Conffiles = append(s.Conffiles, files...)
	}
	return json.Marshal(s)
}

// all returns the state of every package that dpkg knows.
func (p *Provider) all() (map[string]string, error) {
	data, err := p.status()
	if err != nil {
		return nil, err
	}
	states := map[string]string{}
	scan(data, func(e *entry) {
		if e.known() {
			states[string(e.name)] = string(e.state)
		}
	})
	return states, nil
}

// Rollback implements provider.Provider: it removes what was installed since, and nothing else, restores holds, and installs
// again what was removed; only that last needs the mirror, unless apt still has the file. Versions of packages that an
// installation had to raise stay raised. Where this process was told to stop while apt is at work, apt is left to end.
func (p *Provider) Rollback(ctx context.Context, data []byte) error {
	var s snapshot
	if err := strictjson.Unmarshal(data, &s); err != nil || s.Version != snapshotVersion {
		return errs.New(errs.Invalid, "this is no snapshot of packages: %v", err)
	}
	if len(s.Before)+len(s.Removed)+len(s.Held) == 0 {
		return nil
	}
	p.mu.Lock()
	left := p.left
	p.mu.Unlock()
	if left != "" {
		return errs.New(errs.Unavailable, "apt is at work in %s and is not stopped", left).
			WithHint("the next apply waits for it and goes on from there")
	}
	if err := p.ready(ctx); err != nil {
		if ctx.Err() != nil {
			return err
		}
		// What keeps dpkg from coming to its end may be just what goes now.
		p.log.Warn("dpkg is not whole before the rollback", "error", err)
	}
	if err := p.undo(ctx, s); err != nil {
		return err
	}
	if _, err := p.host.Restore(s.Conffiles); err != nil {
		return err
	}
	if err := p.restoreHolds(ctx, s.Held); err != nil {
		return err
	}
	if _, err := p.host.Restore(s.Files); err != nil {
		return err
	}
	if s.Unfinished {
		return p.host.Remove(lastFile)
	}
	return nil
}

// undo removes what is new and brings back what is gone.
func (p *Provider) undo(ctx context.Context, s snapshot) error {
	r, err := p.last()
	if err != nil {
		return err
	}
	now, err := p.all()
	if err != nil {
		return err
	}
	if s.Before == nil {
		r.Packages = nil
	}
	purge := sorted(r.Packages, func(n string) bool { return now[n] != "" && s.Before[n] == "" })
	leave := sorted(r.Packages, func(n string) bool { return now[n] != s.Before[n] && s.Before[n] == "config-files" })
	back := sorted(s.Removed, func(n string) bool {
		name, _, _ := strings.Cut(n, "=")
		return now[name] != "installed"
	})
	if len(purge) > 0 {
		argv := append([]string{"dpkg", "--force-remove-reinstreq", "--purge", "--"}, purge...)
		if err := p.inUnit(ctx, "remove what was installed", argv...); err != nil {
			return err
		}
	}
	if len(leave) > 0 {
		argv := append([]string{"dpkg", "--force-remove-reinstreq", "--remove", "--"}, leave...)
		if err := p.inUnit(ctx, "remove what was installed", argv...); err != nil {
			return err
		}
	}
	if len(back) == 0 {
		return nil
	}
	argv := p.aptGet(append([]string{"--no-remove", "--allow-downgrades", "-o", "Dpkg::Options::=--force-confmiss", "install", "--"}, back...)...)
	return p.inUnit(ctx, "install what was removed", argv...)
}

func (p *Provider) restoreHolds(ctx context.Context, held map[string]bool) error {
	data, err := p.status()
	if err != nil {
		return err
	}
	var hold, release []string
	scan(data, func(e *entry) {
		name := string(e.name)
		before, ours := held[name]
		switch is := string(e.selection) == "hold"; {
		case !ours || is == before || !e.known():
		case before:
			hold = append(hold, name)
		default:
			release = append(release, name)
		}
	})
	slices.Sort(hold)
	slices.Sort(release)
	if err := p.mark(ctx, "hold", slices.Compact(hold)); err != nil {
		return err
	}
	return p.mark(ctx, "unhold", slices.Compact(release))
}
