package containers

import (
	"context"
	"slices"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Stage fetches what the wish needs and the host has not: images into the engine, secrets into memory. Nothing that runs is
// touched. Errors: Exhausted for a full disk, Invalid for an archive with another digest, Unavailable without server or engine.
func (p *Provider) Stage(ctx context.Context, spec *v1.ContainersSpec) error {
	if err := check(spec); err != nil {
		return err
	}
	if len(spec.GetStacks()) == 0 {
		return nil
	}
	var failed []error
	for _, s := range spec.GetStacks() {
		for _, i := range s.GetImages() {
			if err := p.images.Stage(ctx, i); err != nil {
				err = errs.Wrap("stack "+s.GetName()+": image "+i.GetUse(), err)
				p.problem(s.GetName(), err.Error())
				failed = append(failed, err)
			}
		}
	}
	failed = append(failed, p.stageSecrets(ctx, spec))
	return errs.Join(failed...)
}

// stageSecrets fetches the versions that are not on the disk.
func (p *Provider) stageSecrets(ctx context.Context, spec *v1.ContainersSpec) error {
	var refs []*v1.SecretRef
	for _, s := range spec.GetStacks() {
		have, err := p.record(s.GetName())
		if err != nil {
			return err
		}
		for _, ref := range s.GetSecrets() {
			fresh := have == nil || have.Pending || have.Secrets[ref.GetName()] != ref.GetVersion()
			if fresh && !slices.ContainsFunc(refs, func(r *v1.SecretRef) bool {
				return r.GetName() == ref.GetName() && r.GetVersion() == ref.GetVersion()
			}) {
				refs = append(refs, ref)
			}
		}
	}
	p.forgetSecrets()
	return errs.Wrap("fetch secrets", p.fetchSecrets(ctx, refs))
}

func (p *Provider) fetchSecrets(ctx context.Context, refs []*v1.SecretRef) error {
	for some := range slices.Chunk(refs, 100) {
		if p.cfg.Fetcher == nil {
			return errs.New(errs.Unavailable, "there is no connection to the server")
		}
		values, err := p.cfg.Fetcher.Secrets(ctx, some)
		if err != nil {
			return err
		}
		if len(values) != len(some) {
			return errs.New(errs.Internal, "the server gave %d of %d secrets", len(values), len(some))
		}
		p.mu.Lock()
		for i, v := range values {
			if v.GetName() == some[i].GetName() && v.GetVersion() == some[i].GetVersion() {
				p.values[secretKey{v.GetName(), v.GetVersion()}] = secret.New(v.GetValue())
			}
		}
		p.mu.Unlock()
	}
	return nil
}

// value returns a secret: staged, or fetched now.
func (p *Provider) value(ctx context.Context, name, version string) ([]byte, error) {
	key := secretKey{name, version}
	for range 2 {
		p.mu.Lock()
		value, ok := p.values[key]
		p.mu.Unlock()
		if ok {
			return value.Reveal(), nil
		}
		if err := p.fetchSecrets(ctx, []*v1.SecretRef{{Name: name, Version: version}}); err != nil {
			return nil, errs.Wrap("fetch secret "+name, err)
		}
	}
	return nil, errs.New(errs.Internal, "the server gave another secret than %s", name)
}

// forgetSecrets drops what is in memory.
func (p *Provider) forgetSecrets() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.values)
}
