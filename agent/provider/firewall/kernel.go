package firewall

import (
	"context"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables"
)

// The kernel's filter table, as agent/iptables reads and writes it.
type (
	family = iptables.Family
	table  = iptables.Table
	chain  = iptables.Chain
	jump   = iptables.Jump
	kernel = iptables.Kernel
)

// Names in the kernel.
const (
	chainIn  = iptables.Prefix + "IN"
	chainOut = iptables.Prefix + "OUT"
	chainFwd = iptables.Prefix + "FWD"

	dockerUser = iptables.DockerUser
	v4         = iptables.V4
	v6         = iptables.V6
)

func readBoth(ctx context.Context, h *host.Host) (map[family]kernel, error) {
	return iptables.ReadBoth(ctx, h, iptables.Filter())
}

func bringBack(ctx context.Context, h *host.Host, f family, was table) error {
	return iptables.BringBack(ctx, h, iptables.Filter(), f, was)
}
