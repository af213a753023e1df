package revision

import (
	"context"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/hostspec"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
)

// keepDerived is how many revisions stay loaded, and how many derivations.
const keepDerived = 4

// Spec is what one host must be.
type Spec struct {
	// Spec is the wish; it must not be changed.
	Spec *v1.HostSpec
	// Content are its bytes as they travel, Digest their digest.
	Content []byte
	Digest  string
}

// Derived is what a site and the resources make of the hosts. It must not be changed.
type Derived struct {
	Site *site.Site
	// Revision is the site revision, 0 for a site that is not stored.
	Revision uint64
	// Resources is the resource revision.
	Resources uint64
	// Specs are by node.
	Specs map[string]Spec

	wanted []fleet.Wanted
}

type cacheKey struct{ revision, resources uint64 }

// Load returns the site of a stored revision; number 0 is the newest.
func (r *Revisions) Load(ctx context.Context, number uint64) (*site.Site, uint64, error) {
	if number == 0 {
		newest, err := r.Current(ctx)
		if err != nil {
			return nil, 0, err
		}
		number = newest
	}
	r.mu.Lock()
	s, ok := r.sites[number]
	r.mu.Unlock()
	if ok {
		return s, number, nil
	}
	_, source, err := r.Get(ctx, number)
	if err != nil {
		return nil, 0, err
	}
	s, findings, err := r.Check(source)
	if err != nil {
		return nil, 0, err
	}
	if s == nil {
		// It was valid when it was stored: this version is stricter.
		return nil, 0, errs.Wrap("read revision", errs.New(errs.Precondition, "this version refuses a revision that is stored: %w", Refusal(findings)).
			WithHint("correct the site file and apply it"))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	trim(r.sites)
	r.sites[number] = s
	return s, number, nil
}

// Derive returns what a stored revision makes of the hosts, with the present resources; number 0 is the newest. NotFound
// when it does not exist.
func (r *Revisions) Derive(ctx context.Context, number uint64) (*Derived, error) {
	s, number, err := r.Load(ctx, number)
	if err != nil {
		return nil, err
	}
	res, err := r.resources(ctx)
	if err != nil {
		return nil, err
	}
	key := cacheKey{number, res.Revision}
	r.mu.Lock()
	d, ok := r.cache[key]
	r.mu.Unlock()
	if ok {
		return d, nil
	}
	if d, err = r.derive(ctx, number, s, res); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	trim(r.cache)
	r.cache[key] = d
	return d, nil
}

// DeriveSite returns what a site that is not stored would make of the hosts, with the present resources.
func (r *Revisions) DeriveSite(ctx context.Context, s *site.Site) (*Derived, error) {
	res, err := r.resources(ctx)
	if err != nil {
		return nil, err
	}
	return r.derive(ctx, 0, s, res)
}

// Present returns the present resources.
func (r *Revisions) Present(ctx context.Context) (site.Resources, error) {
	res, err := r.resources(ctx)
	return res.Resources, err
}

// Ready returns an Invalid error when the site cannot be applied with the present resources: a stack needs a secret that nobody
// has set.
func (r *Revisions) Ready(ctx context.Context, s *site.Site) error {
	res, err := r.resources(ctx)
	if err != nil {
		return err
	}
	if missing := s.MissingSecrets(res.Resources); len(missing) > 0 {
		return Refusal(missing)
	}
	return nil
}

func (r *Revisions) derive(ctx context.Context, number uint64, s *site.Site, res resources) (*Derived, error) {
	specs, err := s.HostSpecs(res.Resources)
	if err != nil {
		return nil, errs.Wrap("derive host specs", err)
	}
	if r.cfg.Zones != nil {
		if err := r.cfg.Zones.Serials(ctx, number, s, res.Resources, specs); err != nil {
			return nil, err
		}
	}
	d := &Derived{Site: s, Revision: number, Resources: res.Revision, Specs: make(map[string]Spec, len(specs))}
	for node, spec := range specs {
		content, digest, err := hostspec.Encode(spec)
		if err != nil {
			return nil, err
		}
		if len(content) > hostspec.MaxBytes {
			return nil, errs.New(errs.Invalid, "what %s must be takes %d bytes, more than %d", node, len(content), hostspec.MaxBytes).
				WithHint("the site has too many flows for one host, or its stacks too large files")
		}
		d.Specs[node] = Spec{Spec: spec, Content: content, Digest: digest}
	}
	d.wanted = wanted(d)
	return d, nil
}

// trim drops the lowest keys' entries in no order that matters: what is asked for again is derived again.
func trim[K comparable, V any](m map[K]V) {
	for k := range m {
		if len(m) < keepDerived {
			return
		}
		delete(m, k)
	}
}

// Wanted implements the part of fleet.Site that revisions know: the nodes and probes of the newest revision, false while
// there is none.
func (r *Revisions) Wanted(ctx context.Context) ([]fleet.Wanted, bool, error) {
	number, err := r.Current(ctx)
	if err != nil || number == 0 {
		return nil, false, err
	}
	d, err := r.Derive(ctx, number)
	if err != nil {
		return nil, false, err
	}
	return d.wanted, true, nil
}

func wanted(d *Derived) []fleet.Wanted {
	out := make([]fleet.Wanted, 0, len(d.Site.Nodes)+len(d.Site.Probes))
	for i := range d.Site.Nodes {
		n := &d.Site.Nodes[i]
		out = append(out, fleet.Wanted{
			Name: n.Name, Role: n.Role, Address: n.MainAddress().String(), Digest: d.Specs[n.Name].Digest,
			Metrics: d.Specs[n.Name].Spec.GetMetrics(),
		})
	}
	for i := range d.Site.Probes {
		p := &d.Site.Probes[i]
		out = append(out, fleet.Wanted{Name: p.Name, Role: "probe", Probe: true, Address: p.Address.String()})
	}
	return out
}
