package dns

import (
	"fmt"
	"strings"

	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// shown is how many lines of a file a change shows on each side.
const shown = 20

const (
	create = v1.ChangeAction_CHANGE_ACTION_CREATE
	update = v1.ChangeAction_CHANGE_ACTION_UPDATE
	remove = v1.ChangeAction_CHANGE_ACTION_DELETE
)

// changes is the difference for people.
func (p *Provider) changes(l *looked) ([]*v1.Change, error) {
	var out []*v1.Change
	add := func(subject string, action v1.ChangeAction, before, after []string) {
		out = append(out, &v1.Change{Provider: p.Name(), Subject: subject, Action: action, Before: before, After: after, Risk: v1.Risk_RISK_NONE})
	}
	for _, f := range l.conf {
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
		before, after := difference(have.Data, f.Data)
		add(f.Path, action(have.Absent), before, after)
	}
	for _, z := range l.zones {
		have, err := p.host.Stat(zoneFile(z))
		if err != nil {
			return nil, err
		}
		var before, after []string
		// A plan fetches nothing. The content of a site that is not stored yet is nowhere: then it says what, and not each line.
		serial, err := p.due(z)
		if err != nil {
			return nil, err
		}
		if want, ok := p.here(z.GetContentDigest()); ok {
			if want, err = zone.WithSerial(want, serial); err != nil {
				return nil, err
			}
			before, after = difference(have.Data, want)
		} else {
			after = []string{fmt.Sprintf("serial %d, content %s", serial, z.GetContentDigest())}
		}
		add("zone "+label(z), action(have.Absent), before, after)
	}
	for _, z := range l.begin {
		add("zone "+label(z), create, nil, []string{"changes by RFC 2136"})
	}
	for _, f := range l.stale {
		add(f, remove, nil, nil)
	}
	if l.keys {
		a := update
		if len(keyRefs(l.spec)) == 0 {
			a = remove
		}
		add(keyFile, a, nil, nil)
	}
	if !l.enabled {
		add(unit, update, []string{"not started at boot"}, []string{"started at boot"})
	}
	if !l.running {
		add(unit, update, []string{"not running"}, []string{"running"})
	}
	if len(out) == 0 && l.state.Loaded != l.loaded {
		add(unit, update, []string{"may run with older files"}, []string{"reads them again"})
	}
	return out, nil
}

func action(absent bool) v1.ChangeAction {
	if absent {
		return create
	}
	return update
}

func label(z *v1.DnsZone) string {
	if z.GetView() == "" {
		return z.GetName()
	}
	return z.GetName() + " (" + z.GetView() + ")"
}

// difference returns the lines that only one of two texts has, some of them where there are many.
func difference(have, want []byte) (before, after []string) {
	return only(have, want), only(want, have)
}

func only(text, other []byte) []string {
	others := map[string]bool{}
	for line := range strings.Lines(string(other)) {
		others[strings.TrimRight(line, "\r\n")] = true
	}
	var out []string
	more := 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || others[line] || strings.HasPrefix(line, ";") || strings.HasPrefix(line, "//") {
			continue
		}
		if len(out) == shown {
			more++
			continue
		}
		out = append(out, line)
	}
	if more > 0 {
		out = append(out, fmt.Sprintf("and %d more lines", more))
	}
	return out
}
