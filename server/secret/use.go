package secret

import (
	"context"
	"slices"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// MaxRefs is how many versions one call may fetch.
const MaxRefs = 100

// use says what names a secret.
type use struct {
	by    []string
	nodes []string
}

// refs returns the versions that a spec names, each with what names it.
func refs(spec *v1.HostSpec, each func(by string, ref *v1.SecretRef)) {
	for _, s := range spec.GetContainers().GetStacks() {
		for _, ref := range s.GetSecrets() {
			each("stack "+s.GetName(), ref)
		}
	}
	if ref := spec.GetDns().GetTransferKey(); ref != nil {
		each("dns", ref)
	}
	if ref := spec.GetProxy().GetApiPassword(); ref != nil {
		each("proxy", ref)
	}
	for _, inst := range spec.GetDolibarr().GetInstances() {
		for _, ref := range inst.GetSecrets() {
			each("instance "+inst.GetName(), ref)
		}
	}
	for _, z := range spec.GetDns().GetZones() {
		if ref := z.GetUpdateKey(); ref != nil {
			each("zone "+z.GetName(), ref)
		}
	}
}

// uses returns what names which secret in the current revision.
func (v *Vault) uses(ctx context.Context) (map[string]*use, error) {
	out := map[string]*use{}
	w := v.want()
	if w == nil {
		return out, nil
	}
	specs, err := w.Specs(ctx)
	if err != nil {
		return nil, errs.Wrap("look for uses of secrets", err)
	}
	for node, spec := range specs {
		refs(spec.Spec, func(by string, ref *v1.SecretRef) {
			u := out[ref.GetName()]
			if u == nil {
				u = &use{}
				out[ref.GetName()] = u
			}
			u.by = append(u.by, by+" on "+node)
			u.nodes = append(u.nodes, node)
		})
	}
	for _, u := range out {
		slices.Sort(u.by)
		u.by = slices.Compact(u.by)
	}
	return out, nil
}

// Fetch returns the values of versions that the node's wanted spec names, in the order of the request, and Denied when it names one
// of them not. A version that was replaced a moment ago is still given to a node that is to have its successor.
func (v *Vault) Fetch(ctx context.Context, node string, wants []*v1.SecretRef) ([]*v1.SecretValue, error) {
	if len(wants) == 0 || len(wants) > MaxRefs {
		return nil, errs.New(errs.Invalid, "a call fetches 1 to %d secrets, not %d", MaxRefs, len(wants))
	}
	allowed, err := v.allowed(ctx, node)
	if err != nil {
		return nil, err
	}
	out := make([]*v1.SecretValue, 0, len(wants))
	for _, ref := range wants {
		name, id := ref.GetName(), ref.GetVersion()
		if !allowed[name] {
			return nil, errs.New(errs.Denied, "what node %s must be does not name secret %.80q", node, name)
		}
		if id == "" {
			return nil, errs.New(errs.Precondition, "nobody has set secret %s", name).WithHint("infractl secret set %s", name)
		}
		if err := v.fresh(ctx, name, id); err != nil {
			return nil, err
		}
		value, err := v.fetch(ctx, name, id)
		if err != nil {
			return nil, err
		}
		out = append(out, value)
	}
	return out, nil
}

// Own returns the current value of a secret that the server itself works with; Precondition when nobody has set it.
func (v *Vault) Own(ctx context.Context, name string) (secret.Value, error) {
	it, err := v.table.Get(ctx, name)
	if errs.Is(err, errs.NotFound) {
		return secret.Value{}, errs.New(errs.Precondition, "nobody has set secret %s", name).WithHint("infractl secret set %s", name)
	}
	if err != nil {
		return secret.Value{}, errs.Wrap("read secret", err)
	}
	value, err := v.fetch(ctx, name, it.Value.current().ID)
	if err != nil {
		return secret.Value{}, err
	}
	return secret.New(value.GetValue()), nil
}

// allowed returns the names of the secrets that a node's wanted spec names.
func (v *Vault) allowed(ctx context.Context, node string) (map[string]bool, error) {
	out := map[string]bool{}
	w := v.want()
	if w == nil {
		return out, nil
	}
	specs, err := w.Specs(ctx)
	if err != nil {
		return nil, errs.Wrap("read what "+node+" must be", err)
	}
	refs(specs[node].Spec, func(_ string, ref *v1.SecretRef) { out[ref.GetName()] = true })
	return out, nil
}

// fresh refuses versions that are not current, and were not a moment ago.
func (v *Vault) fresh(ctx context.Context, name, id string) error {
	it, err := v.table.Get(ctx, name)
	if errs.Is(err, errs.NotFound) {
		return errs.New(errs.Precondition, "nobody has set secret %s", name).WithHint("infractl secret set %s", name)
	}
	if err != nil {
		return errs.Wrap("read secret", err)
	}
	for _, have := range it.Value.Versions {
		if have.ID == id && (have.Replaced.IsZero() || v.cfg.Clock.Now().Before(have.Replaced.Add(grace))) {
			return nil
		}
	}
	return errs.New(errs.Denied, "version %.80q of secret %s is not wanted", id, name)
}

func (v *Vault) fetch(ctx context.Context, name, id string) (*v1.SecretValue, error) {
	if v.locked != nil {
		return nil, v.locked
	}
	rec, err := v.cfg.Store.Get(ctx, KindValue, valueName(name, id))
	if err != nil {
		return nil, errs.Wrap("read secret", err)
	}
	value, err := v.key.open(name, id, rec.Data)
	if err != nil {
		return nil, errs.Wrap("read secret", err)
	}
	return &v1.SecretValue{Name: name, Version: id, Value: value.Reveal()}, nil
}

// Prune forgets versions that nobody can need any more: they were replaced longer ago than the time of grace, and every enrolled
// node of the current revision has reported the wish that names their successors.
func (v *Vault) Prune(ctx context.Context) error {
	const op = "forget old secrets"
	behind, err := v.behind(ctx)
	if err != nil || behind {
		return errs.Wrap(op, err)
	}
	items, err := v.table.List(ctx, store.ListOptions{})
	if err != nil {
		return errs.Wrap(op, err)
	}
	limit := v.cfg.Clock.Now().Add(-grace)
	for _, it := range items {
		rec := it.Value
		var ops []store.Op
		rec.Versions = slices.DeleteFunc(slices.Clone(rec.Versions), func(old version) bool {
			gone := !old.Replaced.IsZero() && old.Replaced.Before(limit)
			if gone {
				ops = append(ops, store.Delete{Kind: KindValue, Name: valueName(rec.Name, old.ID), Expect: store.Any})
			}
			return gone
		})
		if len(ops) == 0 {
			continue
		}
		head, err := v.table.PutOp(rec.Name, rec, it.Revision)
		if err != nil {
			return errs.Wrap(op, err)
		}
		if _, err := v.cfg.Store.Write(ctx, append(ops, head)...); err != nil && !errs.Is(err, errs.Conflict) {
			return errs.Wrap(op, err)
		}
	}
	return nil
}

// behind reports whether a node may still have a wish that names an old version.
func (v *Vault) behind(ctx context.Context) (bool, error) {
	w := v.want()
	if w == nil {
		return true, nil
	}
	specs, err := w.Specs(ctx)
	if err != nil {
		return true, err
	}
	nodes, err := v.cfg.Nodes.Nodes(ctx)
	if err != nil {
		return true, err
	}
	for i := range nodes {
		n := &nodes[i]
		if n.IsRevoked() {
			continue
		}
		if want, ok := specs[n.Name]; ok && (n.State.M.GetNarrowedDigest() != want.Digest || len(n.State.M.GetDegraded()) > 0) {
			return true, nil
		}
	}
	return false, nil
}
