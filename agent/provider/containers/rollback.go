package containers

import (
	"bytes"
	"context"
	"encoding/json"
	"path"
	"slices"

	"github.com/infractl/infractl/agent/compose/wire"
	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// snapshot is what Rollback needs. It holds the values of secrets, and so stays in memory: the phase of services is no commit.
type snapshot struct {
	Version int           `json:"version"`
	Stacks  []stackBefore `json:"stacks"`
}

// stackBefore is a stack as it was.
type stackBefore struct {
	Name string `json:"name"`
	// Record is applied.json; absent when the stack was not there.
	Record host.File `json:"record"`
	// Files are those that were there and those that would come.
	Files []host.File `json:"files"`
	// Secrets are those that were there; others go.
	Secrets []host.File `json:"secrets,omitempty"`
}

const snapshotVersion = 1

// Snapshot implements provider.Provider.
func (p *Provider) Snapshot(ctx context.Context, pl plan) ([]byte, error) {
	w, err := p.look(ctx, pl.Wish.Spec)
	if err != nil {
		return nil, err
	}
	s := snapshot{Version: snapshotVersion, Stacks: []stackBefore{}}
	for _, stack := range w.stacks {
		before, err := p.snapshotStack(stack.name, stack.want)
		if err != nil {
			return nil, err
		}
		s.Stacks = append(s.Stacks, before)
	}
	data, err := json.Marshal(s)
	return data, errs.Wrap("snapshot", err)
}

func (p *Provider) snapshotStack(name string, want *v1.StackSpec) (stackBefore, error) {
	before := stackBefore{Name: name}
	have, err := p.record(name)
	if err != nil {
		return before, err
	}
	if before.Record, err = p.host.Stat(p.recordPath(name)); err != nil {
		return before, err
	}
	var paths []string
	add := func(files ...string) {
		for _, f := range files {
			if file := path.Join(p.projectDir(name), f); !slices.Contains(paths, file) {
				paths = append(paths, file)
			}
		}
	}
	if have != nil {
		add(have.paths()...)
	}
	if want != nil {
		add(newRecord(want).paths()...)
	}
	if before.Files, err = p.host.Snapshot(paths...); err != nil {
		return before, err
	}
	secrets, err := p.secretFiles(name)
	if err != nil {
		return before, err
	}
	before.Secrets, err = p.host.Snapshot(secrets...)
	return before, err
}

// Rollback implements provider.Provider.
func (p *Provider) Rollback(ctx context.Context, data []byte) error {
	s := snapshot{}
	if err := strictjson.Unmarshal(data, &s); err != nil || s.Version != snapshotVersion {
		return errs.New(errs.Invalid, "this is no snapshot of container stacks")
	}
	var failed []error
	for i := range s.Stacks {
		if !validName.MatchString(s.Stacks[i].Name) {
			return errs.New(errs.Invalid, "this is no snapshot of container stacks")
		}
		if err := p.restore(ctx, s.Stacks[i]); err != nil {
			failed = append(failed, errs.Wrap("stack "+s.Stacks[i].Name, err))
		}
	}
	return errs.Join(failed...)
}

// restore brings one stack back: files, secrets, containers, and the record last, so that it is done again after a crash.
func (p *Provider) restore(ctx context.Context, before stackBefore) error {
	now, err := p.host.Stat(p.recordPath(before.Name))
	if err != nil {
		return err
	}
	same := now.Absent == before.Record.Absent && bytes.Equal(now.Data, before.Record.Data)
	if same && now.Absent {
		return nil
	}
	var former *record
	if !before.Record.Absent {
		former = &record{}
		if err := json.Unmarshal(before.Record.Data, former); err != nil || former.Name != before.Name {
			former = &record{Version: 1, Name: before.Name, Pending: true}
		}
	}
	if former == nil {
		if _, err := p.compose(ctx, wire.Down, &record{Name: before.Name}); err != nil {
			return err
		}
	}
	changed, err := p.restoreFiles(before)
	if err != nil {
		return err
	}
	if former != nil && !former.Pending {
		if err := p.upAgain(ctx, former, same && !changed); err != nil {
			return err
		}
	}
	_, err = p.host.Write(before.Record)
	return err
}

func (p *Provider) restoreFiles(before stackBefore) (bool, error) {
	changed, err := p.host.Restore(before.Files)
	if err != nil {
		return changed, err
	}
	for _, f := range before.Secrets {
		for _, folder := range []string{p.secretDir(before.Name), path.Dir(f.Path)} {
			if err := p.folder(folder, 0o711); err != nil {
				return changed, err
			}
		}
	}
	c, err := p.host.Restore(before.Secrets)
	changed = changed || c
	if err != nil {
		return changed, err
	}
	have, err := p.secretFiles(before.Name)
	if err != nil {
		return changed, err
	}
	for _, file := range have {
		if !slices.ContainsFunc(before.Secrets, sameAs(file)) {
			changed = true
			if err := p.host.Remove(file); err != nil {
				return changed, err
			}
		}
	}
	return changed, nil
}

func sameAs(file string) func(host.File) bool {
	return func(f host.File) bool { return f.Path == file }
}

// upAgain brings the containers of a record back. Nothing is done when they are as they were.
func (p *Provider) upAgain(ctx context.Context, r *record, untouched bool) error {
	if untouched {
		list, err := p.engine.Containers(ctx, docker.LabelProject+"="+r.Name)
		if err != nil {
			return err
		}
		if len(compareContainers(r, list)) == 0 {
			return nil
		}
	}
	for use, id := range r.IDs {
		have, err := p.engine.ImageID(ctx, use)
		if err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
		if have != id {
			if err := p.engine.TagImage(ctx, id, use); err != nil {
				return errs.Wrap("give "+use+" its former image back", err)
			}
		}
	}
	_, err := p.compose(ctx, wire.Up, r)
	return err
}
