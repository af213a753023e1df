package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// steps returns the names of all steps of a restore, in order.
func steps(t *testing.T, h *home, data []byte, former bool) []string {
	t.Helper()
	target := formerTarget(t, former)
	var names []string
	target.fault = func(step string) error { names = append(names, step); return nil }
	if _, err := target.Restore(t.Context(), bytes.NewReader(data), h.key); err != nil {
		t.Fatal(err)
	}
	return names
}

func formerTarget(t *testing.T, former bool) Target {
	t.Helper()
	target := emptyTarget(t)
	target.Settings = func(b []byte) ([]byte, error) { return b, nil }
	target.Mark = func(context.Context, store.Store, *Manifest) error { return nil }
	if former {
		target.Force = true
		h := &home{}
		h.put(t, filepath.Join(target.DataDir, "server.json"), "the former server")
		h.put(t, filepath.Join(target.KeyDir, "ca", "root.pem"), "the former authority")
	}
	return target
}

// A fault at any step, be it an error or a kill, leaves either what was there or, once decided, something that Finish makes
// whole. There is no third state.
func TestAFaultAtAnyStepLeavesNothingHalfDone(t *testing.T) {
	h := newHome(t)
	data, _ := h.backup(t, false)
	for _, former := range []bool{false, true} {
		names := steps(t, h, data, former)
		if want := 9; len(names) < want {
			t.Fatalf("only %d steps: %v", len(names), names)
		}
		for i, name := range names {
			for _, killed := range []bool{false, true} {
				t.Run(strings.Join([]string{kind(former), kind2(killed), name}, " "), func(t *testing.T) {
					faultAt(t, h, data, former, killed, i)
				})
			}
		}
	}
}

func kind(former bool) string {
	if former {
		return "over a server"
	}
	return "into nothing"
}

func kind2(killed bool) string {
	if killed {
		return "killed at"
	}
	return "failing at"
}

func faultAt(t *testing.T, h *home, data []byte, former, killed bool, at int) {
	target := formerTarget(t, former)
	before := tree(t, filepath.Dir(target.DataDir))
	boom := errors.New("boom")
	n := 0
	target.fault = func(string) error {
		if n++; n-1 < at {
			return nil
		}
		return boom
	}
	if killed {
		killAt(t, h, data, target, at)
	} else if _, err := target.Restore(t.Context(), bytes.NewReader(data), h.key); !errors.Is(err, boom) {
		t.Fatalf("the fault did not come: %v", err)
	}
	target.fault = nil
	if !Unfinished(target.DataDir) {
		after := tree(t, filepath.Dir(target.DataDir))
		if killed { // its side folders are nobody's, and go with the next try
			maps.DeleteFunc(after, func(name, _ string) bool { return strings.HasPrefix(name, ".") })
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Fatalf("before it was decided something changed:\n%s", diff)
		}
		if _, err := target.Restore(t.Context(), bytes.NewReader(data), h.key); err != nil {
			t.Fatalf("the next try: %v", err)
		}
	} else {
		_, err := target.Restore(t.Context(), bytes.NewReader(data), h.key)
		wantCode(t, err, errs.Precondition)
		for range 2 {
			if err := target.Finish(); err != nil {
				t.Fatalf("finish: %v", err)
			}
		}
	}
	whole(t, h, target, former)
}

// The variables by which a test makes another process of itself, which ends without a word at a step.
const (
	killDir  = "INFRACTL_TEST_KILL_DIR"
	killStep = "INFRACTL_TEST_KILL_STEP"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killDir); dir != "" {
		dieInRestore(dir)
	}
	os.Exit(m.Run())
}

const died = 9

func dieInRestore(dir string) {
	at, _ := strconv.Atoi(os.Getenv(killStep))
	key, err := os.ReadFile(filepath.Join(dir, "key"))
	if err != nil {
		panic(err)
	}
	identity, err := ParseKey(key)
	if err != nil {
		panic(err)
	}
	f, err := os.Open(filepath.Join(dir, "backup"))
	if err != nil {
		panic(err)
	}
	n := 0
	target := Target{DataDir: filepath.Join(dir, "new", "srv"), KeyDir: filepath.Join(dir, "new", "srv-keys"), Force: true,
		Clock: clock.System{}, Log: hclog.NewNullLogger(),
		Settings: func(b []byte) ([]byte, error) { return b, nil },
		Mark:     func(context.Context, store.Store, *Manifest) error { return nil },
		fault: func(string) error {
			if n++; n-1 == at {
				os.Exit(died)
			}
			return nil
		}}
	_, err = target.Restore(context.Background(), f, identity)
	panic(err)
}

// killAt makes a process restore into the target, and die at a step.
func killAt(t *testing.T, h *home, data []byte, target Target, at int) {
	t.Helper()
	dir := filepath.Dir(filepath.Dir(target.DataDir))
	h.put(t, filepath.Join(dir, "key"), h.key.String())
	h.put(t, filepath.Join(dir, "backup"), string(data))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killDir+"="+dir, killStep+"="+strconv.Itoa(at))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != died {
		t.Fatalf("it did not die: %v\n%s", err, out)
	}
}

// whole wants the restored server in its place, what was there beside it, and nothing else.
func whole(t *testing.T, h *home, target Target, former bool) {
	t.Helper()
	want := tree(t, h.keys)
	delete(want, "admin-codes/code.json")
	if diff := cmp.Diff(want, tree(t, target.KeyDir)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if got := tree(t, target.DataDir); got["server.json"] != tree(t, h.data)["server.json"] || got["store/infractl.db"] == "" || Unfinished(target.DataDir) {
		t.Errorf("data = %v", got)
	}
	entries, err := os.ReadDir(filepath.Dir(target.DataDir))
	if err != nil {
		t.Fatal(err)
	}
	wantEntries := 2
	if former {
		wantEntries = 4
		for pattern, content := range map[string]string{target.DataDir + ".before-restore-*/server.json": "the former server",
			target.KeyDir + ".before-restore-*/ca/root.pem": "the former authority"} {
			found, _ := filepath.Glob(pattern)
			if len(found) != 1 {
				t.Errorf("%s: %v", pattern, found)
				continue
			}
			if got, err := os.ReadFile(found[0]); err != nil || string(got) != content {
				t.Errorf("%s = %q, %v", found[0], got, err)
			}
		}
	}
	if len(entries) != wantEntries {
		t.Errorf("beside each other: %v", entries)
	}
}

func TestARestoreNeverOverwrites(t *testing.T) {
	h := newHome(t)
	data, _ := h.backup(t, false)
	for name, path := range map[string]func(Target) string{
		"data": func(t Target) string { return filepath.Join(t.DataDir, "x") },
		"keys": func(t Target) string { return filepath.Join(t.KeyDir, "x") },
	} {
		target := emptyTarget(t)
		h.put(t, path(target), "mine")
		before := tree(t, filepath.Dir(target.DataDir))
		_, err := target.Restore(t.Context(), bytes.NewReader(data), h.key)
		wantCode(t, err, errs.Exists)
		if diff := cmp.Diff(before, tree(t, filepath.Dir(target.DataDir))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestAServerAtWorkIsNotReplaced(t *testing.T) {
	h := newHome(t)
	data, _ := h.backup(t, false)
	target := emptyTarget(t)
	target.DataDir, target.KeyDir, target.Force = h.data, h.keys, true // its store is open
	_, err := target.Restore(t.Context(), bytes.NewReader(data), h.key)
	wantCode(t, err, errs.Conflict)
	if !strings.Contains(errs.HintOf(err), "systemctl stop infractl-server") {
		t.Errorf("hint = %q", errs.HintOf(err))
	}
}

// Under systemd the folders are links, to folders that may be there and empty.
func TestLinksAreFollowed(t *testing.T) {
	h := newHome(t)
	data, _ := h.backup(t, false)
	target := emptyTarget(t)
	private := filepath.Join(t.TempDir(), "private")
	if err := os.MkdirAll(filepath.Join(private, "srv"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(target.DataDir), 0o700); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{target.DataDir: "srv", target.KeyDir: "srv-keys"} { // the second is not there yet
		if err := os.Symlink(filepath.Join(private, to), link); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := target.Restore(t.Context(), bytes.NewReader(data), h.key); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(private, "srv", "server.json"), filepath.Join(private, "srv-keys", "store.key")} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	if info, err := os.Lstat(target.DataDir); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v %v", info, err)
	}
}

// A disk that is full while a backup is written, or put back, leaves nothing behind.
func TestAFullDiskLeavesNothing(t *testing.T) {
	h := newHome(t)
	data, _ := h.backup(t, false)
	full := &os.PathError{Op: "write", Path: "x", Err: unix.ENOSPC}
	target := emptyTarget(t)
	target.fault = func(step string) error {
		if strings.HasPrefix(step, "put keys/") {
			return fileError("x", full)
		}
		return nil
	}
	_, err := target.Restore(t.Context(), bytes.NewReader(data), h.key)
	wantCode(t, err, errs.Exhausted)
	if got := tree(t, filepath.Dir(target.DataDir)); len(got) > 0 {
		t.Errorf("the restore left %v", got)
	}
	dir := t.TempDir()
	_, err = ToFile(t.Context(), filepath.Join(dir, "b.age"), func(_ context.Context, w io.Writer) (*v1.BackupSummary, error) {
		if _, err := w.Write(data[:1000]); err != nil {
			return nil, err
		}
		return nil, full
	})
	wantCode(t, err, errs.Exhausted)
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("the backup left %v", entries)
	}
}

func TestFilesAreNeverOverwrittenAndOldOnesGo(t *testing.T) {
	h := newHome(t)
	dir := t.TempDir()
	make := func(ctx context.Context, w io.Writer) (*v1.BackupSummary, error) {
		m, err := h.source().Write(ctx, w, false)
		if err != nil {
			return nil, err
		}
		return m.Summary(), nil
	}
	for _, other := range []string{"infractl-testsite-notes.age", "infractl-other-20200101T000000Z.age", "infractl-testsite-20200101T000000Z.age.old"} {
		h.put(t, filepath.Join(dir, other), "not ours to remove")
	}
	start := time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	for day := range 5 {
		if _, _, err := ToFolder(t.Context(), dir, "testsite", start.AddDate(0, 0, day), 3, make); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := ToFolder(t.Context(), dir, "testsite", start.AddDate(0, 0, 4), 3, make)
	wantCode(t, err, errs.Exists)
	var names []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{"infractl-other-20200101T000000Z.age", "infractl-testsite-20200101T000000Z.age.old", "infractl-testsite-20261126T030000Z.age",
		"infractl-testsite-20261127T030000Z.age", "infractl-testsite-20261128T030000Z.age", "infractl-testsite-notes.age"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("folder (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(filepath.Join(dir, names[2])); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v", info.Mode(), err)
	}
}
