package sqlite

import (
	"context"
	"testing"
	"testing/fstest"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

func TestMigrationsAreNumberedWithoutGaps(t *testing.T) {
	if _, err := readMigrations(migrations); err != nil {
		t.Errorf("the migrations of this program: %v", err)
	}
	cases := map[string][]string{
		"gap":       {"0001_a.sql", "0003_b.sql"},
		"twice":     {"0001_a.sql", "0001_b.sql"},
		"no number": {"a.sql"},
	}
	for name, files := range cases {
		t.Run(name, func(t *testing.T) {
			folder := fstest.MapFS{}
			for _, f := range files {
				folder["migrations/"+f] = &fstest.MapFile{}
			}
			if _, err := readMigrations(folder); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestFailedMigrationChangesNothing(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s := openAt(t, dir, clock.System{})
	if _, err := s.Write(ctx, store.Put{Kind: "k", Name: "a"}); err != nil {
		t.Fatal(err)
	}
	s.writer.conn.Close() // the one connection that migrate takes
	before, err := s.schemaVersion(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = s.migrateTo(ctx, migration{version: before + 1, name: "bad", script: "CREATE TABLE half (x); DROP TABLE records; SELECT broken;"})
	if err == nil {
		t.Fatal("a broken migration succeeded")
	}
	if after, err := s.schemaVersion(ctx); after != before || err != nil {
		t.Errorf("version = %d, %v, want %d", after, err, before)
	}
	if _, err := s.Get(ctx, "k", "a"); err != nil {
		t.Errorf("record after a failed migration: %v", err)
	}
	if err := s.migrateTo(ctx, migration{version: before + 1, name: "good", script: "CREATE TABLE half (x);"}); err != nil {
		t.Errorf("the same version, mended: %v", err)
	}
	s.Close()
	wantRefused(t, open(t, dir), errs.Precondition, "schema version", "newer infractl-server")
}
