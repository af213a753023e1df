package system

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// changes is the difference for people.
func (p *Provider) changes(t target, stage provider.Stage) ([]*v1.Change, error) {
	risk := v1.Risk_RISK_NONE
	if stage == provider.Widening {
		risk = v1.Risk_RISK_LOCKOUT
	}
	var list []*v1.Change
	add := func(subject string, action v1.ChangeAction, before, after []string) {
		list = append(list, &v1.Change{Provider: p.Name(), Subject: subject, Action: action, Before: before, After: after, Risk: risk})
	}
	for _, f := range append(slices.Clone(t.files), t.sysctls.file, t.sysctls.record) {
		same, err := p.host.InSync(f)
		if err != nil {
			return nil, err
		}
		if same {
			continue
		}
		have, err := p.host.Stat(f.Path)
		if err != nil {
			return nil, err
		}
		switch {
		case have.Absent:
			add(f.Path, v1.ChangeAction_CHANGE_ACTION_CREATE, nil, lines(f, host.File{}))
		case f.Absent:
			add(f.Path, v1.ChangeAction_CHANGE_ACTION_DELETE, lines(have, host.File{}), nil)
		default:
			add(f.Path, v1.ChangeAction_CHANGE_ACTION_UPDATE, lines(have, f), lines(f, have))
		}
	}
	if t.hostname != "" {
		add("host name", v1.ChangeAction_CHANGE_ACTION_UPDATE, nil, []string{t.hostname})
	}
	if t.resolved {
		add("resolver", v1.ChangeAction_CHANGE_ACTION_UPDATE, nil, []string{"uses the servers of " + resolvedFile})
	}
	for _, key := range slices.Sorted(maps.Keys(t.sysctls.set)) {
		add(key, v1.ChangeAction_CHANGE_ACTION_UPDATE, []string{t.sysctls.live[key]}, []string{t.sysctls.set[key]})
	}
	return list, nil
}

// lines are those of a that are not in b. Our own record is for us alone.
func lines(a, b host.File) []string {
	if a.Path == originalFile {
		return nil
	}
	if a.Mode&os.ModeSymlink != 0 {
		return []string{"link to " + string(a.Data)}
	}
	others := strings.Split(string(b.Data), "\n")
	var list []string
	for line := range strings.Lines(string(a.Data)) {
		line = strings.TrimRight(line, "\n")
		if line != "" && line+"\n" != header && !slices.Contains(others, line) {
			list = append(list, line)
		}
	}
	return list
}

// snapshot is what Rollback needs.
type snapshot struct {
	Version  int         `json:"version"`
	Files    []host.File `json:"files"`
	Hostname string      `json:"hostname,omitempty"`
	// Resolved says that systemd-resolved has to read its files again.
	Resolved bool              `json:"resolved,omitempty"`
	Sysctls  map[string]string `json:"sysctls,omitempty"`
}

// Snapshot implements provider.Provider.
func (p *Provider) Snapshot(_ context.Context, pl plan) ([]byte, error) {
	t, err := p.target(pl.Wish)
	if err != nil {
		return nil, err
	}
	s := snapshot{Version: 1, Sysctls: t.sysctls.live}
	paths := []string{t.sysctls.file.Path, originalFile}
	for _, f := range t.files {
		paths = append(paths, f.Path)
	}
	if t.loaded != nil {
		s.Resolved = true
		paths = append(paths, loadedFile)
	}
	if s.Files, err = p.host.Snapshot(paths...); err != nil {
		return nil, err
	}
	if pl.Wish.Stage == provider.Additions && pl.Wish.Spec.GetHostname() != "" {
		live, err := p.host.ReadFile(liveHostname)
		if err != nil {
			return nil, errs.Wrap("read the host name", err)
		}
		s.Hostname = strings.TrimSpace(string(live))
	}
	return json.Marshal(s)
}

// Rollback implements provider.Provider. It goes on after a failure.
func (p *Provider) Rollback(ctx context.Context, data []byte) error {
	var s snapshot
	if err := strictjson.Unmarshal(data, &s); err != nil || s.Version != 1 || len(s.Files) == 0 {
		return errs.New(errs.Invalid, "this is no snapshot of system: %v", err)
	}
	_, err := p.host.Restore(s.Files)
	failed := []error{err}
	back := map[string]string{}
	for key, value := range s.Sysctls {
		if !validKey(key) {
			failed = append(failed, errs.New(errs.Invalid, "%q is no kernel setting", key))
			continue
		}
		if now, err := p.value(key); err != nil || now != value {
			back[key] = value
		}
	}
	failed = append(failed, p.setLive(ctx, back))
	if live, err := p.host.ReadFile(liveHostname); s.Hostname != "" && (err != nil || strings.TrimSpace(string(live)) != s.Hostname) {
		_, err = p.host.Run(ctx, "hostname", "--", s.Hostname)
		failed = append(failed, errs.Wrap("set the host name back", err))
	}
	if s.Resolved && !p.host.Booting() {
		failed = append(failed, p.restartResolved(ctx))
	}
	return errs.Join(failed...)
}
