package containers

import (
	"context"
	"os"
	"path"
	"slices"

	"github.com/infractl/infractl/agent/compose/wire"
	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Apply implements provider.Provider. Stacks change one after the other, and one that fails is brought back by itself: the
// others stay changed. The error has code RolledBack when every stack that failed is back in its former state.
func (p *Provider) Apply(ctx context.Context, pl plan) error {
	w, err := p.look(ctx, pl.Wish.Spec)
	if err != nil {
		return err
	}
	if w.engineErr != nil {
		for _, s := range w.stacks {
			p.problem(s.name, w.engineErr.Error())
		}
		return w.engineErr
	}
	var failed []error
	back := true
	for _, s := range w.stacks {
		if len(s.changes) == 0 {
			p.problem(s.name, "")
			continue
		}
		if err := p.change(ctx, s); err != nil {
			if ctx.Err() != nil {
				return err
			}
			back = back && errs.Is(err, errs.RolledBack)
			failed = append(failed, err)
			p.problem(s.name, err.Error())
			continue
		}
		p.problem(s.name, "")
	}
	switch {
	case len(failed) == 0:
		p.forgetSecrets()
		return nil
	case len(failed) == 1:
		return failed[0]
	case back:
		return errs.New(errs.RolledBack, "%w", errs.Join(failed...)).WithHint("%s", errs.HintOf(failed[0]))
	}
	return errs.Join(failed...)
}

// change brings one stack to its wish, or back to what it was.
func (p *Provider) change(ctx context.Context, s *stackWork) error {
	former, err := p.snapshotStack(s.name, s.want)
	if err != nil {
		return errs.Wrap("stack "+s.name, err)
	}
	p.log.Info("stack changes", "stack", s.name, "changes", len(s.changes))
	if s.want == nil {
		err = p.remove(ctx, s.have)
	} else {
		err = p.up(ctx, s)
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	why := p.diagnose(ctx, s.name)
	if len(why) > 0 {
		err = errs.New(errs.CodeOf(err), "%w%s", err, why).WithHint("%s", errs.HintOf(err))
	}
	err = errs.Wrap("stack "+s.name, err)
	if back := p.restore(context.WithoutCancel(ctx), former); back != nil {
		p.log.Error("a stack could not be brought back", "stack", s.name, "error", back)
		return errs.Join(err, errs.Wrap("bring stack "+s.name+" back", back))
	}
	hint := errs.HintOf(err)
	if hint == "" {
		hint = "infractl logs --stack " + s.name + " says more; mend the stack's files, then: infractl apply"
	}
	return errs.New(errs.RolledBack, "%w; the former state of stack %s is back", err, s.name).WithHint("%s", hint)
}

// up writes files and secrets and runs the helper. The record is marked before the first change, and whole after the last.
func (p *Provider) up(ctx context.Context, s *stackWork) error {
	next := newRecord(s.want)
	next.Pending = true
	if s.have != nil {
		next.Services, next.Stale = s.have.Services, s.have.paths()
	}
	if err := p.writeRecord(next); err != nil {
		return err
	}
	if err := p.writeFiles(s); err != nil {
		return err
	}
	if err := p.writeSecrets(ctx, s, next); err != nil {
		return err
	}
	if err := p.pin(ctx, s.want, next); err != nil {
		return err
	}
	result, err := p.compose(ctx, wire.Up, next)
	if err != nil {
		return err
	}
	next.Services, next.Pending, next.Stale = result.Services, false, nil
	for i := range next.Services {
		next.Services[i].Containers = nil // they are found by their labels
	}
	list, err := p.engine.Containers(ctx, docker.LabelProject+"="+s.name)
	if err != nil {
		return err
	}
	if changes := compareContainers(next, list); len(changes) > 0 {
		return errs.New(errs.Precondition, "%s: %s", changes[0].GetSubject(), changes[0].GetBefore()[0])
	}
	return p.writeRecord(next)
}

func (p *Provider) writeFiles(s *stackWork) error {
	files := p.files(s.want)
	for _, f := range files {
		if _, err := p.host.Write(f); err != nil {
			return err
		}
	}
	if s.have == nil {
		return nil
	}
	for _, old := range s.have.paths() {
		file := path.Join(p.projectDir(s.name), old)
		if slices.ContainsFunc(files, sameAs(file)) {
			continue
		}
		if err := p.host.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// writeSecrets makes the secrets' files: one per owner, which the helper reads out of the Compose file.
func (p *Provider) writeSecrets(ctx context.Context, s *stackWork, next *record) error {
	var want []wire.Secret
	if len(next.Secrets) > 0 {
		result, err := p.compose(ctx, wire.Config, next)
		if err != nil {
			return err
		}
		want = uses(&record{Services: result.Services})
	}
	dir := p.secretDir(s.name)
	for _, use := range want {
		f := owned(use)
		f.Path = path.Join(dir, wire.SecretFile(use))
		if settled(s.have, use, next) {
			if have, err := p.host.Stat(f.Path); err == nil && !have.Absent {
				f.Data = have.Data
			}
		}
		if f.Data == nil {
			value, err := p.value(ctx, use.Name, next.Secrets[use.Name])
			if err != nil {
				return err
			}
			f.Data = value
		}
		for _, folder := range []string{dir, path.Dir(f.Path)} {
			if err := p.folder(folder, 0o711); err != nil {
				return err
			}
		}
		if _, err := p.host.Write(f); err != nil {
			return err
		}
	}
	old, err := p.secretFiles(s.name)
	if err != nil {
		return err
	}
	for _, file := range old {
		if !slices.ContainsFunc(want, func(u wire.Secret) bool { return path.Join(dir, wire.SecretFile(u)) == file }) {
			if err := p.host.Remove(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// settled reports whether a secret's file has the wanted version for sure.
func settled(have *record, use wire.Secret, next *record) bool {
	return have != nil && !have.Pending && have.Secrets[use.Name] == next.Secrets[use.Name] && slices.Contains(uses(have), use)
}

func (p *Provider) folder(dir string, mode os.FileMode) error {
	if p.host.Exists(dir) {
		return nil
	}
	return p.host.Mkdir(dir, mode)
}

func (p *Provider) secretFiles(stack string) ([]string, error) {
	list, err := p.host.Glob(path.Join(p.secretDir(stack), "*", "*"))
	return list, errs.Wrap("list secrets", err)
}

// pin makes every name that runs stand for the wanted image, and notes which one that is.
func (p *Provider) pin(ctx context.Context, want *v1.StackSpec, next *record) error {
	for _, i := range want.GetImages() {
		id, err := p.images.Pin(ctx, i)
		if err != nil {
			return err
		}
		next.IDs[i.GetUse()] = id
	}
	return nil
}

// remove takes a stack down and forgets it. Volumes stay, and so does what containers wrote into the stack's folder.
func (p *Provider) remove(ctx context.Context, r *record) error {
	pending := *r
	pending.Pending = true
	if err := p.writeRecord(&pending); err != nil {
		return err
	}
	if _, err := p.compose(ctx, wire.Down, r); err != nil {
		return err
	}
	secrets, err := p.secretFiles(r.Name)
	if err != nil {
		return err
	}
	files := secrets
	for _, f := range r.paths() {
		files = append(files, path.Join(p.projectDir(r.Name), f))
	}
	for _, f := range append(files, p.recordPath(r.Name)) {
		if err := p.host.Remove(f); err != nil {
			return err
		}
	}
	return nil
}

func (p *Provider) problem(stack, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if text == "" {
		delete(p.problems, stack)
		return
	}
	p.problems[stack] = text
}
