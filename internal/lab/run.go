package lab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// ExecLimit bounds a command in a VM whose context has no deadline.
const ExecLimit = 20 * time.Second

// outputLimit bounds what is kept of one output stream, in bytes; the rest is read and dropped.
const outputLimit = 16 << 20

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	// Code is the exit status, or 128 and the signal's number.
	Code int
}

// OK returns an error that shows the command's error output unless it ended with 0.
func (r Result) OK(argv ...string) error {
	if r.Code == 0 {
		return nil
	}
	text := strings.TrimSpace(r.Stderr)
	if text == "" {
		text = strings.TrimSpace(r.Stdout)
	}
	return errs.New(errs.Internal, "%s: exit status %d: %s", strings.Join(argv, " "), r.Code, tail(text, 800))
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "..." + s[len(s)-n:]
}

// limitedBuffer keeps the first outputLimit bytes. It may be read while it is written.
type limitedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if room := outputLimit - b.buf.Len(); room > 0 {
		b.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// String returns what was written so far.
func (b *limitedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// run runs one program of the machine to its end. It is an error when the program could not be run or did not end within
// the context's limit; its own failure is in the Result. On expiry the program and all its descendants are killed, also
// those in other process namespaces.
func run(ctx context.Context, env []string, stdin io.Reader, argv ...string) (Result, error) {
	return runWith(ctx, (*exec.Cmd).Start, env, stdin, argv)
}

// runWith is run with a way to start the program.
func runWith(ctx context.Context, start func(*exec.Cmd) error, env []string, stdin io.Reader, argv []string) (Result, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, ExecLimit)
		defer cancel()
	}
	cmd := command(ctx, env, argv)
	cmd.Stdin = stdin
	var stdout, stderr limitedBuffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	result := Result{Stdout: stdout.String(), Stderr: stderr.String()}
	if cause := ctx.Err(); cause != nil {
		code := errs.Timeout
		if errors.Is(cause, context.Canceled) {
			code = errs.Canceled
		}
		return result, errs.New(code, "%s did not end in time: %w", strings.Join(argv, " "), cause)
	}
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
	case errors.As(err, &exit):
		result.Code = exit.ExitCode()
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			result.Code = 128 + int(status.Signal())
		}
	default:
		return result, errs.Wrap("run "+argv[0], err)
	}
	return result, nil
}

// command prepares a program in a process group of its own, whose whole tree is killed when ctx ends.
func command(ctx context.Context, env, argv []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { killTree(cmd.Process.Pid); return nil }
	// A daemon that the command left behind may hold the pipes; it does not hold us.
	cmd.WaitDelay = time.Second
	return cmd
}

// must is run for commands of the lab itself, whose failure is an error.
func must(ctx context.Context, stdin string, argv ...string) error {
	result, err := run(ctx, hostEnv(), strings.NewReader(stdin), argv...)
	if err != nil {
		return err
	}
	return result.OK(argv...)
}

// hostEnv is the environment of programs of the machine.
func hostEnv(extra ...string) []string {
	return append(append(os.Environ(), "LC_ALL=C"), extra...)
}

// killTree kills a process, its group and all its descendants, found before any of them dies.
func killTree(pid int) {
	tree := descendants(pid)
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	for _, p := range append(tree, pid) {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
}

// descendants returns the processes below pid, as the machine numbers them.
func descendants(pid int) []int {
	var found []int
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		task := "/proc/" + strconv.Itoa(queue[0]) + "/task"
		threads, _ := os.ReadDir(task)
		for _, t := range threads {
			list, _ := os.ReadFile(task + "/" + t.Name() + "/children")
			for _, field := range strings.Fields(string(list)) {
				if child, err := strconv.Atoi(field); err == nil {
					found = append(found, child)
					queue = append(queue, child)
				}
			}
		}
	}
	return found
}
