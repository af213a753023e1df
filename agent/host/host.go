// Package host is the only package of the agent that runs a command or writes a file on the host.
//
// Commands are argv, never a shell string, and run with LC_ALL=C and a time limit. Writes are atomic: a side file, fsync,
// rename, fsync of the folder; a write that would change nothing does nothing.
package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/errs"
)

// Limits of commands.
const (
	DefaultTimeout = 30 * time.Second
	maxOutput      = 8 << 20
)

// Cmd is one command.
type Cmd struct {
	// Argv is the program and its arguments. Secrets never stand here.
	Argv []string
	// Stdin is given to the command; nil means no input.
	Stdin []byte
	// Env are extra NAME=value pairs; the rest of the environment is PATH, HOME and LC_ALL=C.
	Env []string
	// Timeout bounds the command; 0 means DefaultTimeout.
	Timeout time.Duration
}

// Output is what a command printed.
type Output struct {
	Stdout []byte
	Stderr []byte
	// Code is the exit code.
	Code int
}

// Runner runs commands. Tests put a recording or failing one in its place.
type Runner interface {
	// Run runs a command to its end. A command that ends with a code other than 0 gives an error that names argv and stderr,
	// and its output.
	Run(ctx context.Context, cmd Cmd) (Output, error)
}

// Host is the machine, or a folder that stands for it in a test.
type Host struct {
	root    string
	runner  Runner
	log     hclog.Logger
	fault   func(op string) error
	booting bool
}

// Config makes a Host.
type Config struct {
	// Root is put before every path; empty on a real host.
	Root string
	// Runner runs commands; nil means the real one.
	Runner Runner
	// Log gets a line per command at debug level; nil means none.
	Log hclog.Logger
	// Booting says that this process runs in the boot's early part, before the services of the host.
	Booting bool
	// Fault is asked before each change of a file ("write /etc/x", "remove ...", "rename ...", "mkdir ..."); an error stops
	// it. It lets a test fail any of them; nil on a real host.
	Fault func(op string) error
}

// New returns a Host.
func New(cfg Config) *Host {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.Runner == nil {
		cfg.Runner = execRunner{}
	}
	if cfg.Fault == nil {
		cfg.Fault = func(string) error { return nil }
	}
	return &Host{root: strings.TrimSuffix(cfg.Root, "/"), runner: cfg.Runner, log: cfg.Log, fault: cfg.Fault, booting: cfg.Booting}
}

// Booting reports whether services have not started yet: whoever mends files then must not start, stop or reload anything,
// because systemd waits for this process before it starts them.
func (h *Host) Booting() bool { return h.booting }

// Run runs a command.
func (h *Host) Run(ctx context.Context, argv ...string) (Output, error) {
	return h.RunCmd(ctx, Cmd{Argv: argv})
}

// RunCmd runs a command with input, environment or a limit of its own.
func (h *Host) RunCmd(ctx context.Context, cmd Cmd) (Output, error) {
	started := time.Now()
	out, err := h.runner.Run(ctx, cmd)
	h.log.Debug("ran command", "argv", cmd.Argv, "code", out.Code, "duration", time.Since(started), "failed", err != nil)
	return out, err
}

// Has reports whether a program is installed.
func (h *Host) Has(program string) bool {
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"} {
		if info, err := os.Stat(h.Path(dir + "/" + program)); err == nil && !info.IsDir() {
			return true
		}
	}
	return false
}

// ExitError says how a command failed.
type ExitError struct {
	Argv   []string
	Code   int
	Stderr string
}

// Error implements error: argv, code and the last lines of stderr.
func (e *ExitError) Error() string {
	msg := strings.TrimSpace(e.Stderr)
	if len(msg) > 500 {
		msg = "..." + msg[len(msg)-500:]
	}
	return fmt.Sprintf("%s: exit code %d: %s", strings.Join(e.Argv, " "), e.Code, msg)
}

// Systemctl runs systemctl with args. Its errors name the command.
func (h *Host) Systemctl(ctx context.Context, args ...string) error {
	_, err := h.Run(ctx, append([]string{"systemctl"}, args...)...)
	return err
}

type execRunner struct{}

func (execRunner) Run(ctx context.Context, cmd Cmd) (Output, error) {
	if cmd.Timeout == 0 {
		cmd.Timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, cmd.Timeout)
	defer cancel()
	c := exec.CommandContext(ctx, cmd.Argv[0], cmd.Argv[1:]...)
	c.Env = append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C",
	}, cmd.Env...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = time.Second
	if cmd.Stdin != nil {
		c.Stdin = bytes.NewReader(cmd.Stdin)
	}
	var stdout, stderr limited
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	out := Output{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), Code: -1}
	if c.ProcessState != nil {
		out.Code = c.ProcessState.ExitCode()
	}
	if err == nil {
		return out, nil
	}
	if ctx.Err() != nil {
		return out, errs.New(errs.Timeout, "%s: did not end within %s: %w", strings.Join(cmd.Argv, " "), cmd.Timeout, ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out, &ExitError{Argv: cmd.Argv, Code: out.Code, Stderr: stderr.String()}
	}
	return out, errs.New(errs.Internal, "%s: %w", strings.Join(cmd.Argv, " "), err)
}

// limited keeps the first maxOutput bytes, so that a runaway command cannot eat the agent's memory.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxOutput - l.Len(); room < len(p) {
		if room > 0 {
			l.Buffer.Write(p[:room])
		}
		return len(p), nil
	}
	return l.Buffer.Write(p)
}

var _ io.Writer = (*limited)(nil)
