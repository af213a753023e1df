package sqlite

import (
	"context"
	"embed"
	"io/fs"
	"strconv"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

//go:embed migrations/*.sql
var migrations embed.FS

type migration struct {
	version int
	name    string
	script  string
}

// readMigrations returns the migrations in order. Their numbers are 1, 2, 3 and so on, without gaps.
func readMigrations(folder fs.FS) ([]migration, error) {
	entries, err := fs.ReadDir(folder, "migrations")
	if err != nil {
		return nil, err
	}
	var list []migration
	for i, e := range entries { // ReadDir sorts by name
		number, _, _ := strings.Cut(e.Name(), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, errs.New(errs.Internal, "migration %s is not number %d", e.Name(), i+1)
		}
		script, err := fs.ReadFile(folder, "migrations/"+e.Name())
		if err != nil {
			return nil, err
		}
		list = append(list, migration{version, e.Name(), string(script)})
	}
	return list, nil
}

// migrate brings the database to the newest version that this program knows, each step in a transaction of its own.
func (s *Store) migrate(ctx context.Context) error {
	list, err := readMigrations(migrations)
	if err != nil {
		return err
	}
	have, err := s.schemaVersion(ctx)
	if err != nil {
		return err
	}
	if have > len(list) {
		return errs.New(errs.Precondition, "the database has schema version %d, and this infractl-server knows versions up to %d", have, len(list)).
			At(s.path).WithHint("run the newer infractl-server again, or restore the backup made before its first start")
	}
	for _, m := range list[have:] {
		if err := s.migrateTo(ctx, m); err != nil {
			return errs.Wrap("migrate database with "+m.name, s.failure(ctx, err))
		}
		s.cfg.Logger.Info("database migrated", "version", m.version, "migration", m.name)
	}
	return nil
}

func (s *Store) schemaVersion(ctx context.Context) (int, error) {
	var tables, known, version int
	err := s.writeDB.QueryRowContext(ctx, `SELECT count(*), count(*) FILTER (WHERE name = 'schema_version')
		FROM sqlite_schema WHERE type = 'table'`).Scan(&tables, &known)
	if err != nil {
		return 0, s.failure(ctx, err)
	}
	if tables == 0 {
		return 0, nil
	}
	if known == 0 {
		return 0, errs.New(errs.Precondition, "the file is a database of another program").At(s.path).
			WithHint("give infractl-server a data folder of its own")
	}
	err = s.writeDB.QueryRowContext(ctx, "SELECT coalesce(max(version), 0) FROM schema_version").Scan(&version)
	return version, s.failure(ctx, err)
}

func (s *Store) migrateTo(ctx context.Context, m migration) error {
	tx, err := s.writeDB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // fails after the commit, which is as it should be
	if m.version == 1 {
		if _, err := tx.ExecContext(ctx, `CREATE TABLE schema_version (version INTEGER PRIMARY KEY, migrated INTEGER NOT NULL) STRICT`); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, m.script); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO schema_version (version, migrated) VALUES (?, ?)", m.version, s.cfg.Clock.Now().UnixMicro()); err != nil {
		return err
	}
	return tx.Commit()
}
