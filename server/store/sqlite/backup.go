package sqlite

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/infractl/infractl/internal/errs"
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
	if _, err := s.read.ExecContext(ctx, "VACUUM INTO ?", tmp.Name()); err != nil {
		return s.failure(ctx, err)
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
