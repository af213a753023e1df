package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

const auditColumns = `seq, time, actor, role, source, action, target, node, request, result, message, prev, hash`

// AppendAudit implements store.Audit.
func (s *Store) AppendAudit(ctx context.Context, entry store.AuditEntry) (int64, error) {
	var seq int64
	err := s.submit(ctx, 0, func(tx *txn) error {
		e := entry
		if e.Time.IsZero() {
			e.Time = tx.now
		}
		e = e.Clean().Seal(tx.count.lastSeq+1, tx.count.lastHash)
		_, err := tx.exec(`INSERT INTO audit (`+auditColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			e.Seq, e.Time.UnixMicro(), e.Actor, e.Role, e.Source, e.Action, e.Target, e.Node, e.Request, e.Result, e.Message, e.Prev, e.Hash)
		if err != nil {
			return err
		}
		seq = e.Seq
		tx.count.lastSeq, tx.count.lastHash = e.Seq, e.Hash
		tx.events = append(tx.events, store.Event{Kind: store.AuditKind, Name: "", Revision: store.Revision(e.Seq)})
		return nil
	})
	if err != nil {
		return 0, errs.Wrap("write audit", err)
	}
	return seq, nil
}

// ListAudit implements store.Audit.
func (s *Store) ListAudit(ctx context.Context, f store.AuditFilter) ([]store.AuditEntry, error) {
	query, args := auditQuery(f)
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, errs.Wrap("list audit", s.failure(ctx, err))
	}
	defer rows.Close()
	var list []store.AuditEntry
	for rows.Next() {
		e, err := scanAudit(rows)
		if err != nil {
			return nil, errs.Wrap("list audit", s.failure(ctx, err))
		}
		list = append(list, e)
	}
	return list, errs.Wrap("list audit", s.failure(ctx, rows.Err()))
}

func auditQuery(f store.AuditFilter) (string, []any) {
	query, args := "SELECT "+auditColumns+" FROM audit WHERE seq > ?", []any{f.After}
	and := func(condition string, value any) {
		query += " AND " + condition
		args = append(args, value)
	}
	if f.Actor != "" {
		and("actor = ?", f.Actor)
	}
	if f.Action != "" {
		and("action = ?", f.Action)
	}
	if f.Node != "" {
		and("node = ?", f.Node)
	}
	if !f.Since.IsZero() {
		and("time >= ?", f.Since.UnixMicro())
	}
	if !f.Until.IsZero() {
		and("time < ?", f.Until.UnixMicro())
	}
	query += " ORDER BY seq"
	if f.Reverse {
		query += " DESC"
	}
	if f.Limit > 0 {
		query += " LIMIT ?"
		args = append(args, f.Limit)
	}
	return query, args
}

func scanAudit(rows *sql.Rows) (store.AuditEntry, error) {
	var e store.AuditEntry
	var micro int64
	err := rows.Scan(&e.Seq, &micro, &e.Actor, &e.Role, &e.Source, &e.Action, &e.Target, &e.Node, &e.Request, &e.Result,
		&e.Message, &e.Prev, &e.Hash)
	e.Time = stamp(micro)
	return e, err
}

// VerifyAudit implements store.Audit.
func (s *Store) VerifyAudit(ctx context.Context) (store.AuditHead, error) {
	head, err := s.verifyAudit(ctx)
	return head, errs.Wrap("verify audit", s.failure(ctx, err))
}

func (s *Store) verifyAudit(ctx context.Context) (store.AuditHead, error) {
	tx, err := s.read.BeginTx(ctx, nil) // one view of counters and entries
	if err != nil {
		return store.AuditHead{}, err
	}
	defer func() { _ = tx.Rollback() }() // it only read
	var seq, last int64
	var hash, lastHash string
	if err := tx.QueryRowContext(ctx, `SELECT audit_base, audit_base_hash, audit_last, audit_last_hash FROM counters`).
		Scan(&seq, &hash, &last, &lastHash); err != nil {
		return store.AuditHead{}, err
	}
	head := store.AuditHead{Last: last, Hash: lastHash}
	if last > 0 {
		head.First = seq + 1
	}
	rows, err := tx.QueryContext(ctx, "SELECT "+auditColumns+" FROM audit ORDER BY seq")
	if err != nil {
		return store.AuditHead{}, err
	}
	defer rows.Close()
	for rows.Next() {
		e, err := scanAudit(rows)
		if err != nil {
			return store.AuditHead{}, err
		}
		if e.Seq != seq+1 {
			return store.AuditHead{}, store.BrokenAudit(seq+1, "it is missing, or one was put in before it")
		}
		if !e.Follows(seq, hash) {
			return store.AuditHead{}, store.BrokenAudit(e.Seq, "its content is not what was written")
		}
		seq, hash = e.Seq, e.Hash
	}
	if err := rows.Err(); err != nil {
		return store.AuditHead{}, err
	}
	if seq != last || hash != lastHash {
		return store.AuditHead{}, store.BrokenAudit(seq+1, "the end of the log is missing")
	}
	return head, nil
}

// PruneAudit implements store.Audit.
func (s *Store) PruneAudit(ctx context.Context, before time.Time) (int, error) {
	total := 0
	for {
		var removed int
		err := s.submit(ctx, 0, func(tx *txn) (err error) {
			removed, err = tx.pruneAudit(before.UnixMicro())
			return err
		})
		if err != nil {
			return total, errs.Wrap("prune audit", err)
		}
		total += removed
		if removed < store.PruneBatch {
			return total, nil
		}
	}
}

// pruneAudit removes one batch from the old end, up to the first entry that is young enough, wherever the clock has been.
func (t *txn) pruneAudit(before int64) (int, error) {
	var end int64
	_, err := t.row(`SELECT coalesce((SELECT min(seq) - 1 FROM audit WHERE time >= ?), ?)`, []any{before, t.count.lastSeq}, &end)
	if err != nil {
		return 0, err
	}
	end = min(end, t.count.baseSeq+store.PruneBatch)
	if end <= t.count.baseSeq {
		return 0, nil
	}
	var hash string
	found, err := t.row(`SELECT hash FROM audit WHERE seq = ?`, []any{end}, &hash)
	if err != nil {
		return 0, err
	}
	if !found {
		return 0, store.BrokenAudit(end, "it is missing")
	}
	n, err := t.exec(`DELETE FROM audit WHERE seq <= ?`, end)
	if err != nil {
		return 0, err
	}
	t.count.baseSeq, t.count.baseHash = end, hash
	return int(n), nil
}
