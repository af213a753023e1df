package host

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"

	"github.com/infractl/infractl/internal/errs"
)

// Path returns where a path of the host really is.
func (h *Host) Path(path string) string { return h.root + path }

// ReadFile reads a file of the host. A missing file gives an error for which errors.Is(err, fs.ErrNotExist) holds.
func (h *Host) ReadFile(path string) ([]byte, error) { return os.ReadFile(h.Path(path)) }

// Exists reports whether something is at path, without following a last symbolic link.
func (h *Host) Exists(path string) bool {
	_, err := os.Lstat(h.Path(path))
	return err == nil
}

// Glob lists paths that match a pattern.
func (h *Host) Glob(pattern string) ([]string, error) {
	found, err := filepath.Glob(h.Path(pattern))
	for i := range found {
		found[i] = found[i][len(h.root):]
	}
	return found, err
}

// File is a file as it should be, or was. It is what snapshots are made of.
type File struct {
	Path string      `json:"path"`
	Mode fs.FileMode `json:"mode"`
	UID  int         `json:"uid"`
	GID  int         `json:"gid"`
	// Data is the content; of a symbolic link its target.
	Data []byte `json:"data,omitempty"`
	// Absent means that nothing was there.
	Absent bool `json:"absent,omitempty"`
}

// Stat reads a file with its owner and mode. An absent file is no error.
func (h *Host) Stat(path string) (File, error) {
	f := File{Path: path}
	info, err := os.Lstat(h.Path(path))
	if errors.Is(err, fs.ErrNotExist) {
		f.Absent = true
		return f, nil
	}
	if err != nil {
		return f, errs.Wrap("read "+path, err)
	}
	f.Mode = info.Mode()
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.UID, f.GID = int(st.Uid), int(st.Gid)
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(h.Path(path))
		f.Data = []byte(target)
		return f, errs.Wrap("read "+path, err)
	case info.IsDir():
		return f, nil
	}
	f.Data, err = os.ReadFile(h.Path(path))
	return f, errs.Wrap("read "+path, err)
}

// InSync reports whether the file on the host is as wanted: content, mode and owner.
func (h *Host) InSync(want File) (bool, error) {
	have, err := h.Stat(want.Path)
	if err != nil {
		return false, err
	}
	if have.Absent || want.Absent {
		return have.Absent == want.Absent, nil
	}
	if have.Mode.Type() != want.Mode.Type() || !bytes.Equal(have.Data, want.Data) {
		return false, nil
	}
	if have.Mode.Type() == fs.ModeSymlink {
		return true, nil
	}
	return have.Mode.Perm() == want.Mode.Perm() && have.UID == want.UID && have.GID == want.GID, nil
}

// Write makes the file on the host as wanted, atomically, and reports whether anything changed. Missing folders are made
// with mode 0755. Absent removes it.
func (h *Host) Write(want File) (changed bool, err error) {
	same, err := h.InSync(want)
	if err != nil || same {
		return false, err
	}
	path := h.Path(want.Path)
	if want.Absent {
		if err := h.fault("remove " + want.Path); err != nil {
			return false, err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, errs.Wrap("remove "+want.Path, err)
		}
		return true, syncDir(filepath.Dir(path))
	}
	if err := h.fault("write " + want.Path); err != nil {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, diskError("write "+want.Path, err)
	}
	if want.Mode.Type() == fs.ModeSymlink {
		if err := renameio.Symlink(string(want.Data), path); err != nil {
			return false, diskError("write "+want.Path, err)
		}
		return true, syncDir(filepath.Dir(path))
	}
	side, err := renameio.NewPendingFile(path, renameio.WithPermissions(want.Mode.Perm()), renameio.IgnoreUmask(),
		renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return false, diskError("write "+want.Path, err)
	}
	defer side.Cleanup() //nolint:errcheck // after a successful replace there is nothing to clean
	if _, err := side.Write(want.Data); err != nil {
		return false, diskError("write "+want.Path, err)
	}
	if os.Geteuid() == 0 {
		if err := side.Chown(want.UID, want.GID); err != nil {
			return false, errs.Wrap("write "+want.Path, err)
		}
	}
	if err := side.CloseAtomicallyReplace(); err != nil {
		return false, diskError("write "+want.Path, err)
	}
	return true, syncDir(filepath.Dir(path))
}

