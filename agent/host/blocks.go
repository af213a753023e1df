package host

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/internal/errs"
)

// Bounds of Blocks. What lies deeper, or comes after so many entries, is not counted: the result is then too small and never too large.
const (
	blocksDepth   = 100
	blocksEntries = 5_000_000
)

// Blocks returns the bytes of the blocks that a folder and all below it use. Symbolic links are counted and not followed, other file
// systems are left out, a file of several names counts once, and what goes away meanwhile is no error. Others may own the folder: it is
// walked by descriptors, so that nothing they do leads out of it. Errors: NotFound without the folder.
func (h *Host) Blocks(ctx context.Context, path string) (uint64, error) {
	fd, err := unix.Open(h.Path(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errs.New(errs.NotFound, "there is no folder %s", path)
	}
	if err != nil {
		return 0, errs.Wrap("measure "+path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd) // it was only read
		return 0, errs.Wrap("measure "+path, err)
	}
	w := &blocks{ctx: ctx, device: st.Dev, seen: map[uint64]bool{}}
	w.count(&st)
	err = w.folder(fd, 1)
	return w.bytes, errs.Wrap("measure "+path, err)
}

// blocks is one walk.
type blocks struct {
	ctx     context.Context
	device  uint64
	seen    map[uint64]bool // inodes of files with several names
	entries int
	bytes   uint64
}

func (w *blocks) count(st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if w.seen[st.Ino] {
			return
		}
		w.seen[st.Ino] = true
	}
	w.bytes += uint64(max(0, st.Blocks)) * 512 // of the kernel's, whatever the file system's are
}

// folder counts what is in an open folder, and closes it.
func (w *blocks) folder(fd, depth int) error {
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	for {
		names, err := f.Readdirnames(256)
		for _, name := range names {
			if err := w.entry(fd, name, depth); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), gone(err):
			return w.ctx.Err()
		case err != nil:
			return err
		case w.ctx.Err() != nil:
			return w.ctx.Err()
		}
	}
}

func (w *blocks) entry(fd int, name string, depth int) error {
	if w.entries++; w.entries > blocksEntries {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return ungone(err)
	}
	if st.Dev != w.device {
		return nil
	}
	w.count(&st)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || depth >= blocksDepth {
		return nil
	}
	below, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return ungone(err)
	}
	return w.folder(below, depth+1)
}

// gone says that something went away, or became something else, while it was looked at.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

func ungone(err error) error {
	if gone(err) {
		return nil
	}
	return err
}

// Quietly does something on a thread of its own that gives way to all others, on the processor and on the disk, and waits for its end.
func Quietly(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with this, and its priority with it
		// A kernel that allows neither does it with the usual priority.
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19)
		const whoProcess, classIdle = 1, 3 << 13
		_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, classIdle)
		do()
	}()
	<-done
}
