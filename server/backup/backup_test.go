package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/sqlite"
)

// home is a server's two folders, as init makes them, and its recovery key.
type home struct {
	data, keys string
	key        *age.X25519Identity
	store      store.Store
}

func newHome(t *testing.T) *home {
	t.Helper()
	dir := t.TempDir()
	h := &home{data: filepath.Join(dir, "srv"), keys: filepath.Join(dir, "srv-keys")}
	if _, err := certs.Create(filepath.Join(h.keys, "ca"), "testsite", clock.System{}); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.key, err = age.GenerateX25519Identity(); err != nil {
		t.Fatal(err)
	}
	h.put(t, filepath.Join(h.keys, "recovery.pub"), h.key.Recipient().String()+"\n")
	h.put(t, filepath.Join(h.keys, "store.key"), "the key of secrets")
	h.put(t, filepath.Join(h.keys, "ssh-ca", "key"), "another authority")
	h.put(t, filepath.Join(h.keys, "admin-codes", "code.json"), "an admin code")
	h.put(t, filepath.Join(h.data, "server.json"), `{"site":"testsite","addresses":["10.0.0.1"]}`)
	h.put(t, filepath.Join(h.data, "images", "sha256", "abc"), "an image archive")
	h.put(t, filepath.Join(h.data, ".half-made"), "half")
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: filepath.Join(h.data, "store"), Clock: clock.System{}, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	h.store = s
	if _, err := s.Write(t.Context(), store.Put{Kind: "revision", Name: "0000000003", Data: []byte(`{"number":3}`)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AppendAudit(t.Context(), store.AuditEntry{Actor: "system", Action: "init", Result: "ok"}); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *home) put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (h *home) source() Source {
	return Source{DataDir: h.data, KeyDir: h.keys, Store: h.store, Version: "1.2.3", Clock: clock.System{}, Log: hclog.NewNullLogger()}
}

func (h *home) backup(t *testing.T, images bool) ([]byte, *Manifest) {
	t.Helper()
	var b bytes.Buffer
	m, err := h.source().Write(t.Context(), &b, images)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), m
}

func emptyTarget(t *testing.T) Target {
	dir := t.TempDir()
	return Target{DataDir: filepath.Join(dir, "new", "srv"), KeyDir: filepath.Join(dir, "new", "srv-keys"), Clock: clock.System{},
		Log: hclog.NewNullLogger()}
}

// tree returns what is below a folder: names, and contents but for the database's.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[rel] = string(data)
		if strings.Contains(rel, "infractl.db") {
			out[rel] = "database"
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return out
}

func wantCode(t *testing.T, err error, code errs.Code) {
	t.Helper()
	if errs.CodeOf(err) != code {
		t.Errorf("error = %v (%s), want %s", err, errs.CodeOf(err), code)
	}
}

func TestABackupPutsTheServerBack(t *testing.T) {
	h := newHome(t)
	data, m := h.backup(t, false)
	if m.SiteRevision != 3 || m.AuditLast != 1 || m.Site != "testsite" || len(m.Left) != 1 || m.Left[0].Name != "data/images/sha256/abc" {
		t.Errorf("manifest = %+v", m)
	}
	for _, secret := range []string{"the key of secrets", "testsite", "ssh-ca"} {
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("the file shows %q", secret)
		}
	}
	target := emptyTarget(t)
	marked := false
	target.Mark = func(ctx context.Context, s store.Store, m *Manifest) error {
		marked = true
		_, err := s.Write(ctx, store.Put{Kind: "mark", Name: m.ID})
		return err
	}
	res, err := target.Restore(t.Context(), bytes.NewReader(data), h.key)
	if err != nil || !marked || len(res.Moved) > 0 {
		t.Fatalf("restore: %+v, %v", res, err)
	}
	want := tree(t, h.keys)
	delete(want, "admin-codes/code.json")
	if diff := cmp.Diff(want, tree(t, target.KeyDir)); diff != "" {
		t.Errorf("keys (-before +after):\n%s", diff)
	}
	got := tree(t, target.DataDir)
	delete(got, "store/infractl.db.lock")
	if diff := cmp.Diff(map[string]string{"server.json": tree(t, h.data)["server.json"], "store/infractl.db": "database"}, got); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	entries, err := os.ReadDir(filepath.Dir(target.DataDir))
	if err != nil || len(entries) != 2 {
		t.Errorf("something is left beside the folders: %v %v", entries, err)
	}
	if info, err := os.Stat(filepath.Join(target.KeyDir, "store.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("store.key: %v %v", info.Mode(), err)
	}
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: filepath.Join(target.DataDir, "store"), Clock: clock.System{}, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Get(t.Context(), "revision", "0000000003"); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(t.Context(), "mark", m.ID); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(h.data, tempPattern)); len(left) > 0 {
		t.Errorf("the backup left %v", left)
	}
}

