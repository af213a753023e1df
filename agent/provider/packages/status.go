package packages

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Files of dpkg and of ours.
const (
	statusFile = "/var/lib/dpkg/status"
	// journal are records that dpkg has not merged into its status file: it is at work, or was interrupted.
	journal   = "/var/lib/dpkg/updates/[0-9]*"
	holdsFile = "/var/lib/infractl/packages/holds" // names that are held because a site said so
	lastFile  = "/var/lib/infractl/packages/last"  // what the last run of apt was to install
)

// entry is what is read of one paragraph of the status file. The fields point into the file's bytes.
type entry struct {
	name, selection, flag, state, version, priority []byte
	essential                                       bool
	conffiles                                       [][]byte
}

func (e *entry) known() bool { return len(e.state) > 0 && string(e.state) != "not-installed" }

// installed reports whether it works; a trigger that is pending is another package's matter.
func (e *entry) installed() bool {
	switch string(e.state) {
	case "installed", "triggers-pending", "triggers-awaited":
		return string(e.flag) == "ok"
	}
	return false
}

// broken reports whether dpkg was stopped in the middle of it.
func (e *entry) broken() bool {
	switch string(e.state) {
	case "half-installed", "unpacked", "half-configured":
		return true
	}
	return string(e.flag) == "reinstreq"
}

// scan calls f for each paragraph of a status file. Lines that it does not know, or that make no sense, it passes over.
func scan(data []byte, f func(e *entry)) {
	var e entry
	inConffiles := false
	for len(data) > 0 {
		line := data
		if end := bytes.IndexByte(data, '\n'); end >= 0 {
			line, data = data[:end], data[end+1:]
		} else {
			data = nil
		}
		if len(line) == 0 {
			if len(e.name) > 0 {
				f(&e)
			}
			e, inConffiles = entry{conffiles: e.conffiles[:0]}, false
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			if inConffiles {
				// " /etc/x hash"; a third word says that it is obsolete
				name, rest, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
				if len(name) > 0 && name[0] == '/' && !bytes.ContainsAny(rest, " \t") {
					e.conffiles = append(e.conffiles, name)
				}
			}
			continue
		}
		inConffiles = e.field(line)
	}
	if len(e.name) > 0 {
		f(&e)
	}
}

// field takes one line in and reports whether the list of configuration files follows.
func (e *entry) field(line []byte) (conffiles bool) {
	key, value, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return false
	}
	value = bytes.TrimSpace(value)
	switch string(key) {
	case "Package":
		e.name = value
	case "Status":
		if words := bytes.Fields(value); len(words) == 3 {
			e.selection, e.flag, e.state = words[0], words[1], words[2]
		}
	case "Version":
		e.version = value
	case "Priority":
		e.priority = value
	case "Essential", "Protected", "Important":
		e.essential = e.essential || string(value) == "yes"
	case "Conffiles":
		return true
	}
	return false
}

// pack is what is known of a package that a wish or a hold names.
type pack struct {
	known, installed, held, protected bool
	state, version                    string
	conffiles                         []string
}

// state is what a plan compares with the wish.
type state struct {
	packs map[string]pack
	ours  []string // held because of us
}

// look reads the packages that a wish names and those that are held because of us.
func (p *Provider) look(spec *v1.PackagesSpec) (*state, error) {
	s := &state{packs: map[string]pack{}}
	var err error
	if s.ours, err = p.ourHolds(); err != nil {
		return nil, err
	}
	wanted := map[string]bool{}
	for _, list := range [][]string{spec.GetPresent(), spec.GetAbsent(), spec.GetHold(), s.ours} {
		for _, name := range list {
			wanted[name] = true
		}
	}
	data, err := p.status()
	if err != nil {
		return nil, err
	}
	scan(data, func(e *entry) {
		if !wanted[string(e.name)] {
			return
		}
		k := s.packs[string(e.name)] // one name may be there in several architectures
		k.known = k.known || e.known()
		k.installed = k.installed || e.installed()
		k.held = k.held || string(e.selection) == "hold"
		k.protected = k.protected || e.essential || string(e.priority) == "required"
		if e.known() {
			k.state, k.version = string(e.state), string(e.version)
			for _, file := range e.conffiles {
				k.conffiles = append(k.conffiles, string(file))
			}
		}
		s.packs[string(e.name)] = k
	})
	return s, nil
}

func (p *Provider) status() ([]byte, error) {
	data, err := p.host.ReadFile(statusFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.New(errs.Precondition, "this host has no dpkg").At(statusFile).
			WithHint("packages are managed on Debian and Ubuntu only; leave this node out")
	}
	return data, errs.Wrap("read dpkg's status", err)
}

func (p *Provider) ourHolds() ([]string, error) {
	data, err := p.host.ReadFile(holdsFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errs.Wrap("read our holds", err)
	}
	return strings.Fields(string(data)), nil
}

// missing are the names that are to be there and are not.
func (s *state) missing(spec *v1.PackagesSpec) []string {
	return sorted(spec.GetPresent(), func(n string) bool { return !s.packs[n].installed })
}

// toRemove are the names that are to be away and have left something, be it only configuration.
func (s *state) toRemove(spec *v1.PackagesSpec) []string {
	return sorted(spec.GetAbsent(), func(n string) bool { return s.packs[n].known })
}

// holdChanges are the names to hold and to release. What is neither there nor to be there needs no hold. A hold that somebody
// else set stays; it becomes ours when the site names it.
func (s *state) holdChanges(spec *v1.PackagesSpec) (hold, release []string) {
	hold = sorted(spec.GetHold(), func(n string) bool {
		there := s.packs[n].installed || slices.Contains(spec.GetPresent(), n)
		return there && (!s.packs[n].held || !slices.Contains(s.ours, n))
	})
	release = sorted(s.ours, func(n string) bool { return !slices.Contains(spec.GetHold(), n) })
	return hold, release
}

func (s *state) text(name string) string {
	k := s.packs[name]
	switch {
	case k.installed:
		return k.version
	case k.state == "config-files":
		return "removed, its configuration is left"
	case k.known:
		return k.version + ", " + k.state
	}
	return "not installed"
}

// sorted returns the names for which f holds, in order and once.
func sorted(names []string, f func(string) bool) []string {
	var list []string
	for _, n := range names {
		if f(n) {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
