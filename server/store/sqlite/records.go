package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// Get implements store.Records.
func (s *Store) Get(ctx context.Context, kind store.Kind, name string) (store.Record, error) {
	if err := errs.Join(store.CheckKind(kind), store.CheckName(name)); err != nil {
		return store.Record{}, err
	}
	rec := store.Record{Kind: kind, Name: name}
	var created, updated int64
	err := s.read.QueryRowContext(ctx, `SELECT revision, created, updated, data FROM records WHERE kind = ? AND name = ?`,
		string(kind), name).Scan(&rec.Revision, &created, &updated, &rec.Data)
	if errors.Is(err, sql.ErrNoRows) {
		return store.Record{}, store.Missing(kind, name)
	}
	if err != nil {
		return store.Record{}, errs.Wrap("read "+string(kind), s.failure(ctx, err))
	}
	rec.Created, rec.Updated, rec.Data = stamp(created), stamp(updated), notNil(rec.Data)
	return rec, nil
}

// List implements store.Records.
func (s *Store) List(ctx context.Context, kind store.Kind, opts store.ListOptions) ([]store.Record, error) {
	if err := store.CheckList(kind, opts); err != nil {
		return nil, err
	}
	query, args := listQuery(kind, opts)
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, errs.Wrap("list "+string(kind), s.failure(ctx, err))
	}
	defer rows.Close()
	var list []store.Record
	for rows.Next() {
		rec := store.Record{Kind: kind}
		var created, updated int64
		if err := rows.Scan(&rec.Name, &rec.Revision, &created, &updated, &rec.Data); err != nil {
			return nil, errs.Wrap("list "+string(kind), s.failure(ctx, err))
		}
		if rec.Data = notNil(rec.Data); opts.NamesOnly {
			rec.Data = nil
		}
		rec.Created, rec.Updated = stamp(created), stamp(updated)
		list = append(list, rec)
	}
	return list, errs.Wrap("list "+string(kind), s.failure(ctx, rows.Err()))
}

func listQuery(kind store.Kind, opts store.ListOptions) (string, []any) {
	data := "data"
	if opts.NamesOnly {
		data = "x''"
	}
	query := "SELECT name, revision, created, updated, " + data + " FROM records WHERE kind = ?"
	args := []any{string(kind)}
	if opts.Prefix != "" {
		query += " AND name >= ? AND name < ?"
		args = append(args, opts.Prefix, behind(opts.Prefix))
	}
	order, than := " ORDER BY name", ">"
	if opts.Reverse {
		order, than = " ORDER BY name DESC", "<"
	}
	if opts.After != "" {
		query += " AND name " + than + " ?"
		args = append(args, opts.After)
	}
	query += order
	if opts.Limit > 0 {
		query += " LIMIT ?"
		args = append(args, opts.Limit)
	}
	return query, args
}

// behind returns the first text behind all that begin with prefix. Names are UTF-8 and compared byte by byte, and no byte
// of UTF-8 is 0xff, so that the last byte can always be counted up.
func behind(prefix string) string {
	b := []byte(prefix)
	b[len(b)-1]++
	return string(b)
}

// notNil tells a record without data, which the driver reads as nil, from one whose data was not read.
func notNil(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}

func stamp(micro int64) time.Time { return time.UnixMicro(micro).UTC() }

// Write implements store.Records.
func (s *Store) Write(ctx context.Context, ops ...store.Op) ([]store.Record, error) {
	if err := store.CheckOps(ops); err != nil {
		return nil, err
	}
	// The writer may still be at work when ctx has ended and the caller uses its buffers again.
	ops = slices.Clone(ops)
	size := 0
	for i, op := range ops {
		if put, ok := op.(store.Put); ok {
			put.Data = append([]byte{}, put.Data...)
			ops[i], size = put, size+len(put.Data)
		}
	}
	var recs []store.Record
	err := s.submit(ctx, size, func(tx *txn) (err error) {
		recs, err = tx.write(ops)
		return err
	})
	if err != nil {
		return nil, err
	}
	return recs, nil
}

// write checks all expectations first and changes something only when they all hold.
func (t *txn) write(ops []store.Op) ([]store.Record, error) {
	recs := make([]store.Record, len(ops))
	changes := false
	for i, op := range ops {
		kind, name, _ := store.Target(op)
		rec := store.Record{Kind: kind, Name: name}
		var created, updated int64
		found, err := t.row(`SELECT revision, created, updated FROM records WHERE kind = ? AND name = ?`,
			[]any{string(kind), name}, &rec.Revision, &created, &updated)
		if err != nil {
			return nil, err
		}
		if err := store.Meets(op, rec.Revision); err != nil {
			return nil, err
		}
		if found {
			rec.Created, rec.Updated = stamp(created), stamp(updated)
		}
		recs[i] = rec
		_, isPut := op.(store.Put)
		_, isDelete := op.(store.Delete)
		changes = changes || isPut || (isDelete && found)
	}
	if !changes {
		return recs, nil
	}
	revision := t.count.revision + 1
	for i, op := range ops {
		rec := &recs[i]
		existed := rec.Revision != store.Absent
		switch o := op.(type) {
		case store.Put:
			if !existed {
				rec.Created = t.now
			}
			rec.Updated, rec.Data = t.now, o.Data
			if _, err := t.exec(`INSERT INTO records (kind, name, revision, created, updated, data) VALUES (?, ?, ?, ?, ?, ?)
				ON CONFLICT (kind, name) DO UPDATE SET revision = excluded.revision, updated = excluded.updated, data = excluded.data`,
				string(o.Kind), o.Name, revision, rec.Created.UnixMicro(), t.now.UnixMicro(), o.Data); err != nil {
				return nil, err
			}
		case store.Delete:
			if !existed {
				continue
			}
			if _, err := t.exec(`DELETE FROM records WHERE kind = ? AND name = ?`, string(o.Kind), o.Name); err != nil {
				return nil, err
			}
		default:
			continue
		}
		rec.Revision = revision
		t.events = append(t.events, store.Event{Kind: rec.Kind, Name: rec.Name, Revision: revision})
	}
	t.count.revision = revision
	return recs, nil
}
