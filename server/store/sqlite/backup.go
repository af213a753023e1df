package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// Backup implements store.Store. The copy is a database file by itself, without WAL, mode 0600; it appears under its name
// only when it is complete and on disk.
func (s *Store) Backup(ctx context.Context, path string) error {
	return errs.Wrap("back up store", s.backup(ctx, path))
}

func (s *Store) backup(ctx context.Context, path string) error {
	dir := filepath.Dir(path)
	// SQLite fills an empty file that is there; made here, it has its mode from the beginning.
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return backupError(path, err)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if s.isClosed() {
		return store.Closed()
	}
	// A connection of its own: the readers' are query_only, which VACUUM INTO does not accept.
	db, err := sql.Open("sqlite", s.dsn())
	if err != nil {
		return s.failure(ctx, err)
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", tmp.Name()); err != nil {
		err = s.failure(ctx, err)
		if errs.Is(err, errs.Exhausted) {
			return errs.New(errs.Exhausted, "the disk of the backup is full: %w", err).At(path).
				WithHint("free space on the file system of %s, or choose another one", dir)
		}
		return err
	}
	if err := tmp.Sync(); err != nil {
		return backupError(path, err)
	}
	if err := os.Link(tmp.Name(), path); err != nil { // unlike a rename, a link never replaces a file
		return backupError(path, err)
	}
	if err := syncDir(dir); err != nil {
		return backupError(path, err)
	}
	return nil
}

func backupError(path string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return errs.New(errs.Exists, "the file exists already").At(path).WithHint("choose another name; backups are never overwritten")
	}
	return errs.New(errs.Internal, "%w", err).At(path)
}
