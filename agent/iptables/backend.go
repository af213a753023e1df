package iptables

import (
	"context"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// OneBackend is Precondition when both backends of iptables hold rules in a table: both would decide, and each shows only its own.
func OneBackend(ctx context.Context, h *host.Host, l Layout, present map[Family]Kernel) error {
	for _, f := range []Family{V4, V6} {
		if _, read := present[f]; !read {
			continue
		}
		other, listed := strings.Replace(f.Save(), "-save", "-legacy-save", 1), "/proc/net/ip_tables_names"
		if f == V6 {
			listed = "/proc/net/ip6_tables_names"
		}
		if present[f].Legacy {
			other = strings.Replace(f.Save(), "-save", "-nft-save", 1)
			if !h.Has(other) {
				continue
			}
		} else if names, err := h.ReadFile(listed); err != nil || !strings.Contains("\n"+string(names), "\n"+l.Name+"\n") {
			continue
		}
		out, err := h.RunCmd(ctx, host.Cmd{Argv: []string{other, "-t", l.Name}, Timeout: CommandTimeout})
		if err != nil {
			return errs.Wrap("look at the other iptables backend", err)
		}
		k, err := Parse(l, string(out.Stdout))
		if err != nil {
			return errs.Wrap("look at the other iptables backend", err)
		}
		for _, rules := range k.Rules {
			if len(rules) > 0 {
				return errs.New(errs.Precondition, "%s has rules in both backends of iptables; %s shows the others", f, other).
					WithHint("remove those rules, or choose that backend with update-alternatives --config %s",
						strings.TrimSuffix(f.Save(), "-save"))
			}
		}
	}
	return nil
}
