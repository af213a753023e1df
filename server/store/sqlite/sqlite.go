// Package sqlite is the embedded implementation of store.Store: one SQLite file in the server's data folder.
//
// The file is in WAL mode with synchronous FULL: what a call acknowledged survives a crash of the process and of the
// machine. One goroutine writes. All writes that wait when it begins a transaction share that transaction and its fsync, so
// that many writers at once cost little more than one. Reads run beside it on connections of their own.
package sqlite

import (
	"context"
	"database/sql"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the driver

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

const (
	fileName = "infractl.db"
	lockName = "infractl.db.lock"
)

// readers is how many reads run at once.
const readers = 4

// Config is what Open needs.
type Config struct {
	// Dir is a folder that is the store's alone; it is made, and kept at mode 0700.
	Dir string
	// Clock gives the times of records, audit entries and leases.
	Clock clock.Clock
	// Logger is told of migrations.
	Logger hclog.Logger
}

// Store implements store.Store.
type Store struct {
	cfg  Config
	path string
	lock *os.File
	hub  *store.Hub
	read *sql.DB

	writeDB *sql.DB
	writer  *writer

	mu     sync.RWMutex // held for reading while a call puts its write into the queue
	closed bool
}

var _ store.Store = (*Store)(nil)

// Open opens the store in cfg.Dir, and makes or migrates its database. It is Conflict when another process has it open,
// Precondition when a newer program has written it, and Internal with a hint when it is damaged.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s := &Store{cfg: cfg, path: filepath.Join(cfg.Dir, fileName), hub: store.NewHub()}
	if err := s.open(ctx); err != nil {
		_ = s.release() // what kept it from opening is the error that counts
		return nil, errs.Wrap("open store", err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if err := s.prepareFiles(); err != nil {
		return err
	}
	var err error
	// What sets the file up runs on the writer's connection, before there is any reader.
	if s.writeDB, err = sql.Open("sqlite", s.dsn("journal_mode(WAL)", "synchronous(FULL)", "journal_size_limit(67108864)")); err != nil {
		return s.failure(ctx, err)
	}
	s.writeDB.SetMaxOpenConns(1)
	if err := s.quickCheck(ctx); err != nil {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	if err := syncDir(s.cfg.Dir); err != nil {
		return s.failure(ctx, err)
	}
	if s.read, err = sql.Open("sqlite", s.dsn("query_only(1)")); err != nil {
		return s.failure(ctx, err)
	}
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	if s.writer, err = newWriter(ctx, s); err != nil {
		return s.failure(ctx, err)
	}
	go s.writer.run()
	return nil
}

// prepareFiles makes folder and file with their modes before SQLite sees them; its other files take the file's mode.
func (s *Store) prepareFiles() error {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return s.fileError(err)
	}
	if err := os.Chmod(s.cfg.Dir, 0o700); err != nil {
		return s.fileError(err)
	}
	lock, err := os.OpenFile(filepath.Join(s.cfg.Dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return s.fileError(err)
	}
	s.lock = lock
	// Two processes would not hear of each other's changes. The kernel drops the lock when the process ends, however.
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errs.New(errs.Conflict, "another process has the database open").At(s.path).
			WithHint("stop it first: systemctl stop infractl-server")
	}
	file, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return s.fileError(err)
	}
	defer file.Close()
	if err := file.Chmod(0o600); err != nil {
		return s.fileError(err)
	}
	return nil
}

func (s *Store) dsn(pragmas ...string) string {
	q := url.Values{"_pragma": append([]string{"busy_timeout(10000)", "cell_size_check(1)"}, pragmas...)}
	abs, err := filepath.Abs(s.path)
	if err != nil {
		abs = s.path
	}
	u := url.URL{Scheme: "file", Path: abs, RawQuery: q.Encode()}
	return u.String()
}

func (s *Store) quickCheck(ctx context.Context) error {
	rows, err := s.writeDB.QueryContext(ctx, "PRAGMA quick_check(1)")
	if err != nil {
		return s.failure(ctx, err)
	}
	defer rows.Close()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return s.failure(ctx, err)
		}
		if line != "ok" {
			return s.damaged(errs.New(errs.Internal, "%.200s", line))
		}
	}
	return s.failure(ctx, rows.Err())
}

// Watch implements store.Watcher.
func (s *Store) Watch(ctx context.Context, kinds ...store.Kind) (<-chan store.Event, error) {
	return s.hub.Watch(ctx, kinds...)
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.writer.queue)
	s.mu.Unlock()
	<-s.writer.done
	return errs.Wrap("close store", s.release())
}

// release closes whatever Open has opened; the writer's connection is the last, so that its close tidies the WAL away.
func (s *Store) release() error {
	s.hub.Close()
	var list []error
	if s.read != nil {
		list = append(list, s.read.Close())
	}
	if s.writer != nil {
		list = append(list, s.writer.close())
	}
	if s.writeDB != nil {
		list = append(list, s.writeDB.Close())
	}
	if s.lock != nil {
		list = append(list, s.lock.Close())
	}
	return errs.Join(list...)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
