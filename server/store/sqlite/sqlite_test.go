package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/storetest"
)

func openAt(t testing.TB, dir string, clk clock.Clock) *Store {
	t.Helper()
	s, err := Open(context.Background(), Config{Dir: dir, Clock: clk, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		dir := filepath.Join(t.TempDir(), "store")
		return storetest.Harness{
			Open: func(t *testing.T, clk clock.Clock) store.Store { return openAt(t, dir, clk) },
			Tamper: func(t *testing.T, seq int64, message string) {
				db, err := sql.Open("sqlite", filepath.Join(dir, fileName))
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				if message == "" {
					_, err = db.Exec("DELETE FROM audit WHERE seq = ?", seq)
				} else {
					_, err = db.Exec("UPDATE audit SET message = ? WHERE seq = ?", message, seq)
				}
				if err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

func open(t *testing.T, dir string) error {
	t.Helper()
	s, err := Open(context.Background(), Config{Dir: dir, Clock: clock.System{}, Logger: hclog.NewNullLogger()})
	if err == nil {
		s.Close()
	}
	return err
}

// wantRefused checks the parts of an error that an operator needs.
func wantRefused(t *testing.T, err error, code errs.Code, text, hint string) {
	t.Helper()
	if errs.CodeOf(err) != code {
		t.Fatalf("code = %q (%v), want %q", errs.CodeOf(err), err, code)
	}
	if !strings.Contains(err.Error(), text) {
		t.Errorf("error %q does not say %q", err, text)
	}
	if !strings.Contains(errs.HintOf(err), hint) {
		t.Errorf("hint %q does not say %q", errs.HintOf(err), hint)
	}
}

func TestFilesBelongToTheServerAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "store")
	s := openAt(t, dir, clock.System{})
	if _, err := s.Write(context.Background(), store.Put{Kind: "k", Name: "a"}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 3 { // with the WAL
		t.Fatalf("files: %v, %v", entries, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %s, %v", e.Name(), info.Mode(), err)
		}
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("folder: mode %s", info.Mode())
	}
}

func TestSettingsThatDurabilityNeeds(t *testing.T) {
	s := openAt(t, t.TempDir(), clock.System{})
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2"} {
		var got string
		if err := s.writer.conn.QueryRowContext(context.Background(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s = %q (%v), want %q", pragma, got, err, want)
		}
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, dir, clock.System{})
	wantRefused(t, open(t, dir), errs.Conflict, "another process", "systemctl stop")
	s.Close()
	if err := open(t, dir); err != nil {
		t.Errorf("open after close: %v", err)
	}
}

func TestNewerDatabaseIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, dir, clock.System{})
	if _, err := s.writer.conn.ExecContext(context.Background(), "INSERT INTO schema_version VALUES (99, 0)"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	wantRefused(t, open(t, dir), errs.Precondition, "schema version 99", "newer infractl-server")
}

func TestForeignDatabaseIsRefused(t *testing.T) {
	dir := t.TempDir()
	db, err := sql.Open("sqlite", filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("CREATE TABLE something (x)"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	wantRefused(t, open(t, dir), errs.Precondition, "another program", "folder of its own")
}

func TestDamageIsFoundAtOpen(t *testing.T) {
	fill := func(t *testing.T) string {
		dir := t.TempDir()
		s := openAt(t, dir, clock.System{})
		for i := range 50 {
			if _, err := s.Write(context.Background(), store.Put{Kind: "k", Name: fmt.Sprint(i), Data: make([]byte, 3000)}); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
		return dir
	}
	cases := map[string]func(data []byte) []byte{
		"overwritten middle": func(d []byte) []byte { copy(d[len(d)/2:], strings.Repeat("garbage ", 2000)); return d },
		"overwritten header": func(d []byte) []byte { copy(d, "this is not a database at all"); return d },
		"cut off":            func(d []byte) []byte { return d[:len(d)/2] },
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			dir := fill(t)
			path := filepath.Join(dir, fileName)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(data), 0o600); err != nil {
				t.Fatal(err)
			}
			wantRefused(t, open(t, dir), errs.Internal, "database is damaged", "infractl-server restore")
		})
	}
}

func TestFullDiskIsSaidAndLosesNothing(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s := openAt(t, dir, clock.System{})
	if _, err := s.Write(ctx, store.Put{Kind: "k", Name: "kept", Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	// SQLite answers a page limit exactly as it answers a full disk.
	if _, err := s.writer.conn.ExecContext(ctx, "PRAGMA max_page_count = 40"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Write(ctx, store.Put{Kind: "k", Name: "large", Data: make([]byte, 1<<20)})
	wantRefused(t, err, errs.Exhausted, "disk of the database is full", "free space")
	if _, err := s.Write(ctx, store.Put{Kind: "k", Name: "small"}); err != nil {
		t.Errorf("small write after a full disk: %v", err)
	}
	s.Close()
	s = openAt(t, dir, clock.System{})
	list, err := s.List(ctx, "k", store.ListOptions{})
	if err != nil || len(list) != 2 {
		t.Errorf("after reopening: %v, %v", list, err)
	}
}

func TestOneWriteThatCannotHappenTakesNoOtherDown(t *testing.T) {
	ctx := context.Background()
	s := openAt(t, t.TempDir(), clock.System{})
	if _, err := s.writer.conn.ExecContext(ctx, "PRAGMA max_page_count = 100"); err != nil {
		t.Fatal(err)
	}
	var group []*request
	add := func(name string, size int) {
		ops := []store.Op{store.Put{Kind: "k", Name: name, Data: make([]byte, size)}}
		group = append(group, &request{ctx: ctx, done: make(chan error, 1), run: func(tx *txn) error {
			_, err := tx.write(ops)
			return err
		}})
	}
	add("a", 10)
	add("large", 1<<20)
	add("b", 10)
	s.writer.commitGroup(group) // nothing else is queued, so the writer's goroutine is at rest
	for i, want := range []errs.Code{"", errs.Exhausted, ""} {
		if err := <-group[i].done; errs.CodeOf(err) != want {
			t.Errorf("write %d: %v, want %q", i, err, want)
		}
	}
	list, err := s.List(ctx, "k", store.ListOptions{NamesOnly: true})
	if err != nil || len(list) != 2 {
		t.Errorf("records: %v, %v", list, err)
	}
	if list[0].Revision != 1 || list[1].Revision != 2 {
		t.Errorf("revisions = %d, %d, want 1, 2", list[0].Revision, list[1].Revision)
	}
}

func TestConcurrentWritersShareTransactions(t *testing.T) {
	s := openAt(t, t.TempDir(), clock.System{})
	const writers, each = 64, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := s.Write(context.Background(), store.Put{Kind: "k", Name: fmt.Sprintf("%d/%d", w, i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s.Close()
	if s.writer.groups > writers*each/4 {
		t.Errorf("%d writes took %d transactions", writers*each, s.writer.groups)
	}
}

func TestBackupIsConsistentWhileWriting(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	s := openAt(t, t.TempDir(), clock.System{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			data := fmt.Append(nil, i)
			s.Write(context.Background(), store.Put{Kind: "k", Name: "a", Data: data, Expect: store.Any},
				store.Put{Kind: "k", Name: "b", Data: data, Expect: store.Any})
			s.AppendAudit(context.Background(), store.AuditEntry{Message: fmt.Sprint(i)})
		}
	})
	time.Sleep(50 * time.Millisecond)
	target := filepath.Join(t.TempDir(), "copy", fileName)
	if err := os.Mkdir(filepath.Dir(target), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Backup(context.Background(), target); err != nil {
		t.Fatal(err)
	}
	stop()
	wg.Wait()
	wantRefused(t, s.Backup(context.Background(), target), errs.Exists, "exists already", "another name")
	if info, _ := os.Stat(target); info.Mode().Perm() != 0o600 {
		t.Errorf("backup: mode %s", info.Mode())
	}
	entries, _ := os.ReadDir(filepath.Dir(target))
	if len(entries) != 1 {
		t.Errorf("backup left %v", entries)
	}
	back := openAt(t, filepath.Dir(target), clock.System{})
	list, err := back.List(context.Background(), "k", store.ListOptions{})
	if err != nil || len(list) != 2 || string(list[0].Data) != string(list[1].Data) {
		t.Errorf("backup holds %v, %v", list, err)
	}
	if _, err := back.VerifyAudit(context.Background()); err != nil {
		t.Error(err)
	}
}
