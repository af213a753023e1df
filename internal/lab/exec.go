package lab

import (
	"context"
	"io"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// enter is the command that runs argv in all namespaces of a VM with its root folder. It costs a few milliseconds, where
// the engine's exec costs a hundred.
func (v *VM) enter(argv []string) ([]string, error) {
	if v.index < 0 {
		return nil, v.usable()
	}
	pid := v.Pid()
	if pid == 0 {
		return nil, errs.New(errs.Precondition, "the VM is off").At(v.spec.Name)
	}
	if len(argv) == 0 {
		return nil, errs.New(errs.Invalid, "no command given").At(v.spec.Name)
	}
	return append([]string{"nsenter", "-t", strconv.Itoa(pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"}, argv...), nil
}

// guestEnv is the environment of commands in a VM.
func guestEnv() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/bash", "LC_ALL=C", "TERM=dumb",
	}
}

// Exec runs a command in the VM as root and waits for its end, ExecLimit at most where ctx has no deadline; then it and
// its descendants are killed. A command that fails is no error: see Result.Code.
func (v *VM) Exec(ctx context.Context, argv ...string) (Result, error) {
	return v.ExecIn(ctx, nil, argv...)
}

// ExecIn is Exec with standard input.
func (v *VM) ExecIn(ctx context.Context, stdin io.Reader, argv ...string) (Result, error) {
	full, err := v.enter(argv)
	if err != nil {
		return Result{}, err
	}
	result, err := run(ctx, guestEnv(), stdin, full...)
	return result, errs.Wrap("VM "+v.spec.Name, err)
}

// Must is Exec for commands that have to succeed. It returns standard output.
func (v *VM) Must(ctx context.Context, argv ...string) (string, error) {
	result, err := v.Exec(ctx, argv...)
	if err == nil {
		err = errs.Wrap("VM "+v.spec.Name, result.OK(argv...))
	}
	return result.Stdout, err
}

// Command returns an unstarted command that runs in the VM: for a terminal or for streams. The caller bounds it; the
// context ends the command but not what it left in the background.
func (v *VM) Command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	full, err := v.enter(argv)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, full[0], full[1:]...)
	cmd.Env = guestEnv()
	cmd.Cancel = func() error { killTree(cmd.Process.Pid); return nil }
	cmd.WaitDelay = time.Second
	return cmd, nil
}

// Process is a program that runs in a VM or a namespace beside the caller.
type Process struct {
	cmd    *exec.Cmd
	output limitedBuffer
	done   chan struct{}
	err    error
}

// StartProcess runs a command in the VM in the background. It ends with its VM, by Stop, or when ctx is cancelled. What must act
// like a service of the VM, frozen by Pause and restarted, is better a unit: systemd-run.
func (v *VM) StartProcess(ctx context.Context, argv ...string) (*Process, error) {
	cmd, err := v.Command(ctx, argv...)
	if err != nil {
		return nil, err
	}
	return startProcess(cmd)
}

func startProcess(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	if err := cmd.Start(); err != nil {
		return nil, errs.Wrap("start "+cmd.Path, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Stop kills the process and all below it, waits for its end and returns both its output streams as one text.
func (p *Process) Stop() string {
	select {
	case <-p.done:
	default:
		killTree(p.cmd.Process.Pid)
	}
	<-p.done
	return p.output.String()
}

// Wait waits for the end and returns the output and how it ended.
func (p *Process) Wait() (string, error) {
	<-p.done
	return p.output.String(), p.err
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Namespace is a light host: a network namespace in which programs of the machine run.
type Namespace struct{ file, name string }

// Command returns an unstarted command of the machine that runs with the namespace's network. The caller bounds it.
func (n *Namespace) Command(ctx context.Context, argv ...string) *exec.Cmd {
	full := inNetns(n.file, argv...)
	cmd := exec.CommandContext(ctx, full[0], full[1:]...)
	cmd.Env = hostEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { killTree(cmd.Process.Pid); return nil }
	cmd.WaitDelay = time.Second
	return cmd
}

// Exec runs a program of the machine in the namespace to its end, ExecLimit at most where ctx has no deadline.
func (n *Namespace) Exec(ctx context.Context, argv ...string) (Result, error) {
	result, err := run(ctx, hostEnv(), nil, inNetns(n.file, argv...)...)
	return result, errs.Wrap("namespace "+n.name, err)
}

// StartProcess runs a program of the machine in the namespace in the background.
func (n *Namespace) StartProcess(ctx context.Context, argv ...string) (*Process, error) {
	return startProcess(n.Command(ctx, argv...))
}

// NetnsPath returns the file that stands for the network namespace.
func (n *Namespace) NetnsPath() string { return n.file }
