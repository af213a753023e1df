package engine

import (
	"context"
	"strconv"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// Armer arms a revert outside the agent, so that it happens even when the agent is dead.
type Armer interface {
	// Arm makes the revert of a commit happen after a time, whatever becomes of this process.
	Arm(ctx context.Context, id string, after time.Duration) error
	// Disarm takes it back. A revert that is not taken back does no harm: it finds the record kept and stops.
	Disarm(ctx context.Context, id string) error
}

// SystemArmer arms with a transient systemd timer, or with a detached process where systemd does not run.
type SystemArmer struct {
	host *host.Host
	// command is the agent's program with the arguments that must stand before "revert".
	command []string
}

// NewSystemArmer returns an armer that runs command with "revert --commit ID" added.
func NewSystemArmer(h *host.Host, command ...string) *SystemArmer {
	return &SystemArmer{host: h, command: command}
}

func unitName(id string) string { return "infractl-revert-" + id }

// Arm implements Armer.
func (a *SystemArmer) Arm(ctx context.Context, id string, after time.Duration) error {
	revert := append(append([]string{}, a.command...), "revert", "--commit", id)
	if !a.host.Exists("/run/systemd/system") {
		return errs.Wrap("arm revert", a.host.Detach(append(revert, "--after", after.String())...))
	}
	argv := append([]string{"systemd-run", "--quiet", "--collect", "--unit=" + unitName(id),
		"--on-active=" + strconv.FormatInt(after.Milliseconds(), 10) + "ms",
		// The default accuracy of timers is a minute.
		"--timer-property=AccuracySec=50ms", "--property=Type=oneshot", "--property=TimeoutStartSec=120"}, revert...)
	_, err := a.host.Run(ctx, argv...)
	return errs.Wrap("arm revert", err)
}

// Disarm implements Armer.
func (a *SystemArmer) Disarm(ctx context.Context, id string) error {
	if !a.host.Exists("/run/systemd/system") {
		return nil
	}
	_, err := a.host.Run(ctx, "systemctl", "stop", unitName(id)+".timer")
	return errs.Wrap("disarm revert", err)
}
