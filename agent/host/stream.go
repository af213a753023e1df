package host

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// maxLastWords is how much of a stream's standard error is kept, for its error.
const maxLastWords = 4 << 10

// Stream is a command that runs beside its caller, who reads what it prints.
type Stream interface {
	// Read reads its standard output, io.EOF at its end.
	io.Reader
	// Wait waits for its end, after Read has returned an error. A code other than 0 gives an *ExitError with the last of stderr.
	Wait() error
	// Close kills it with all that it started, and waits for its end.
	Close()
}

// Starter starts commands; a Runner that is no Starter starts none.
type Starter interface {
	// Start starts a command that lives until it ends by itself, ctx ends, or its stream is closed.
	Start(ctx context.Context, cmd Cmd) (Stream, error)
}

// Start starts a command whose output is read as it comes. Timeout and Stdin of cmd are not used; the caller closes the stream.
func (h *Host) Start(ctx context.Context, argv ...string) (Stream, error) {
	starter, ok := h.runner.(Starter)
	if !ok {
		return nil, errs.New(errs.Internal, "this runner starts no commands")
	}
	s, err := starter.Start(ctx, Cmd{Argv: argv})
	h.log.Debug("started command", "argv", argv, "failed", err != nil)
	return s, err
}

// Start implements Starter.
func (execRunner) Start(ctx context.Context, cmd Cmd) (Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := exec.CommandContext(ctx, cmd.Argv[0], cmd.Argv[1:]...)
	c.Env = append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C",
	}, cmd.Env...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = time.Second
	s := &process{cmd: c, ctx: ctx, cancel: cancel}
	c.Stderr = &s.stderr
	out, err := c.StdoutPipe()
	if err == nil {
		s.out, err = out, c.Start()
	}
	if err != nil {
		cancel()
		return nil, errs.New(errs.Internal, "%s: %w", strings.Join(cmd.Argv, " "), err)
	}
	return s, nil
}

type process struct {
	cmd    *exec.Cmd
	ctx    context.Context
	cancel context.CancelFunc
	out    io.Reader
	stderr lastWords
	once   sync.Once
	err    error
}

// Read implements Stream.
func (s *process) Read(p []byte) (int, error) { return s.out.Read(p) }

// Wait implements Stream.
func (s *process) Wait() error {
	s.once.Do(func() {
		s.err = s.cmd.Wait()
		s.cancel()
	})
	var exit *exec.ExitError
	switch {
	case s.err == nil:
		return nil
	case errors.As(s.err, &exit) && exit.ExitCode() >= 0:
		return &ExitError{Argv: s.cmd.Args, Code: exit.ExitCode(), Stderr: s.stderr.String()}
	case s.ctx.Err() != nil:
		return errs.New(errs.Canceled, "%s: was ended: %w", strings.Join(s.cmd.Args, " "), s.err)
	}
	return errs.New(errs.Internal, "%s: %w", strings.Join(s.cmd.Args, " "), s.err)
}

// Close implements Stream.
func (s *process) Close() {
	s.cancel()
	_ = s.Wait() // whoever closes wants no more of it
}

// lastWords keeps the end of what is written.
type lastWords struct {
	mu  sync.Mutex
	buf []byte
}

// Write implements io.Writer.
func (l *lastWords) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, p...)
	if over := len(l.buf) - maxLastWords; over > 0 {
		l.buf = append(l.buf[:0], l.buf[over:]...)
	}
	return len(p), nil
}

// String returns what was kept.
func (l *lastWords) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.buf)
}

// endGrace is how long a process may take to end after it was asked to.
const endGrace = 2 * time.Second

// EndProcess ends a process that somebody else started for us, such as a command in a container, and its process group: hang up
// first, kill after 2 s. A process that is gone already is no error. running says whether it still is the one that is meant.
func (h *Host) EndProcess(ctx context.Context, pid int, running func(context.Context) bool) error {
	if pid <= 1 {
		return errs.New(errs.Invalid, "%d is no process to end", pid)
	}
	for _, signal := range []syscall.Signal{syscall.SIGHUP, syscall.SIGKILL} {
		if !running(ctx) {
			return nil
		}
		for _, target := range []int{-pid, pid} {
			if err := syscall.Kill(target, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return errs.New(errs.Internal, "cannot end process %d: %w", pid, err)
			}
		}
		for deadline := time.Now().Add(endGrace); signal == syscall.SIGHUP && time.Now().Before(deadline) && running(ctx); {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(endGrace / 20):
			}
		}
	}
	return nil
}
