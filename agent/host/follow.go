package host

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// MaxLine is the longest line that Follow hands on, in bytes; longer ones are left out.
const MaxLine = 64 << 10

// Follower runs commands that do not end by themselves. The real Runner is one.
type Follower interface {
	// Follow runs a command and calls line with each line of its output, without the line end, until the command ends, ctx ends,
	// or line returns an error, which is then Follow's. The slice is good during the call only.
	Follow(ctx context.Context, cmd Cmd, line func([]byte) error) error
}

// Follow runs a command that does not end by itself; see Follower. Cmd's Stdin and Timeout mean nothing here. A slow line holds
// the command up, and nothing is kept in memory.
func (h *Host) Follow(ctx context.Context, cmd Cmd, line func([]byte) error) error {
	f, ok := h.runner.(Follower)
	if !ok {
		return errs.New(errs.Precondition, "%s: commands cannot be followed here", strings.Join(cmd.Argv, " "))
	}
	h.log.Debug("follows command", "argv", cmd.Argv)
	return f.Follow(ctx, cmd, line)
}

// Follow implements Follower.
func (execRunner) Follow(ctx context.Context, cmd Cmd, line func([]byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := exec.CommandContext(ctx, cmd.Argv[0], cmd.Argv[1:]...)
	c.Env = append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C",
	}, cmd.Env...)
	// It must not outlive the agent, however that ends.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = time.Second
	var stderr limited
	c.Stderr = &stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return errs.New(errs.Internal, "%s: %w", strings.Join(cmd.Argv, " "), err)
	}
	if err := c.Start(); err != nil {
		return errs.New(errs.Internal, "%s: %w", strings.Join(cmd.Argv, " "), err)
	}
	failed := eachLine(out, line)
	if failed != nil {
		cancel()
	}
	err = c.Wait()
	var exit *exec.ExitError
	switch {
	case failed != nil:
		return failed
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit):
		return &ExitError{Argv: cmd.Argv, Code: exit.ExitCode(), Stderr: stderr.String()}
	}
	return err
}

// eachLine calls line for each line of r that is not too long. The end of r is no error.
func eachLine(r io.Reader, line func([]byte) error) error {
	in := bufio.NewReaderSize(r, MaxLine)
	for long := false; ; {
		text, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			long = true
			continue
		case err != nil:
			return nil // the command's own end says why
		case long:
			long = false
			continue
		}
		if err := line(text[:len(text)-1]); err != nil {
			return err
		}
	}
}
