package instance

import (
	"cmp"
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/server/store"
)

// secretNames are the secrets of an instance: one leak opens one door.
func secretNames() []string { return []string{"admin", "cron-key", "db", "db-root", "unique-id"} }

// newID returns an id: eight small letters and digits, a letter first.
func newID() string {
	const first, rest = "abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyz0123456789"
	raw := make([]byte, 8)
	_, _ = rand.Read(raw) // it never fails
	for i, b := range raw {
		// The slight bias of a remainder does not matter: ids are no secrets, and are checked against all others.
		if i == 0 {
			raw[i] = first[int(b)%len(first)]
		} else {
			raw[i] = rest[int(b)%len(rest)]
		}
	}
	return string(raw)
}

// inSpec reports whether the instance's host is to know of it.
func (r *record) inSpec() bool {
	return r.Mode != withdrawn && (r.Adopted != nil || len(r.Secrets) == len(secretNames()))
}

// resource is the instance as site knows it.
func (r *record) resource() site.Instance {
	return site.Instance{
		Name: r.Name, ID: r.ID, Node: r.Node, Mode: r.Mode, Version: r.Version, AppImage: r.AppImage, DBImage: r.DBImage, Subnet: r.Subnet,
		Domains: slices.Clone(r.Domains), MemoryBytes: r.Limits.Memory, MilliCPUs: r.Limits.MilliCPU, PIDs: r.Limits.PIDs,
		DiskBytes: r.Limits.Disk, Timezone: r.Timezone, Language: r.Language, Cron: r.Cron, AdminLogin: r.Admin, Secrets: maps.Clone(r.Secrets),
		Adopted: r.Adopted.spec(),
	}
}

// Resources implements revision.Source.
func (s *Instances) Resources(ctx context.Context, into *site.Resources) error {
	list, err := s.all(ctx)
	if err != nil {
		return err
	}
	for i := range list {
		if list[i].inSpec() {
			into.Instances = append(into.Instances, list[i].resource())
		}
	}
	return nil
}

// all returns the instances that there are, by name.
func (s *Instances) all(ctx context.Context) ([]record, error) { return list(ctx, s.records) }

// gone returns the instances that were destroyed, by name and time.
func (s *Instances) gone(ctx context.Context) ([]record, error) { return list(ctx, s.purged) }

func list(ctx context.Context, table *store.Table[record]) ([]record, error) {
	items, err := table.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, errs.Wrap("read instances", err)
	}
	out := make([]record, 0, len(items))
	for _, it := range items {
		out = append(out, it.Value)
	}
	slices.SortFunc(out, func(a, b record) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), a.Purged.Compare(b.Purged), strings.Compare(a.ID, b.ID))
	})
	return out, nil
}

// get returns the record of an id.
func (s *Instances) get(ctx context.Context, id string) (record, error) {
	it, err := s.records.Get(ctx, id)
	return it.Value, errs.Wrap("read instance", err)
}

// byName returns the instance that has a name. NotFound when there is none.
func (s *Instances) byName(ctx context.Context, name string) (record, error) {
	if store.CheckName(name) == nil {
		it, err := s.names.Get(ctx, name)
		if err == nil {
			return s.get(ctx, it.Value)
		}
		if !errs.Is(err, errs.NotFound) {
			return record{}, errs.Wrap("read instance", err)
		}
	}
	return record{}, errs.New(errs.NotFound, "there is no instance %.60q", name).WithHint("infractl instance list")
}

// update changes a record, and tells those that derive from it.
func (s *Instances) update(ctx context.Context, id string, change func(*record) error) (record, error) {
	it, err := s.records.Update(ctx, id, change)
	if err != nil {
		return record{}, errs.Wrap("store instance", err)
	}
	s.sites.Changed()
	return it.Value, nil
}

// add stores a new record, which takes its name and its network.
func (s *Instances) add(ctx context.Context, rec record) error {
	put, err := s.records.PutOp(rec.ID, rec, store.Absent)
	if err != nil {
		return err
	}
	name, err := s.names.PutOp(rec.Name, rec.ID, store.Absent)
	if err != nil {
		return err
	}
	ops := []store.Op{put, name}
	if rec.Subnet.IsValid() {
		net, err := s.subnets.PutOp(rec.Subnet.String(), rec.ID, store.Absent)
		if err != nil {
			return err
		}
		ops = append(ops, net)
	}
	_, err = s.cfg.Store.Write(ctx, ops...)
	if err == nil {
		s.sites.Changed()
	}
	return errs.Wrap("store instance", err)
}

// release removes a record and gives back what it holds. Nothing of the instance is left anywhere when it is called. What keep makes of
// the record is kept among the destroyed ones.
func (s *Instances) release(ctx context.Context, id string, keep func(*record)) error {
	const op = "release instance"
	for {
		it, err := s.records.Get(ctx, id)
		if errs.Is(err, errs.NotFound) {
			return nil
		}
		if err != nil {
			return errs.Wrap(op, err)
		}
		rec := it.Value
		var ops []store.Op
		for _, held := range []struct {
			table *store.Table[string]
			name  string
		}{{s.names, rec.Name}, {s.subnets, rec.Subnet.String()}} {
			holder, err := held.table.Get(ctx, held.name)
			if err == nil && holder.Value == id {
				ops = append(ops, store.Delete{Kind: held.table.Kind(), Name: held.name, Expect: holder.Revision})
			} else if err != nil && !errs.Is(err, errs.NotFound) {
				return errs.Wrap(op, err)
			}
		}
		ops = append(ops, store.Delete{Kind: KindInstance, Name: id, Expect: it.Revision})
		if keep != nil {
			keep(&rec)
			put, err := s.purged.PutOp(id, rec, store.Absent)
			if err != nil {
				return err
			}
			ops = append(ops, put)
		}
		_, err = s.cfg.Store.Write(ctx, ops...)
		if errs.Is(err, errs.Conflict) {
			continue
		}
		if err == nil {
			s.sites.Changed()
		}
		return errs.Wrap(op, err)
	}
}
