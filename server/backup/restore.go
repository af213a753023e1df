package backup

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/sqlite"
)

// Target is where a server is put back.
type Target struct {
	// DataDir and KeyDir are its folders. They are empty or absent, unless Force.
	DataDir, KeyDir string
	// Force moves what is in the folders aside, to names that end in .before-restore-<id>; it is never removed.
	Force bool
	// Settings rewrites server.json, for a server that comes back elsewhere; nil leaves it.
	Settings func([]byte) ([]byte, error)
	// Mark turns the copied state into that of a restored server.
	Mark  func(ctx context.Context, s store.Store, m *Manifest) error
	Clock clock.Clock
	Log   hclog.Logger
	// fault is called before each step, and its error is the step's; tests set it.
	fault func(step string) error
}

// Result is what Restore did.
type Result struct {
	*Manifest
	// Moved are the folders that what was there was moved to.
	Moved []string
}

// Restore puts a server back. All of the backup is read, checked and marked in side folders; then one rename decides. Before it
// nothing was touched, behind it what is left is done by calling Finish, however often. Errors: Denied when the key does not
// open the backup, Invalid when it is damaged, Exists when there is a server already, Exhausted when the disk is full, Conflict
// when a server is at work there.
func (t Target) Restore(ctx context.Context, from io.Reader, key age.Identity) (*Result, error) {
	res, err := t.restore(ctx, from, key)
	return res, errs.Wrap("restore the server", err)
}

func (t Target) restore(ctx context.Context, from io.Reader, key age.Identity) (*Result, error) {
	p, err := t.places()
	if err != nil {
		return nil, err
	}
	if err := t.free(p); err != nil {
		return nil, err
	}
	stage, err := newStage(p)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stage.remove() }() // the error that ended the restore counts
	m, err := read(ctx, from, key, faulty{stage, t.step})
	if err != nil {
		return nil, err
	}
	if err := t.prepare(ctx, stage, m); err != nil {
		return nil, err
	}
	if err := t.step("decide"); err != nil {
		return nil, err
	}
	moved, err := stage.decide(p, m.ID, t.Force)
	if err != nil {
		return nil, err
	}
	if err := t.step("finish"); err != nil {
		return nil, errs.Wrap("after the restore was decided", err)
	}
	return &Result{Manifest: m, Moved: moved}, t.Finish()
}

// step is where tests put faults.
func (t Target) step(name string) error {
	if t.fault == nil {
		return nil
	}
	return t.fault(name)
}

// faulty puts a fault before each file.
type faulty struct {
	sink
	step func(string) error
}

func (f faulty) put(name string, mode, size int64, from io.Reader) error {
	if err := f.step("put " + name); err != nil {
		return err
	}
	return f.sink.put(name, mode, size, from)
}

// prepare checks what was staged as a server would, and marks it as restored.
func (t Target) prepare(ctx context.Context, s *stage, m *Manifest) error {
	if err := t.step("check"); err != nil {
		return err
	}
	authority, err := certs.Open(filepath.Join(s.keys, "ca"), t.Clock)
	if err != nil {
		return damaged(err)
	}
	if authority.Site() != m.Site || authority.Fingerprint() != m.Fingerprint {
		return damaged(errs.New(errs.Invalid, "its authority is not the one that its manifest names"))
	}
	if err := t.settings(filepath.Join(s.data, "server.json"), m); err != nil {
		return err
	}
	if err := t.database(ctx, filepath.Join(s.data, storeFolder), m); err != nil {
		return err
	}
	return s.sync()
}

func (t Target) settings(path string, m *Manifest) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fileError(path, err)
	}
	var site struct {
		Site string `json:"site"`
	}
	if err := json.Unmarshal(data, &site); err != nil || site.Site != m.Site {
		return damaged(errs.New(errs.Invalid, "its settings are not those of site %q", m.Site))
	}
	if t.Settings == nil {
		return nil
	}
	if err := t.step("settings"); err != nil {
		return err
	}
	if data, err = t.Settings(data); err != nil {
		return err
	}
	return certs.WriteFile(path, data, 0o600)
}

func (t Target) database(ctx context.Context, dir string, m *Manifest) (err error) {
	if err := t.step("database"); err != nil {
		return err
	}
	s, err := sqlite.Open(ctx, sqlite.Config{Dir: dir, Clock: t.Clock, Logger: t.Log})
	if err != nil {
		return err
	}
	defer func() { err = errs.Join(err, s.Close()) }()
	if _, err := s.VerifyAudit(ctx); err != nil {
		return err
	}
	var have Manifest
	if err := have.count(ctx, s); err != nil {
		return err
	}
	if have.SiteRevision != m.SiteRevision || have.AuditLast != m.AuditLast || have.AuditHash != m.AuditHash {
		return damaged(errs.New(errs.Invalid, "its database is not the one that its manifest describes"))
	}
	if t.Mark == nil {
		return nil
	}
	if err := t.step("mark"); err != nil {
		return err
	}
	return t.Mark(ctx, s, m)
}

// places are the target's folders with their links followed: systemd keeps a unit's folders behind links.
type places struct{ data, keys string }

func (t Target) places() (places, error) {
	data, err := follow(t.DataDir)
	if err != nil {
		return places{}, err
	}
	keys, err := follow(t.KeyDir)
	if err != nil {
		return places{}, err
	}
	if data == keys || strings.HasPrefix(keys+"/", data+"/") || strings.HasPrefix(data+"/", keys+"/") {
		return places{}, errs.New(errs.Invalid, "the folders of data and of keys must not lie in each other").At(keys)
	}
	return places{data, keys}, nil
}

// follow returns the path behind links, whose last end need not be there.
func follow(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fileError(path, err)
	}
	for range 40 {
		target, err := os.Readlink(path)
		if err != nil { // no link, or nothing there
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Clean(path), nil
	}
	if err != nil {
		return "", fileError(path, err)
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// free refuses to touch a server that is there, that is at work, or whose restore was cut short.
func (t Target) free(p places) error {
	if Unfinished(p.data) {
		return errs.New(errs.Precondition, "a restore was cut short here behind the step that decided it").At(p.data).
			WithHint("infractl-server restore --finish")
	}
	for _, dir := range []string{p.data, p.keys} {
		empty, err := isEmpty(dir)
		if err != nil {
			return err
		}
		if !empty && !t.Force {
			return errs.New(errs.Exists, "the folder is not empty").At(dir).
				WithHint("a restore never overwrites: choose other folders (--data-dir), or move what is there aside with --force")
		}
		if err := notMounted(dir); err != nil {
			return err
		}
	}
	return notAtWork(filepath.Join(p.data, storeFolder, databaseFile+".lock"))
}

func isEmpty(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return len(entries) == 0, fileError(dir, err)
}
