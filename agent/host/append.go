package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/infractl/infractl/internal/errs"
)

// Appender is a file that grows as it is written: for what is too large for memory. It is not atomic: write it under a name of
// its own and rename it once it is whole.
type Appender struct {
	*os.File
	host *Host
	path string
	// Size is how much was there when it was opened.
	Size int64
}

// Append opens a file of root alone to go on at its end, and makes it when it is not there.
func (h *Host) Append(path string) (*Appender, error) {
	if err := h.fault("write " + path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(h.Path(path)), 0o700); err != nil {
		return nil, diskError("write "+path, err)
	}
	f, err := os.OpenFile(h.Path(path), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, diskError("write "+path, err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, errs.Wrap("read "+path, err)
	}
	return &Appender{File: f, host: h, path: path, Size: info.Size()}, nil
}

// Write implements io.Writer; a full disk has its own code.
func (a *Appender) Write(p []byte) (int, error) {
	if err := a.host.fault("append " + a.path); err != nil {
		return 0, err
	}
	n, err := a.File.Write(p)
	if err != nil {
		return n, diskError("write "+a.path, err)
	}
	return n, nil
}

// Free returns how many bytes an ordinary user may still write to the file system of a path, or of the nearest folder above
// it that is there.
func (h *Host) Free(path string) (uint64, error) {
	_, free, err := h.Space(path)
	return free, err
}

// Space returns the size of that file system too.
func (h *Host) Space(path string) (size, free uint64, err error) {
	for {
		var st syscall.Statfs_t
		err := syscall.Statfs(h.Path(path), &st)
		if err == nil {
			return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize), nil
		}
		if !errors.Is(err, fs.ErrNotExist) || path == "/" || path == "" {
			return 0, 0, errs.Wrap("ask for free space at "+path, err)
		}
		path = filepath.Dir(path)
	}
}