// WriteFile writes a root-owned file with the given mode.
func (h *Host) WriteFile(path string, data []byte, mode fs.FileMode) (changed bool, err error) {
	return h.Write(File{Path: path, Data: data, Mode: mode, UID: h.ownUID(), GID: h.ownGID()})
}

// Remove removes a file; a missing one is no error.
func (h *Host) Remove(path string) error {
	_, err := h.Write(File{Path: path, Absent: true})
	return err
}

// Rename renames within one file system and syncs both folders. It fails with fs.ErrNotExist when from is not there, which
// is how two that race for a record find out who won.
func (h *Host) Rename(from, to string) error {
	if err := h.fault("rename " + from); err != nil {
		return err
	}
	if err := os.Rename(h.Path(from), h.Path(to)); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(h.Path(to))); err != nil {
		return err
	}
	if filepath.Dir(from) == filepath.Dir(to) {
		return nil
	}
	return syncDir(filepath.Dir(h.Path(from)))
}

// Mkdir makes a folder with its parents.
func (h *Host) Mkdir(path string, mode fs.FileMode) error {
	if err := h.fault("mkdir " + path); err != nil {
		return err
	}
	if err := os.MkdirAll(h.Path(path), mode); err != nil {
		return diskError("make folder "+path, err)
	}
	return nil
}

// OwnDir makes a folder with its parents, and makes its mode and owner be those.
func (h *Host) OwnDir(path string, mode fs.FileMode, uid, gid int) error {
	if err := h.Mkdir(path, mode); err != nil {
		return err
	}
	info, err := os.Stat(h.Path(path))
	if err != nil {
		return errs.Wrap("make folder "+path, err)
	}
	if info.Mode().Perm() != mode {
		if err := os.Chmod(h.Path(path), mode); err != nil {
			return errs.Wrap("make folder "+path, err)
		}
	}
	if os.Geteuid() != 0 {
		return nil
	}
	return errs.Wrap("make folder "+path, os.Chown(h.Path(path), uid, gid))
}

// RemoveAll removes a folder with all that is in it.
func (h *Host) RemoveAll(path string) error {
	if err := h.fault("remove " + path); err != nil {
		return err
	}
	return os.RemoveAll(h.Path(path))
}

// Snapshot reads files, so that Restore can bring them back.
func (h *Host) Snapshot(paths ...string) ([]File, error) {
	files := make([]File, 0, len(paths))
	for _, path := range paths {
		f, err := h.Stat(path)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// Restore brings files back and reports whether anything changed. It goes on after a failure and returns all of them.
func (h *Host) Restore(files []File) (changed bool, err error) {
	var failed []error
	for _, f := range files {
		if f.Mode.IsDir() {
			continue
		}
		c, err := h.Write(f)
		changed = changed || c
		if err != nil {
			failed = append(failed, err)
		}
	}
	return changed, errors.Join(failed...)
}

// ownUID is the owner of files that the agent makes for itself: root on a host, the tester in a test.
func (h *Host) ownUID() int { return os.Geteuid() }
func (h *Host) ownGID() int { return os.Getegid() }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return errs.Wrap("sync "+dir, err)
	}
	defer d.Close()
	return errs.Wrap("sync "+dir, d.Sync())
}

func diskError(op string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &errs.Error{Op: op, Code: errs.Exhausted, Message: "the disk is full", Err: err,
			Hint: "free space on this host; nothing was changed"}
	}
	return errs.Wrap(op, err)
}
