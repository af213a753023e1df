package timesync

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// changes is the difference for people.
func (p *Provider) changes(t target) ([]*v1.Change, error) {
	var list []*v1.Change
	add := func(subject string, action v1.ChangeAction, before, after []string) {
		list = append(list, &v1.Change{Provider: p.Name(), Subject: subject, Action: action, Before: before, After: after,
			Risk: v1.Risk_RISK_RESTART})
	}
	const update = v1.ChangeAction_CHANGE_ACTION_UPDATE
	for _, f := range t.files {
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
		action := update
		if have.Absent {
			action = v1.ChangeAction_CHANGE_ACTION_CREATE
		}
		add(f.Path, action, lines(have.Data, f.Data), lines(f.Data, have.Data))
	}
	if !p.enabled(t.service) {
		add(t.service.unit, update, []string{"not started at boot"}, []string{"started at boot"})
	}
	running, err := p.running(t.service)
	if err != nil {
		return nil, err
	}
	if !running {
		add(t.service.unit, update, []string{"not running"}, []string{"running"})
	}
	same, err := p.host.InSync(t.loaded)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 && !same {
		add(t.service.unit, update, []string{"may run with older files"}, []string{"reads them again"})
	}
	return list, nil
}

func lines(text, other []byte) []string {
	others := strings.Split(string(other), "\n")
	var list []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") && !strings.HasPrefix(line, takenOver) || slices.Contains(others, line) {
			continue
		}
		list = append(list, line)
	}
	return list
}

// snapshot is what Rollback needs.
type snapshot struct {
	Version int         `json:"version"`
	Unit    string      `json:"unit"`
	Files   []host.File `json:"files"`
	Running bool        `json:"running,omitempty"`
}

// Snapshot implements provider.Provider.
func (p *Provider) Snapshot(_ context.Context, pl plan) ([]byte, error) {
	if leftAlone(pl.Wish.Spec) {
		return json.Marshal(snapshot{Version: 1})
	}
	t, err := p.target(pl.Wish.Spec)
	if err != nil {
		return nil, err
	}
	s := snapshot{Version: 1, Unit: t.service.unit}
	paths := append([]string{loadedFile}, t.service.links...)
	for _, f := range t.files {
		paths = append(paths, f.Path)
	}
	if s.Files, err = p.host.Snapshot(paths...); err != nil {
		return nil, err
	}
	if s.Running, err = p.running(t.service); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// Rollback implements provider.Provider. It goes on after a failure.
func (p *Provider) Rollback(ctx context.Context, data []byte) error {
	var s snapshot
	if err := strictjson.Unmarshal(data, &s); err != nil || s.Version != 1 ||
		s.Unit != "" && s.Unit != chrony().unit && s.Unit != timesyncd().unit {
		return errs.New(errs.Invalid, "this is no snapshot of time: %v", err)
	}
	if s.Unit == "" {
		return nil
	}
	_, err := p.host.Restore(s.Files)
	failed := []error{err}
	if p.host.Booting() {
		return errs.Join(failed...) // the service has not started yet
	}
	failed = append(failed, p.host.Systemctl(ctx, "daemon-reload"))
	verb := "stop"
	if s.Running {
		verb = "restart"
	}
	failed = append(failed, p.host.Systemctl(ctx, verb, s.Unit))
	return errs.Join(failed...)
}
