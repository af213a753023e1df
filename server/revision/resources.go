package revision

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// resourcesName is the one record of its kind.
const resourcesName = "witness-keys"

// resources are the stored objects that host specs depend on beside the site.
type resources struct {
	// Revision grows when anything below changes.
	Revision uint64 `json:"revision"`
	site.Resources
}

// Source adds what it keeps to the resources that host specs depend on. It is asked often: it answers from memory, or from few
// records.
type Source interface {
	Resources(ctx context.Context, into *site.Resources) error
}

// Zones keeps the serials of zones: a new content gets a new one.
type Zones interface {
	// Serials puts them into the specs that a site and resources make; revision 0 is a site that is not stored.
	Serials(ctx context.Context, revision uint64, s *site.Site, res site.Resources, specs map[string]*v1.HostSpec) error
}

// How long what was read of the fleet is trusted: a moment at least, and so long that reading costs little of the time. When
// a whole fleet connects at once, each agent asks what it should be.
const (
	trustAtLeast = 200 * time.Millisecond
	trustFactor  = 20 // times as long as reading took
)

// resources returns the present resources, at most a moment old.
func (r *Revisions) resources(ctx context.Context) (resources, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	now := time.Now()
	if now.Before(r.trusted) && !r.cfg.AlwaysRead {
		return r.last, nil
	}
	res, err := r.readResources(ctx)
	if err != nil {
		return resources{}, err
	}
	r.last, r.trusted = res, time.Now().Add(max(trustAtLeast, trustFactor*time.Since(now)))
	return res, nil
}

// readResources compares the stored resources with what fleet and sources say now, and stores a new revision of them when
// something came, changed or went.
func (r *Revisions) readResources(ctx context.Context) (resources, error) {
	now, err := r.collect(ctx)
	if err != nil {
		return resources{}, err
	}
	wanted, err := json.Marshal(now)
	if err != nil {
		return resources{}, errs.Wrap("read resources", err)
	}
	for {
		it, err := r.keys.Get(ctx, resourcesName)
		expect := it.Revision
		if errs.Is(err, errs.NotFound) {
			expect, err = store.Absent, nil
		}
		if err != nil {
			return resources{}, errs.Wrap("read resources", err)
		}
		stored, err := json.Marshal(it.Value.Resources)
		if err != nil {
			return resources{}, errs.Wrap("read resources", err)
		}
		if expect != store.Absent && bytes.Equal(stored, wanted) {
			return it.Value, nil
		}
		next := resources{Revision: it.Value.Revision + 1, Resources: now}
		_, err = r.keys.Put(ctx, resourcesName, next, expect)
		if err == nil {
			return next, nil
		}
		if !errs.Is(err, errs.Conflict) && !errs.Is(err, errs.Exists) {
			return resources{}, errs.Wrap("store resources", err)
		}
	}
}

// collect asks fleet and sources.
func (r *Revisions) collect(ctx context.Context) (site.Resources, error) {
	var out site.Resources
	nodes, err := r.cfg.Nodes.Nodes(ctx)
	if err != nil {
		return out, errs.Wrap("read witness keys", err)
	}
	out.WitnessKeys = map[string]string{}
	for i := range nodes {
		if n := &nodes[i]; n.WitnessKey != "" && !n.IsRevoked() {
			out.WitnessKeys[n.Name] = n.WitnessKey
		}
	}
	for _, s := range r.cfg.Sources {
		if err := s.Resources(ctx, &out); err != nil {
			return out, errs.Wrap("read resources", err)
		}
	}
	return out, nil
}

// Changed says that a source has something new: the next derivation reads it.
func (r *Revisions) Changed() {
	r.reading.Lock()
	defer r.reading.Unlock()
	r.trusted = time.Time{}
}
