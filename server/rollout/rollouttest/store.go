package rollouttest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// Store keeps records in memory, for tests that make thousands of writes. It stands in for a store in everything but
// durability: what it says of expectations and order is what the embedded store says.
type Store struct {
	hub *store.Hub

	mu       sync.Mutex
	revision store.Revision
	records  map[store.Kind]map[string]store.Record
	leases   map[string]store.Lease
	audit    []store.AuditEntry
}

var _ store.Store = (*Store)(nil)

// NewStore returns an empty store.
func NewStore() *Store {
	return &Store{hub: store.NewHub(), records: map[store.Kind]map[string]store.Record{}, leases: map[string]store.Lease{}}
}

// Get implements store.Records.
func (s *Store) Get(ctx context.Context, kind store.Kind, name string) (store.Record, error) {
	if err := ctx.Err(); err != nil {
		return store.Record{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, ok := s.records[kind][name]
	if !ok {
		return store.Record{}, store.Missing(kind, name)
	}
	return clone(rec), nil
}

// List implements store.Records.
func (s *Store) List(ctx context.Context, kind store.Kind, opts store.ListOptions) ([]store.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := store.CheckList(kind, opts); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.records[kind] {
		behind := opts.After == "" || name > opts.After && !opts.Reverse || name < opts.After && opts.Reverse
		if strings.HasPrefix(name, opts.Prefix) && behind {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if opts.Reverse {
		slices.Reverse(names)
	}
	if opts.Limit > 0 && len(names) > opts.Limit {
		names = names[:opts.Limit]
	}
	out := make([]store.Record, 0, len(names))
	for _, name := range names {
		rec := clone(s.records[kind][name])
		if opts.NamesOnly {
			rec.Data = nil
		}
		out = append(out, rec)
	}
	return out, nil
}

// Write implements store.Records.
func (s *Store) Write(ctx context.Context, ops ...store.Op) ([]store.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := store.CheckOps(ops); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range ops {
		kind, name, _ := store.Target(op)
		if err := store.Meets(op, s.records[kind][name].Revision); err != nil {
			return nil, err
		}
	}
	s.revision++
	now := store.Stamp(time.Now())
	out := make([]store.Record, 0, len(ops))
	var events []store.Event
	for _, op := range ops {
		kind, name, _ := store.Target(op)
		rec := s.records[kind][name]
		rec.Kind, rec.Name = kind, name
		switch o := op.(type) {
		case store.Put:
			if rec.Created.IsZero() {
				rec.Created = now
			}
			rec.Updated, rec.Revision, rec.Data = now, s.revision, slices.Clone(o.Data)
			if s.records[kind] == nil {
				s.records[kind] = map[string]store.Record{}
			}
			s.records[kind][name] = rec
			events = append(events, store.Event{Kind: kind, Name: name, Revision: s.revision})
		case store.Delete:
			delete(s.records[kind], name)
			rec.Revision, rec.Data = s.revision, nil
			events = append(events, store.Event{Kind: kind, Name: name, Revision: s.revision})
		}
		out = append(out, clone(rec))
	}
	s.hub.Publish(events...)
	return out, nil
}

func clone(rec store.Record) store.Record {
	rec.Data = slices.Clone(rec.Data)
	return rec
}

// Watch implements store.Watcher.
func (s *Store) Watch(ctx context.Context, kinds ...store.Kind) (<-chan store.Event, error) {
	return s.hub.Watch(ctx, kinds...)
}

// Acquire implements store.Leases.
func (s *Store) Acquire(_ context.Context, name, holder string, ttl time.Duration) (store.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, now := s.leases[name], time.Now()
	if l.Holder != "" && l.Holder != holder && now.Before(l.Expires) {
		return store.Lease{}, store.HeldBy(l, now)
	}
	if l.Holder != holder || !now.Before(l.Expires) {
		l.Token++
	}
	l.Name, l.Holder, l.Expires = name, holder, now.Add(ttl)
	s.leases[name] = l
	return l, nil
}

// Renew implements store.Leases.
func (s *Store) Renew(_ context.Context, lease store.Lease, ttl time.Duration) (store.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[lease.Name]
	if l.Holder != lease.Holder || l.Token != lease.Token {
		return store.Lease{}, store.LostLease(lease)
	}
	l.Expires = time.Now().Add(ttl)
	s.leases[lease.Name] = l
	return l, nil
}

// Release implements store.Leases.
func (s *Store) Release(_ context.Context, lease store.Lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.leases[lease.Name]; l.Holder == lease.Holder && l.Token == lease.Token {
		l.Holder = ""
		s.leases[lease.Name] = l
	}
	return nil
}

// AppendAudit implements store.Audit.
func (s *Store) AppendAudit(_ context.Context, entry store.AuditEntry) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry = entry.Clean()
	entry.Seq = int64(len(s.audit) + 1)
	s.audit = append(s.audit, entry)
	return entry.Seq, nil
}

// ListAudit implements store.Audit.
func (s *Store) ListAudit(_ context.Context, f store.AuditFilter) ([]store.AuditEntry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []store.AuditEntry
	for _, e := range s.audit {
		if e.Seq > f.After && (f.Actor == "" || e.Actor == f.Actor) && (f.Action == "" || e.Action == f.Action) && !e.Time.Before(f.Since) {
			out = append(out, e)
		}
	}
	if f.Reverse {
		slices.Reverse(out)
	}
	if f.Limit > 0 && len(out) > f.Limit {
		out = out[:f.Limit]
	}
	return out, nil
}

// VerifyAudit implements store.Audit; there is no chain to verify.
func (s *Store) VerifyAudit(context.Context) (store.AuditHead, error) { return store.AuditHead{}, nil }

// PruneAudit implements store.Audit; nothing is pruned.
func (s *Store) PruneAudit(context.Context, time.Time) (int, error) { return 0, nil }

// Backup implements store.Store; it is refused.
func (s *Store) Backup(context.Context, string) error {
	return errs.New(errs.Precondition, "a store in memory has no backup")
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.hub.Close()
	return nil
}
