package firewall

import (
	"context"
	"strings"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// commandTimeout bounds each iptables command; lockWait is how long the legacy backend waits for its lock, in seconds.
const (
	commandTimeout = 15 * time.Second
	lockWait       = "5"
)

func (f family) save() string {
	if f == v6 {
		return "ip6tables-save"
	}
	return "iptables-save"
}

func (f family) restore() string {
	if f == v6 {
		return "ip6tables-restore"
	}
	return "iptables-restore"
}

// read reads the filter table of one family.
func read(ctx context.Context, h *host.Host, f family) (kernel, error) {
	out, err := h.RunCmd(ctx, host.Cmd{Argv: []string{f.save(), "-t", "filter"}, Timeout: commandTimeout})
	if err != nil {
		return kernel{}, errs.Wrap("read the rules of "+f.String(), missing(err))
	}
	k, err := parse(string(out.Stdout))
	if err != nil {
		return k, errs.New(errs.Precondition, "the filter table of %s can't be read with iptables: %w", f, err).
			WithHint("rules made with nft stand in the table that iptables uses: move them to a table of their own")
	}
	return k, nil
}

func readBoth(ctx context.Context, h *host.Host) (map[family]kernel, error) {
	both := map[family]kernel{}
	for _, f := range []family{v4, v6} {
		k, err := read(ctx, h, f)
		if err != nil {
			return nil, err
		}
		both[f] = k
	}
	return both, nil
}

// restore gives the kernel one transaction.
func restore(ctx context.Context, h *host.Host, f family, text string) error {
	_, err := h.RunCmd(ctx, host.Cmd{
		Argv: []string{f.restore(), "-w", lockWait, "--noflush"}, Stdin: []byte(text), Timeout: commandTimeout,
	})
	return errs.Wrap("write the rules of "+f.String(), missing(err))
}

// try restores a text in an empty network namespace. iptables-restore --test only parses; this asks the kernel.
func try(ctx context.Context, h *host.Host, f family, text string) error {
	_, err := h.RunCmd(ctx, host.Cmd{
		Argv:  []string{"unshare", "-n", f.restore(), "-w", lockWait, "--noflush"},
		Stdin: []byte(text), Timeout: commandTimeout,
	})
	return errs.Wrap("try the rules of "+f.String()+" in an empty namespace", missing(err))
}

// bringBack makes what is ours in one family as it was, wherever it stands now.
func bringBack(ctx context.Context, h *host.Host, f family, was table) error {
	now, err := read(ctx, h, f)
	if err != nil {
		return err
	}
	if now.same(was) && (was.DockerUser || !now.dockerUserIsOurs()) {
		return nil
	}
	return restore(ctx, h, f, transaction(now, was, !was.DockerUser))
}

// missing says what to do when a program is not installed.
func missing(err error) error {
	if err != nil && strings.Contains(err.Error(), "executable file not found") {
		return errs.New(errs.Precondition, "iptables is not installed: %w", err).WithHint("apt-get install iptables")
	}
	return err
}
