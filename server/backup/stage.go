package backup

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
)

// pendingName is the file in a data folder that says what is left to do once a restore is decided.
const pendingName = "restore.pending"

// pending is what is left to do.
type pending struct {
	// Staged is the folder of the new keys, Keys where it belongs.
	Staged string `json:"staged"`
	Keys   string `json:"keys"`
	// FormerKeys is where the keys go that were there.
	FormerKeys string `json:"former_keys"`
	// Exchanged is where the former data lies, FormerData where it goes; empty when there was none.
	Exchanged  string `json:"exchanged,omitempty"`
	FormerData string `json:"former_data,omitempty"`
}

// stage is a server that is being put together beside its place, so that a rename moves it there.
type stage struct {
	data, keys string
	places     places
	// held keeps others from taking the folders for leftovers.
	held []*os.File
	// decided says that the folders are not ours to remove any more.
	decided bool
}

func newStage(p places) (*stage, error) {
	raw := make([]byte, 6)
	_, _ = rand.Read(raw) // never fails
	s := &stage{places: p}
	for _, d := range []struct {
		at   string
		into *string
	}{{p.data, &s.data}, {p.keys, &s.keys}} {
		parent, base := filepath.Split(d.at)
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return nil, errs.Join(fileError(parent, err), s.remove())
		}
		removeLeftovers(parent, base)
		dir := filepath.Join(parent, "."+base+".restore-"+hex.EncodeToString(raw))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, errs.Join(fileError(dir, err), s.remove())
		}
		*d.into = dir
		f, err := os.Open(dir)
		if err == nil {
			s.held = append(s.held, f)
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		}
		if err != nil {
			return nil, errs.Join(fileError(dir, err), s.remove())
		}
	}
	return s, nil
}

// removeLeftovers removes side folders of restores that were killed before they were decided.
func removeLeftovers(parent, base string) {
	found, _ := filepath.Glob(filepath.Join(parent, "."+base+".restore-*"))
	for _, dir := range found {
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil { // nobody is at work in it
			_ = os.RemoveAll(dir)
		}
		f.Close()
	}
}

func (s *stage) remove() error {
	for _, f := range s.held {
		f.Close()
	}
	s.held = nil
	if s.decided {
		return nil
	}
	var list []error
	for _, dir := range []string{s.data, s.keys} {
		if dir != "" {
			list = append(list, os.RemoveAll(dir))
		}
	}
	return errs.Join(list...)
}

// put implements sink.
func (s *stage) put(name string, mode, size int64, from io.Reader) error {
	root := s.data
	rel, ok := strings.CutPrefix(name, dataPrefix)
	if !ok {
		root, rel = s.keys, strings.TrimPrefix(name, keysPrefix)
	}
	if rel == pendingName {
		return damaged(errs.New(errs.Invalid, "it has the mark of a restore that was not finished"))
	}
	path := filepath.Join(root, filepath.FromSlash(rel))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fileError(path, err)
	}
	perm := os.FileMode(0o600)
	if mode&0o044 != 0 {
		perm = 0o644
	}
	return writeFile(path, perm, size, from)
}

// sync brings the folders to disk; the files are there already.
func (s *stage) sync() error {
	for _, root := range []string{s.data, s.keys} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return err
			}
			return syncDir(path)
		})
		if err != nil {
			return fileError(root, err)
		}
	}
	return nil
}

// decide puts the data folder in its place by one rename, with the note of what is left to do in it.
func (s *stage) decide(p places, id string, force bool) (moved []string, err error) {
	note := pending{Staged: s.keys, Keys: p.keys, FormerKeys: p.keys + ".before-restore-" + id}
	dataEmpty, err := isEmpty(p.data)
	if err != nil {
		return nil, err
	}
	keysEmpty, err := isEmpty(p.keys)
	if err != nil {
		return nil, err
	}
	if !force && (!dataEmpty || !keysEmpty) {
		return nil, errs.New(errs.Exists, "somebody else filled the folder meanwhile").At(p.data)
	}
	if !dataEmpty {
		note.Exchanged, note.FormerData = s.data, p.data+".before-restore-"+id
		moved = append(moved, note.FormerData)
	}
	if !keysEmpty {
		moved = append(moved, note.FormerKeys)
	}
	for _, dir := range moved {
		if _, err := os.Lstat(dir); err == nil {
			return nil, errs.New(errs.Exists, "there is a folder of an earlier restore of this backup").At(dir).
				WithHint("move it away")
		}
	}
	data, err := json.MarshalIndent(note, "", " ")
	if err != nil {
		return nil, err
	}
	if err := certs.WriteFile(filepath.Join(s.data, pendingName), data, 0o600); err != nil {
		return nil, err
	}
	if dataEmpty {
		err = unix.Rename(s.data, p.data) // replaces an empty folder, and nothing else
	} else {
		err = unix.Renameat2(unix.AT_FDCWD, s.data, unix.AT_FDCWD, p.data, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return nil, fileError(p.data, err)
	}
	s.decided = true
	return moved, fileError(p.data, syncDir(filepath.Dir(p.data)))
}

// Unfinished reports whether a restore into a data folder was decided and not finished.
func Unfinished(dataDir string) bool {
	_, err := os.Lstat(filepath.Join(dataDir, pendingName))
	return err == nil
}

// Finish does what is left to do once a restore is decided. It may be called again after any fault, and does nothing when
// nothing is left.
func (t Target) Finish() error {
	p, err := t.places()
	if err != nil {
		return err
	}
	path := filepath.Join(p.data, pendingName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fileError(path, err)
	}
	var note pending
	if err := json.Unmarshal(data, &note); err != nil {
		return errs.New(errs.Internal, "the note of the restore is damaged: %w", err).At(path)
	}
	if there(note.Staged) {
		empty, err := isEmpty(note.Keys)
		if err != nil {
			return err
		}
		if !empty {
			if err := t.move("move keys aside", note.Keys, note.FormerKeys); err != nil {
				return err
			}
		}
		if err := t.move("put keys in place", note.Staged, note.Keys); err != nil {
			return err
		}
	}
	if note.Exchanged != "" && there(note.Exchanged) {
		if err := t.move("move data aside", note.Exchanged, note.FormerData); err != nil {
			return err
		}
	}
	if err := t.step("end"); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return fileError(path, err)
	}
	return fileError(p.data, syncDir(p.data))
}

func (t Target) move(step, from, to string) error {
	if err := t.step(step); err != nil {
		return err
	}
	if err := unix.Rename(from, to); err != nil {
		return fileError(from, err)
	}
	return fileError(to, syncDir(filepath.Dir(to)))
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// notMounted refuses a folder that is a file system of its own: nothing can be renamed onto it.
func notMounted(dir string) error {
	device := func(path string) (uint64, bool) {
		info, err := os.Stat(path)
		if err != nil {
			return 0, false
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		return uint64(st.Dev), ok
	}
	here, ok := device(dir)
	above, okAbove := device(filepath.Dir(dir))
	if ok && okAbove && here != above {
		return errs.New(errs.Precondition, "the folder is a file system of its own, which nothing can be renamed onto").At(dir).
			WithHint("mount that disk one folder higher, or give a folder on it with --data-dir and --key-dir")
	}
	return nil
}

// notAtWork refuses when a server has the database open.
func notAtWork(lock string) error {
	f, err := os.OpenFile(lock, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fileError(lock, err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errs.New(errs.Conflict, "a server is at work here").At(filepath.Dir(lock)).
			WithHint("stop it first: systemctl stop infractl-server")
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
