package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// maxGroup is how many writes share one transaction at most, and maxGroupBytes at how many bytes of data it is closed.
const (
	maxGroup      = 512
	maxGroupBytes = 64 << 20
)

// request is one write on its way through the writer.
type request struct {
	ctx  context.Context
	size int
	// run does the write. It may run a second time, after the first was rolled back. It makes all its checks before it
	// changes anything, so that a refusal leaves nothing behind in the transaction that it shares.
	run func(tx *txn) error
	// done gets the outcome once it is durable.
	done chan error
}

// counters is the row of the same name: what is numbered, and up to where.
type counters struct {
	revision store.Revision
	baseSeq  int64
	baseHash string
	lastSeq  int64
	lastHash string
}

// txn is the transaction that a group of requests shares.
type txn struct {
	w      *writer
	now    time.Time
	count  counters
	events []store.Event
	broken error // the first failure of the database; it ends the transaction
}

// writer owns the one connection that writes.
type writer struct {
	store  *Store
	conn   *sql.Conn
	stmts  map[string]*sql.Stmt
	count  counters // as committed
	queue  chan *request
	done   chan struct{}
	groups int64 // transactions committed; for the benchmark
}

func newWriter(ctx context.Context, s *Store) (*writer, error) {
	conn, err := s.writeDB.Conn(ctx)
	if err != nil {
		return nil, err
	}
	w := &writer{
		store: s, conn: conn, stmts: make(map[string]*sql.Stmt),
		queue: make(chan *request, maxGroup), done: make(chan struct{}),
	}
	c := &w.count
	err = conn.QueryRowContext(ctx, `SELECT revision, audit_base, audit_base_hash, audit_last, audit_last_hash FROM counters`).
		Scan(&c.revision, &c.baseSeq, &c.baseHash, &c.lastSeq, &c.lastHash)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return w, nil
}

func (w *writer) close() error {
	for _, st := range w.stmts {
		st.Close()
	}
	return w.conn.Close()
}

// submit puts a write into the queue and waits for its outcome.
func (s *Store) submit(ctx context.Context, size int, run func(tx *txn) error) error {
	r := &request{ctx: ctx, size: size, run: run, done: make(chan error, 1)}
	if err := s.enqueue(ctx, r); err != nil {
		return err
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return errs.Wrap("wait for the store", ctx.Err())
	}
}

func (s *Store) enqueue(ctx context.Context, r *request) error {
	if err := ctx.Err(); err != nil {
		return errs.Wrap("wait for the store", err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return store.Closed()
	}
	select {
	case s.writer.queue <- r:
		return nil
	case <-ctx.Done():
		return errs.Wrap("wait for the store", ctx.Err())
	}
}

// run serves the queue until it is closed and empty.
func (w *writer) run() {
	defer close(w.done)
	for first := range w.queue {
		w.commitGroup(w.collect(first))
	}
}

// collect takes what waits already. It does not wait for more: a lone writer is not slowed down, and while one group is
// being synced the next one gathers by itself.
func (w *writer) collect(first *request) []*request {
	group, size := []*request{first}, first.size
	for len(group) < maxGroup && size < maxGroupBytes {
		select {
		case r, ok := <-w.queue:
			if !ok {
				return group
			}
			group, size = append(group, r), size+r.size
		default:
			return group
		}
	}
	return group
}

// commitGroup runs requests in one transaction. When the database fails, each is tried in a transaction of its own, so
// that one that cannot be written (too large for what is left of the disk) takes no other down with it.
func (w *writer) commitGroup(group []*request) {
	outcomes, err := w.transact(group)
	if err != nil && len(group) > 1 {
		for _, r := range group {
			w.commitGroup([]*request{r})
		}
		return
	}
	for i, r := range group {
		if err != nil {
			r.done <- err
		} else {
			r.done <- outcomes[i]
		}
	}
}

// transact returns the outcome of each request, or an error that means that none of them happened.
func (w *writer) transact(group []*request) (outcomes []error, err error) {
	ctx := context.Background() // callers that leave must not cut a transaction that others share
	if _, err := w.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return nil, w.store.failure(ctx, err)
	}
	tx := &txn{w: w, now: store.Stamp(w.store.cfg.Clock.Now()), count: w.count}
	outcomes = make([]error, len(group))
	for i, r := range group {
		if err := r.ctx.Err(); err != nil {
			outcomes[i] = errs.Wrap("wait for the store", err)
			continue
		}
		outcomes[i] = r.run(tx)
		if tx.broken != nil {
			break
		}
	}
	if tx.broken == nil && tx.count != w.count {
		c := tx.count
		_, _ = tx.exec(`UPDATE counters SET revision = ?, audit_base = ?, audit_base_hash = ?, audit_last = ?, audit_last_hash = ?`,
			c.revision, c.baseSeq, c.baseHash, c.lastSeq, c.lastHash) // a failure is in tx.broken
	}
	if tx.broken == nil {
		_, tx.broken = w.conn.ExecContext(ctx, "COMMIT")
	}
	if tx.broken != nil {
		_, _ = w.conn.ExecContext(ctx, "ROLLBACK") // fails when SQLite has rolled back already, which is just as good
		return nil, w.store.failure(ctx, tx.broken)
	}
	w.count = tx.count
	w.groups++
	w.store.hub.Publish(tx.events...)
	return outcomes, nil
}

// stmt returns a prepared statement of the writer's connection.
func (w *writer) stmt(query string) (*sql.Stmt, error) {
	if st, ok := w.stmts[query]; ok {
		return st, nil
	}
	st, err := w.conn.PrepareContext(context.Background(), query)
	if err == nil {
		w.stmts[query] = st
	}
	return st, err
}

// exec runs a statement; its failure ends the transaction.
func (t *txn) exec(query string, args ...any) (int64, error) {
	st, err := t.w.stmt(query)
	if err == nil {
		var res sql.Result
		if res, err = st.Exec(args...); err == nil {
			return res.RowsAffected()
		}
	}
	t.broken = err
	return 0, err
}

// row reads one row, and reports whether there is one; a failure ends the transaction.
func (t *txn) row(query string, args []any, into ...any) (bool, error) {
	st, err := t.w.stmt(query)
	if err == nil {
		err = st.QueryRow(args...).Scan(into...)
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	}
	t.broken = err
	return false, err
}
