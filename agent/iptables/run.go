package iptables

import (
	"context"
	"strings"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// CommandTimeout bounds each iptables command, lockWait is how long the legacy backend waits for its lock, in seconds.
const (
	CommandTimeout = 15 * time.Second
	lockWait       = "5"
)

// Save is the program that prints the family's rules.
func (f Family) Save() string {
	if f == V6 {
		return "ip6tables-save"
	}
	return "iptables-save"
}

// Restore is the program that reads them.
func (f Family) Restore() string {
	if f == V6 {
		return "ip6tables-restore"
	}
	return "iptables-restore"
}

// Read reads a table of one family. It costs one process.
func Read(ctx context.Context, h *host.Host, l Layout, f Family) (Kernel, error) {
	out, err := h.RunCmd(ctx, host.Cmd{Argv: []string{f.Save(), "-t", l.Name}, Timeout: CommandTimeout})
	if err != nil {
		return Kernel{}, errs.Wrap("read the rules of "+f.String(), missing(err))
	}
	k, err := Parse(l, string(out.Stdout))
	if err != nil {
		return k, errs.New(errs.Precondition, "the %s table of %s can't be read with iptables: %w", l.Name, f, err).
			WithHint("rules made with nft stand in the table that iptables uses: move them to a table of their own")
	}
	return k, nil
}

// ReadBoth reads the table of both families.
func ReadBoth(ctx context.Context, h *host.Host, l Layout) (map[Family]Kernel, error) {
	both := map[Family]Kernel{}
	for _, f := range []Family{V4, V6} {
		k, err := Read(ctx, h, l, f)
		if err != nil {
			return nil, err
		}
		both[f] = k
	}
	return both, nil
}

// Restore gives the kernel one transaction.
func Restore(ctx context.Context, h *host.Host, f Family, text string) error {
	_, err := h.RunCmd(ctx, host.Cmd{
		Argv: []string{f.Restore(), "-w", lockWait, "--noflush"}, Stdin: []byte(text), Timeout: CommandTimeout,
	})
	return errs.Wrap("write the rules of "+f.String(), missing(err))
}

// Try restores a text in an empty network namespace. iptables-restore --test only parses; this asks the kernel.
func Try(ctx context.Context, h *host.Host, f Family, text string) error {
	_, err := h.RunCmd(ctx, host.Cmd{
		Argv:  []string{"unshare", "-n", f.Restore(), "-w", lockWait, "--noflush"},
		Stdin: []byte(text), Timeout: CommandTimeout,
	})
	return errs.Wrap("try the rules of "+f.String()+" in an empty namespace", missing(err))
}

// BringBack makes what is ours in a table of one family as it was, wherever it stands now.
func BringBack(ctx context.Context, h *host.Host, l Layout, f Family, was Table) error {
	now, err := Read(ctx, h, l, f)
	if err != nil {
		return err
	}
	if now.Same(was) && (was.DockerUser || !now.DockerUserIsOurs()) {
		return nil
	}
	return Restore(ctx, h, f, Transaction(now, was, !was.DockerUser))
}

// missing says what to do when a program is not installed.
func missing(err error) error {
	if err != nil && strings.Contains(err.Error(), "executable file not found") {
		return errs.New(errs.Precondition, "iptables is not installed: %w", err).WithHint("apt-get install iptables")
	}
	return err
}
