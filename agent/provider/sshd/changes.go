package sshd

import (
	"bytes"
	"context"
	"path"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// changes is the difference for people.
func (t target) changes(name string) []*v1.Change {
	var list []*v1.Change
	add := func(subject string, action v1.ChangeAction, risk v1.Risk, before, after []string) {
		list = append(list, &v1.Change{Provider: name, Subject: subject, Action: action, Before: before, After: after, Risk: risk})
	}
	const (
		create = v1.ChangeAction_CHANGE_ACTION_CREATE
		change = v1.ChangeAction_CHANGE_ACTION_UPDATE
		remove = v1.ChangeAction_CHANGE_ACTION_DELETE
		risky  = v1.Risk_RISK_LOCKOUT
	)
	for _, f := range t.files() {
		had := t.had[f.Path]
		switch {
		case equal(had, f):
		case had.Absent:
			add(f.Path, create, risky, nil, lines(f.Data, nil))
		case f.Absent:
			add(f.Path, remove, risky, lines(had.Data, nil), nil)
		default:
			add(f.Path, change, risky, lines(had.Data, f.Data), lines(f.Data, had.Data))
		}
	}
	for _, s := range t.live {
		add(s.Key, change, v1.Risk_RISK_NONE, nil, []string{s.Value})
	}
	if t.units.socketEnabled || t.units.listen != nil {
		add(socketU, remove, risky, []string{"systemd listens for sshd"}, []string{"sshd listens itself"})
	}
	if !t.units.serviceEnabled {
		add(service, change, risky, []string{"not started at boot"}, []string{"started at boot"})
	}
	if len(list) > 0 {
		return list
	}
	// The files are right; is it what runs?
	if wrong := t.config.mismatches(t.effective); len(wrong) > 0 {
		add("configuration in effect", change, risky, wrong, nil)
	}
	if len(t.missing)+len(t.left) > 0 {
		add("listening sockets", change, risky, ports(t.left), ports(t.missing))
	}
	if len(list) == 0 && !equal(t.had[loadedFile], t.loaded) {
		add(service, change, v1.Risk_RISK_LOCKOUT, []string{"may run with an older " + dropIn}, []string{"reads it again"})
	}
	return list
}

func equal(a, b host.File) bool {
	if a.Absent || b.Absent {
		return a.Absent == b.Absent
	}
	return bytes.Equal(a.Data, b.Data) && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID
}

// lines are those of text that are not in other, comments left out.
func lines(text, other []byte) []string {
	others := strings.Split(string(other), "\n")
	var list []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "# ") && !strings.HasPrefix(line, takenOver) || slices.Contains(others, line) {
			continue
		}
		list = append(list, line)
	}
	return list
}

// trial lets sshd judge the new files before it meets them: syntax, host keys, and whether our values win.
func (p *Provider) trial(ctx context.Context, t target) error {
	if err := p.host.RemoveAll(trialDir); err != nil {
		return errs.Wrap("clear "+trialDir, err)
	}
	err := p.writeTrial(t)
	if err == nil {
		err = p.judge(ctx, t)
	}
	if gone := p.host.RemoveAll(trialDir); err == nil && gone != nil {
		err = errs.Wrap("clear "+trialDir, gone)
	}
	return errs.Wrap("try the new configuration on the side", err)
}

func (p *Provider) judge(ctx context.Context, t target) error {
	const file = trialDir + "/sshd_config"
	now, err := p.effective(ctx, file)
	if err != nil {
		return err
	}
	if wrong := t.config.mismatches(now); len(wrong) > 0 {
		return notWinning(wrong)
	}
	if !t.match {
		return nil
	}
	for _, user := range t.spec.GetAllowUsers() {
		now, err := p.effectiveFor(ctx, file, user, t.spec)
		if err != nil {
			return err
		}
		if wrong := t.config.mismatches(now); len(wrong) > 0 {
			return errs.Wrap("user "+user, notWinning(wrong))
		}
	}
	return nil
}

func (p *Provider) writeTrial(t target) error {
	if err := p.host.Mkdir(trialDir+"/sshd_config.d", 0o700); err != nil {
		return err
	}
	for _, f := range append([]host.File{t.dropIn}, t.foreign...) {
		text := string(f.Data)
		name := trialDir + "/sshd_config.d/" + path.Base(f.Path)
		if f.Path == mainFile {
			name, text = trialDir+"/sshd_config", onTheSide(text)
		}
		if _, err := p.host.WriteFile(name, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// onTheSide is the main file that includes the trial's folder in place of the real one.
func onTheSide(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if key, rest := keyword(line); key == "include" && includesDropIns(rest) {
			line = "Include " + trialDir + "/sshd_config.d/*.conf\n"
		}
		b.WriteString(line)
	}
	return b.String()
}
