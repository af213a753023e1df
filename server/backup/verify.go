package backup

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"
	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store/sqlite"
)

// Verify reads a whole backup, compares every digest, and opens the database and follows its audit chain in a temporary
// folder. It changes nothing. Errors are those of Restore.
func Verify(ctx context.Context, from io.Reader, key age.Identity, clk clock.Clock, log hclog.Logger) (*Manifest, error) {
	const op = "verify backup"
	temp, err := os.MkdirTemp("", "infractl-verify-") // mode 0700
	if err != nil {
		return nil, errs.Wrap(op, fileError(os.TempDir(), err))
	}
	defer os.RemoveAll(temp)
	m, err := read(ctx, from, key, onlyDatabase{temp})
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	return m, errs.Wrap(op, checkDatabase(ctx, temp, clk, log))
}

// onlyDatabase keeps the database and drops the rest.
type onlyDatabase struct{ dir string }

func (o onlyDatabase) put(name string, _, size int64, from io.Reader) error {
	if name != databaseName {
		_, err := io.Copy(io.Discard, from)
		return err
	}
	return writeFile(filepath.Join(o.dir, databaseFile), 0o600, size, from)
}

func checkDatabase(ctx context.Context, dir string, clk clock.Clock, log hclog.Logger) (err error) {
	s, err := sqlite.Open(ctx, sqlite.Config{Dir: dir, Clock: clk, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errs.Join(err, s.Close()) }()
	_, err = s.VerifyAudit(ctx)
	return err
}

// writeFile makes a file that must not be there, and has it on disk when it returns.
func writeFile(path string, mode os.FileMode, size int64, from io.Reader) (err error) {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fileError(path, err)
	}
	defer func() {
		if cerr := out.Close(); err == nil {
			err = fileError(path, cerr)
		}
	}()
	n, err := io.Copy(out, from)
	if err != nil {
		return fileError(path, err)
	}
	if n != size {
		return damaged(io.ErrUnexpectedEOF)
	}
	return fileError(path, out.Sync())
}
