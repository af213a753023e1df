package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/internal/errs"
)

// fillName is the file that FillDisk writes.
const fillName = ".infractl-lab-fill"

func (v *VM) smallDiskDir(i int) string {
	return filepath.Join(v.lab.volumeDir(v.spec.Name), fmt.Sprintf("disk%d", i))
}

// makeSmallDisk mounts a tmpfs in the lab's cache, which the VM then sees: unlike a tmpfs of the container it outlives a
// reboot, and unlike a loop device it needs no device.
func (v *VM) makeSmallDisk(_ context.Context, i int, d SmallDisk) (string, error) {
	dir := v.smallDiskDir(i)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	err := unix.Mount("infractl-lab", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0755", d.MiB))
	return dir, errs.Wrap("mount a small disk", err)
}

// smallDisk finds the folder behind a small disk of the VM.
func (v *VM) smallDisk(guest string) (string, error) {
	for i, d := range v.spec.SmallDisks {
		if d.Guest == guest {
			return v.smallDiskDir(i), nil
		}
	}
	return "", errs.New(errs.Invalid, "%s is no small disk of the VM", guest).At(v.spec.Name).WithHint("set VMSpec.SmallDisks")
}

// FillDisk writes to a small disk, named by its path in the VM, until not a byte is free.
func (v *VM) FillDisk(_ context.Context, guest string) error {
	dir, err := v.smallDisk(guest)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, fillName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return errs.Wrap("fill the disk", err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := f.Write(block); errors.Is(err, unix.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			return errs.Wrap("fill the disk", err)
		}
	}
	return nil
}

// FreeDisk takes back what FillDisk wrote.
func (v *VM) FreeDisk(_ context.Context, guest string) error {
	dir, err := v.smallDisk(guest)
	if err != nil {
		return err
	}
	return errs.Wrap("free the disk", ignoreNotFound(os.Remove(filepath.Join(dir, fillName))))
}

func (l *Lab) nestedSeed() string {
	_, hash, _ := strings.Cut(l.images.busybox, ":")
	return filepath.Join(l.cfg.CacheDir, "nested-"+hash)
}

// ensureNestedSeed makes, once, the data folder of an engine that holds BusyboxImage. It is made by the VM image's own
// engine, so that its format fits. The caller holds the run lock.
func (l *Lab) ensureNestedSeed(ctx context.Context) error {
	if _, err := os.Stat(l.nestedSeed()); err == nil {
		return nil
	}
	l.say("preparing the disk of nested Docker engines")
	part := l.nestedSeed() + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.MkdirAll(part, 0o710); err != nil {
		return err
	}
	vm := &VM{lab: l, spec: VMSpec{
		Name:        "nested-seed",
		Mounts:      []Mount{{Host: part, Guest: "/var/lib/docker"}, {Host: l.busyboxTar(), Guest: "/busybox.tar", RO: true}},
		EnableUnits: []string{"docker.service"},
	}}
	defer func() {
		_ = l.engine.ContainerRemove(context.WithoutCancel(ctx), vm.container(), container.RemoveOptions{Force: true, RemoveVolumes: true})
	}()
	if err := vm.create(ctx); err != nil {
		return err
	}
	if err := vm.Start(ctx); err != nil {
		return err
	}
	if err := vm.WaitBooted(ctx); err != nil {
		return err
	}
	if _, err := vm.Must(ctx, "docker", "load", "-i", "/busybox.tar"); err != nil {
		return err
	}
	if err := vm.Shutdown(ctx); err != nil {
		return err
	}
	return os.Rename(part, l.nestedSeed())
}

// cloneNestedSeed copies the prepared data folder for one VM.
func (l *Lab) cloneNestedSeed(ctx context.Context, vm string) (string, error) {
	dir := filepath.Join(l.volumeDir(vm), "docker")
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	return dir, must(ctx, "", "cp", "-a", "--reflink=auto", l.nestedSeed(), dir)
}

func procPath(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }
