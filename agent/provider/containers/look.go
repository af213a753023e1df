package containers

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/compose/wire"
	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// work is what a look at the host found.
type work struct {
	stacks []*stackWork
	// engineErr is why the engine does not answer.
	engineErr error
}

// stackWork is one stack: want is nil for one that goes, have for one that comes.
type stackWork struct {
	name    string
	want    *v1.StackSpec
	have    *record
	changes []*v1.Change
}

// look compares spec, records, files and containers. It asks the engine once, and not at all when there are no stacks.
func (p *Provider) look(ctx context.Context, spec *v1.ContainersSpec) (*work, error) {
	if err := check(spec); err != nil {
		return nil, err
	}
	records, err := p.records()
	if err != nil {
		return nil, err
	}
	w := &work{}
	if len(records) == 0 && len(spec.GetStacks()) == 0 {
		return w, nil
	}
	var list []docker.Container
	list, w.engineErr = p.engine.Containers(ctx, docker.LabelProject)
	known := map[string]*record{}
	for _, r := range records {
		known[r.Name] = r
	}
	for _, s := range spec.GetStacks() {
		sw := &stackWork{name: s.GetName(), want: s, have: known[s.GetName()]}
		delete(known, s.GetName())
		if sw.changes, err = p.compare(sw, list, w.engineErr); err != nil {
			return nil, err
		}
		w.stacks = append(w.stacks, sw)
	}
	for _, r := range records {
		if known[r.Name] != nil {
			w.stacks = append(w.stacks, &stackWork{name: r.Name, have: r, changes: []*v1.Change{
				change("stack "+r.Name, v1.ChangeAction_CHANGE_ACTION_DELETE, serviceLines(r), nil)}})
		}
	}
	return w, nil
}

func change(subject string, action v1.ChangeAction, before, after []string) *v1.Change {
	return &v1.Change{Provider: "containers", Subject: subject, Action: action, Before: before, After: after, Risk: v1.Risk_RISK_RESTART}
}

func serviceLines(r *record) []string {
	lines := make([]string, 0, len(r.Services))
	for i := range r.Services {
		lines = append(lines, "service "+r.Services[i].Name+" "+r.Services[i].Image)
	}
	return lines
}

// compare lists what differs for a stack that is wanted.
func (p *Provider) compare(s *stackWork, list []docker.Container, engineErr error) ([]*v1.Change, error) {
	subject := "stack " + s.name
	const update = v1.ChangeAction_CHANGE_ACTION_UPDATE
	switch {
	case s.have == nil:
		return []*v1.Change{change(subject, v1.ChangeAction_CHANGE_ACTION_CREATE, nil, specLines(newRecord(s.want)))}, nil
	case s.have.Pending:
		return []*v1.Change{change(subject, update, []string{"a change of it was cut short"}, specLines(newRecord(s.want)))}, nil
	case s.have.Hash != hashOf(s.want):
		before, after := onlyIn(specLines(s.have), specLines(newRecord(s.want)))
		return []*v1.Change{change(subject, update, before, append(after, "its files changed"))}, nil
	}
	changes, err := p.compareFiles(s)
	if err != nil {
		return nil, err
	}
	if engineErr != nil {
		return append(changes, change(subject, update, []string{engineErr.Error()}, nil)), nil
	}
	return append(changes, compareContainers(s.have, list)...), nil
}

// specLines say for people what a stack is made of.
func specLines(r *record) []string {
	var lines []string
	for ref, use := range r.Images {
		line := "image " + ref
		if use != ref {
			line += " as " + use
		}
		lines = append(lines, line)
	}
	for name, version := range r.Secrets {
		lines = append(lines, "secret "+name+" version "+version)
	}
	for _, f := range r.Files {
		lines = append(lines, "file "+f)
	}
	for name, value := range r.Variables {
		lines = append(lines, "variable "+name+"="+value)
	}
	slices.Sort(lines)
	return lines
}

// onlyIn returns the lines that only one of two lists has.
func onlyIn(before, after []string) (gone, come []string) {
	gone = slices.DeleteFunc(slices.Clone(before), func(l string) bool { return slices.Contains(after, l) })
	come = slices.DeleteFunc(slices.Clone(after), func(l string) bool { return slices.Contains(before, l) })
	return gone, come
}

