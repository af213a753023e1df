package lab

import (
	"context"
	"io"
	"os"
	"os/exec"

	"github.com/infractl/infractl/internal/errs"
)

// Exec runs a command in the VM as root and waits for its end, ExecLimit at most where ctx has no deadline; then it and
// its descendants are killed. A command that fails is no error: see Result.Code.
func (v *VM) Exec(ctx context.Context, argv ...string) (Result, error) {
	return v.ExecIn(ctx, nil, argv...)
}

// ExecIn is Exec with standard input.
func (v *VM) ExecIn(ctx context.Context, stdin io.Reader, argv ...string) (Result, error) {
	if len(argv) == 0 {
		return Result{}, errs.New(errs.Invalid, "no command given").At(v.spec.Name)
	}
	result, err := runWith(ctx, v.startIn, guestEnv(), stdin, argv)
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

// Attach runs a command in the VM with this process's terminal and returns its exit status. Only ctx bounds it.
func (v *VM) Attach(ctx context.Context, argv ...string) (int, error) {
	if len(argv) == 0 {
		return 0, errs.New(errs.Invalid, "no command given").At(v.spec.Name)
	}
	cmd := command(ctx, guestEnv(), argv)
	if err := attach(cmd, v.startIn); err != nil {
		return 0, errs.Wrap("VM "+v.spec.Name, err)
	}
	return cmd.ProcessState.ExitCode(), nil
}

// Attach runs a program of the machine in the namespace with this process's terminal and returns its exit status.
func (n *Namespace) Attach(ctx context.Context, argv ...string) (int, error) {
	cmd := n.Command(ctx, argv...)
	if err := attach(cmd, (*exec.Cmd).Start); err != nil {
		return 0, errs.Wrap("namespace "+n.name, err)
	}
	return cmd.ProcessState.ExitCode(), nil
}

func attach(cmd *exec.Cmd, start func(*exec.Cmd) error) error {
	cmd.SysProcAttr = nil // a process group of its own could not read the terminal
	if term := os.Getenv("TERM"); term != "" {
		cmd.Env = append(cmd.Env, "TERM="+term)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); cmd.ProcessState == nil {
		return err
	}
	return nil
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
	if len(argv) == 0 {
		return nil, errs.New(errs.Invalid, "no command given").At(v.spec.Name)
	}
	return startProcess(command(ctx, guestEnv(), argv), v.startIn)
}

func startProcess(cmd *exec.Cmd, start func(*exec.Cmd) error) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	if err := start(cmd); err != nil {
		return nil, errs.Wrap("start "+cmd.Args[0], err)
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

// Output returns both output streams up to now as one text.
func (p *Process) Output() string { return p.output.String() }

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
	return command(ctx, hostEnv(), inNetns(n.file, argv...))
}

// Exec runs a program of the machine in the namespace to its end, ExecLimit at most where ctx has no deadline.
func (n *Namespace) Exec(ctx context.Context, argv ...string) (Result, error) {
	result, err := run(ctx, hostEnv(), nil, inNetns(n.file, argv...)...)
	return result, errs.Wrap("namespace "+n.name, err)
}

// StartProcess runs a program of the machine in the namespace in the background.
func (n *Namespace) StartProcess(ctx context.Context, argv ...string) (*Process, error) {
	return startProcess(n.Command(ctx, argv...), (*exec.Cmd).Start)
}

// NetnsPath returns the file that stands for the network namespace.
func (n *Namespace) NetnsPath() string { return n.file }
