package lab

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/internal/errs"
)

// fileLimit bounds ReadFile, in bytes.
const fileLimit = 256 << 20

// Root returns the VM's root folder as the machine sees it, "" while the VM is off. Absolute links in it lead to the
// machine's own files: ReadFile and its like follow them inside the VM.
func (v *VM) Root() string {
	pid := v.Pid()
	if pid == 0 {
		return ""
	}
	return procPath(pid, "root")
}

// open opens a file of a running VM; every link on the way stays inside the VM.
func (v *VM) open(name string, flags int, mode fs.FileMode) (*os.File, error) {
	if v.index < 0 {
		return nil, v.usable()
	}
	root := v.Root()
	if root == "" {
		return nil, errs.New(errs.Precondition, "the VM is off").At(v.spec.Name)
	}
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(mode.Perm())
	}
	fd, err := unix.Openat2(dir, strings.TrimPrefix(name, "/"), how)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: v.spec.Name + ":" + name, Err: err}
	}
	return os.NewFile(uintptr(fd), v.spec.Name+":"+name), nil
}

// ReadFile returns a file of a running VM. A missing file is fs.ErrNotExist.
func (v *VM) ReadFile(_ context.Context, name string) ([]byte, error) {
	f, err := v.open(name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, fileLimit))
}

// WriteFile writes a file of a running VM as root, in place, and makes missing folders with mode 0755. mode is set also
// on a file that existed.
func (v *VM) WriteFile(ctx context.Context, name string, mode fs.FileMode, content []byte) error {
	return v.write(ctx, name, unix.O_TRUNC, mode, content)
}

// AppendFile adds to the end of a file of a running VM and makes it with mode 0644 if it is missing.
func (v *VM) AppendFile(ctx context.Context, name string, content []byte) error {
	return v.write(ctx, name, unix.O_APPEND, 0, content)
}

func (v *VM) write(ctx context.Context, name string, how int, mode fs.FileMode, content []byte) error {
	create := mode
	if mode == 0 {
		create = 0o644
	}
	f, err := v.open(name, unix.O_WRONLY|unix.O_CREAT|how, create)
	if os.IsNotExist(err) {
		if _, err = v.Must(ctx, "mkdir", "-p", "--", path.Dir(name)); err != nil {
			return err
		}
		f, err = v.open(name, unix.O_WRONLY|unix.O_CREAT|how, create)
	}
	if err != nil {
		return err
	}
	if mode != 0 {
		err = f.Chmod(mode)
	}
	if err == nil {
		_, err = f.Write(content)
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	return errs.Wrap("write "+name, err)
}