func (p *Provider) compareFiles(s *stackWork) ([]*v1.Change, error) {
	var changes []*v1.Change
	for _, f := range p.files(s.want) {
		same, err := p.host.InSync(f)
		if err != nil {
			return nil, err
		}
		if !same {
			changes = append(changes, change(f.Path, v1.ChangeAction_CHANGE_ACTION_UPDATE, []string{"it is not as written"}, nil))
		}
	}
	for _, use := range uses(s.have) {
		file := path.Join(p.secretDir(s.name), wire.SecretFile(use))
		have, err := p.host.Stat(file)
		if err != nil {
			return nil, err
		}
		want := owned(use)
		if have.Absent || have.Mode != secretMode || have.UID != want.UID || have.GID != want.GID {
			changes = append(changes, change(file, v1.ChangeAction_CHANGE_ACTION_UPDATE, []string{"it is not as written"}, nil))
		}
	}
	return changes, nil
}

// files are the stack's own files as they must be.
func (p *Provider) files(s *v1.StackSpec) []host.File {
	dir := p.projectDir(s.GetName())
	list := []host.File{{Path: path.Join(dir, composeName(s)), Data: s.GetCompose(), Mode: 0o644, UID: os.Geteuid(), GID: os.Getegid()}}
	for _, f := range s.GetFiles() {
		mode := os.FileMode(0o644)
		if f.GetExecutable() {
			mode = 0o755
		}
		list = append(list, host.File{Path: path.Join(dir, f.GetPath()), Data: f.GetContent(), Mode: mode, UID: os.Geteuid(), GID: os.Getegid()})
	}
	return list
}

// secretMode lets the owner read, and nobody write.
const secretMode = 0o400

// owned is a secret's file without path and content. A tester who is not root owns all files.
func owned(use wire.Secret) host.File {
	f := host.File{Mode: secretMode, UID: use.UID, GID: use.GID}
	if os.Geteuid() != 0 {
		f.UID, f.GID = os.Geteuid(), os.Getegid()
	}
	return f
}

func uses(r *record) []wire.Secret {
	var list []wire.Secret
	for i := range r.Services {
		for _, use := range r.Services[i].Secrets {
			if !slices.Contains(list, use) {
				list = append(list, use)
			}
		}
	}
	return list
}

// compareContainers lists services whose containers are not as they were made, and containers that belong to none.
func compareContainers(r *record, list []docker.Container) []*v1.Change {
	var changes []*v1.Change
	mine := byService(r.Name, list)
	for i := range r.Services {
		s := &r.Services[i]
		if why := wrong(s, r, mine[s.Name]); why != "" {
			changes = append(changes, change("stack "+r.Name+" service "+s.Name, v1.ChangeAction_CHANGE_ACTION_UPDATE, []string{why}, nil))
		}
		delete(mine, s.Name)
	}
	var names []string
	for _, rest := range mine {
		for i := range rest {
			names = append(names, rest[i].Name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		changes = append(changes, change("container "+name, v1.ChangeAction_CHANGE_ACTION_DELETE, []string{"it is not in stack " + r.Name}, nil))
	}
	return changes
}

func byService(stack string, list []docker.Container) map[string][]docker.Container {
	mine := map[string][]docker.Container{}
	for i := range list {
		c := list[i]
		if c.Project() == stack && !strings.EqualFold(c.Labels[docker.LabelOneOff], "true") {
			mine[c.Service()] = append(mine[c.Service()], c)
		}
	}
	return mine
}

// wrong says in what a service's containers differ from what was applied; empty when in nothing.
func wrong(s *wire.Service, r *record, have []docker.Container) string {
	if len(have) != s.Replicas {
		return fmt.Sprintf("%d of %d containers are there", len(have), s.Replicas)
	}
	for i := range have {
		c := &have[i]
		switch id := r.IDs[s.Image]; {
		case c.Labels[docker.LabelConfigHash] != s.Hash:
			return c.Name + " has another configuration"
		case id != "" && c.ImageID != id:
			return c.Name + " runs another image"
		case ended(s, c):
			continue
		case c.State != "running":
			return c.Name + " is " + c.State
		case c.Health == "unhealthy":
			return c.Name + " is unhealthy"
		}
	}
	return ""
}

// ended reports whether a container has done what it is for.
func ended(s *wire.Service, c *docker.Container) bool {
	return s.Completes && c.State == "exited" && strings.HasPrefix(c.Status, "Exited (0)")
}
