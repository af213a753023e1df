package lab

import (
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/internal/errs"
)

// guestPath is where programs of a VM are looked for.
const guestPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// guestEnv is the environment of commands in a VM.
func guestEnv() []string {
	return []string{
		"PATH=" + guestPath, "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/bash", "LC_ALL=C", "TERM=dumb",
	}
}

// startIn starts a command in all namespaces of a VM. It takes a millisecond, where the engine's exec takes a hundred.
//
// There is no nsenter between us and the command: when a VM shuts down systemd stops every process before it kills them,
// nsenter then stops as well, never collects its child, and so the VM could not end.
func (v *VM) startIn(cmd *exec.Cmd) error {
	if v.index < 0 {
		return v.usable()
	}
	pid := v.Pid()
	if pid == 0 {
		return errs.New(errs.Precondition, "the VM is off").At(v.spec.Name)
	}
	return onOwnThread(func() error { return enterAndStart(pid, cmd) })
}

// enterAndStart moves the current thread into the namespaces of a process and starts the command from there.
func enterAndStart(pid int, cmd *exec.Cmd) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errs.New(errs.Precondition, "the VM has ended: %w", err)
	}
	defer unix.Close(fd)
	// A thread that shares its root and folder with others can't change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return errs.New(errs.Internal, "enter the VM: %w", err)
	}
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
	if err := unix.Setns(fd, all); err != nil {
		return errs.New(errs.Precondition, "enter the VM: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return errs.New(errs.Internal, "enter the VM: %w", err)
	}
	// The command was looked up on the machine when it was made; what counts is where it is in the VM.
	if cmd.Path, err = lookUp(cmd.Args[0]); err != nil {
		return err
	}
	cmd.Err = nil
	return cmd.Start()
}

func lookUp(program string) (string, error) {
	if strings.Contains(program, "/") {
		return program, nil
	}
	for dir := range strings.SplitSeq(guestPath, ":") {
		var st unix.Stat_t
		name := dir + "/" + program
		if unix.Stat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
			return name, nil
		}
	}
	return "", errs.New(errs.NotFound, "the VM has no program %q", program)
}