func TestImagesComeAlongWhenAsked(t *testing.T) {
	h := newHome(t)
	data, m := h.backup(t, true)
	if len(m.Left) != 0 {
		t.Errorf("left = %v", m.Left)
	}
	target := emptyTarget(t)
	if _, err := target.Restore(t.Context(), bytes.NewReader(data), h.key); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, target.DataDir)["images/sha256/abc"]; got != "an image archive" {
		t.Errorf("image = %q", got)
	}
}

func TestAKeyOfSecretsThatLiesElsewhereComesAlong(t *testing.T) {
	h := newHome(t)
	elsewhere := filepath.Join(t.TempDir(), "credential")
	if err := os.Rename(filepath.Join(h.keys, "store.key"), elsewhere); err != nil {
		t.Fatal(err)
	}
	source := h.source()
	source.StoreKey = elsewhere
	var b bytes.Buffer
	m, err := source.Write(t.Context(), &b, false)
	if err != nil || !slices.ContainsFunc(m.Parts, func(p Part) bool { return p.Name == "keys/store.key" }) {
		t.Errorf("parts = %v, %v", m, err)
	}
}

func TestVerifyReadsEverything(t *testing.T) {
	h := newHome(t)
	data, m := h.backup(t, false)
	got, err := Verify(t.Context(), bytes.NewReader(data), h.key, clock.System{}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Errorf("manifest (-written +read):\n%s", diff)
	}
}

// What is damaged is never put in place, and never called whole.
func TestDamagedBackupsAreRefused(t *testing.T) {
	h := newHome(t)
	data, _ := h.backup(t, false)
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int) []byte {
		d := bytes.Clone(data)
		d[at] ^= 1
		return d
	}
	cases := map[string]struct {
		data []byte
		key  age.Identity
		code errs.Code
	}{
		"nothing":        {nil, h.key, errs.Invalid},
		"something else": {[]byte(strings.Repeat("not a backup\n", 100)), h.key, errs.Invalid},
		"other key":      {data, other, errs.Denied},
		"cut in half":    {data[:len(data)/2], h.key, errs.Invalid},
		"last byte gone": {data[:len(data)-1], h.key, errs.Invalid},
		"flipped early":  {flip(1000), h.key, errs.Invalid},
		"flipped middle": {flip(len(data) / 2), h.key, errs.Invalid},
		"flipped last":   {flip(len(data) - 1), h.key, errs.Invalid},
		"more behind it": {append(bytes.Clone(data), "more"...), h.key, errs.Invalid},
		"twice":          {append(bytes.Clone(data), data...), h.key, errs.Invalid},
	}
	for cut := 64 << 10; cut < len(data); cut += 64 << 10 { // where pieces of the envelope end
		cases["cut at "+time.Duration(cut).String()] = struct {
			data []byte
			key  age.Identity
			code errs.Code
		}{data[:cut], h.key, errs.Invalid}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			target := emptyTarget(t)
			_, err := target.Restore(t.Context(), bytes.NewReader(c.data), c.key)
			wantCode(t, err, c.code)
			if got := tree(t, filepath.Dir(target.DataDir)); len(got) > 0 {
				t.Errorf("it left %v", got)
			}
			_, err = Verify(t.Context(), bytes.NewReader(c.data), c.key, clock.System{}, hclog.NewNullLogger())
			wantCode(t, err, c.code)
		})
	}
}

func TestParseKeyForgivesHowPeopleType(t *testing.T) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	text := key.String()
	for name, typed := range map[string]string{
		"as it is": text, "lower case": strings.ToLower(text), "line breaks": text[:30] + "\n  " + text[30:] + "\n",
		"with a comment": "# of the safe\n" + text + "\n", "with blanks": text[:20] + " " + text[20:40] + " " + text[40:],
	} {
		got, err := ParseKey([]byte(typed))
		if err != nil || got.(*age.X25519Identity).String() != text {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, typed := range []string{"", "AGE-SECRET-KEY-1", text[:len(text)-1], key.Recipient().String()} {
		_, err := ParseKey([]byte(typed))
		wantCode(t, err, errs.Invalid)
		if err != nil && typed != "" && strings.Contains(err.Error(), typed) {
			t.Error("the error repeats what was typed")
		}
	}
}

// The file is written and read through: what it costs in memory does not depend on its size.
func TestLargeFilesGoThrough(t *testing.T) {
	h := newHome(t)
	path := filepath.Join(h.data, "images", "sha256", "large")
	const size = 40 << 20
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	r, w := io.Pipe()
	go func() {
		_, err := h.source().Write(context.Background(), w, true)
		w.CloseWithError(err)
	}()
	largest := 0
	sum := sha256.New()
	m, err := Verify(t.Context(), io.TeeReader(r, writerFunc(func(p []byte) { largest = max(largest, len(p)); sum.Write(p) })), h.key,
		clock.System{}, hclog.NewNullLogger())
	if err != nil || m.Size() < size {
		t.Fatalf("verify: %v", err)
	}
	if largest > 1<<20 {
		t.Errorf("a piece of %d bytes", largest)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }
