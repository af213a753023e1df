// Package dns tries the name service: on a machine of the lab alone, where it is measured, and on a whole site in its tests.
package dns

import (
	"context"
	"time"

	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/inside"
)

// services is the machine that serves names.
const services = "srv-dhcp-dns"

// Run runs the tests of agent/provider/dns that need bind, on the services machine alone. Figures: live_s, one_more_s, noop_plan_ms.
func Run(ctx context.Context, o demo.Options) (inside.Figures, string, error) {
	return inside.Run(ctx, o, inside.Tests{Package: "agent/provider/dns", Run: "TestReal", Machine: services,
		Env: []string{"INFRACTL_REAL_BIND=1"}, Limit: 3 * time.Minute})
}
