package host

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// endGrace is how long a process may take to end after it was asked to.
const endGrace = 2 * time.Second

// EndProcess ends a process that somebody else started for us, such as a command in a container, and its process group: hang up
// first, kill after 2 s. A process that is gone already is no error. running says whether the number still means that process.
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
