package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
	driver "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// failure turns an error of the database into one of ours; those that are ours already, and nil, pass.
func (s *Store) failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return errs.Wrap("use store", ctx.Err())
	}
	var ours *errs.Error
	if errors.As(err, &ours) {
		return err
	}
	var e *driver.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff { // the low byte is the primary code
		case lib.SQLITE_FULL:
			return s.full(err)
		case lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB:
			return s.damaged(err)
		case lib.SQLITE_READONLY, lib.SQLITE_CANTOPEN, lib.SQLITE_PERM:
			return errs.New(errs.Internal, "the database cannot be written: %w", err).At(s.path).
				WithHint("check that the file system is mounted read-write and that the files in %s belong to the user of infractl-server", s.cfg.Dir)
		}
	}
	if s.isClosed() || errors.Is(err, sql.ErrConnDone) {
		return store.Closed()
	}
	return s.fileError(err)
}

func (s *Store) fileError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return s.full(err)
	case errors.Is(err, fs.ErrPermission):
		return errs.New(errs.Internal, "%w", err).At(s.path).
			WithHint("the folder %s must belong to the user of infractl-server", s.cfg.Dir)
	}
	return errs.New(errs.Internal, "%w", err).At(s.path)
}

func (s *Store) full(err error) error {
	return errs.New(errs.Exhausted, "the disk of the database is full: %w", err).At(s.path).
		WithHint("free space on the file system of %s (df -h %s); nothing that was acknowledged is lost", s.cfg.Dir, s.cfg.Dir)
}

func (s *Store) damaged(err error) error {
	return errs.New(errs.Internal, "the database is damaged: %w", err).At(s.path).
		WithHint("stop infractl-server, keep a copy of %s, and restore the last backup: infractl-server restore FILE --force", s.cfg.Dir)
}

func (s *Store) isClosed() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.closed
}
