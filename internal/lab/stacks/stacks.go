// Package stacks tries container stacks on a real engine: that of a virtual machine of the lab.
package stacks

import (
	"context"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/inside"
)

// Run runs the tests of agent/provider/containers that need an engine, on the production machine alone. Figures: noop_plan_ms,
// first_up_s, first_up_by_hand_s, first_up_ratio, helper_peak_rss_mb.
func Run(ctx context.Context, o demo.Options) (inside.Figures, string, error) {
	return inside.Run(ctx, o, inside.Tests{Package: "agent/provider/containers", Run: "TestReal", Machine: demo.Prod,
		Env: []string{"INFRACTL_COMPOSE=/usr/bin/infractl-compose"}, Prepare: findImage, Limit: 4 * time.Minute})
}

func findImage(ctx context.Context, _ *demo.Site, vm *lab.VM) ([]string, error) {
	out, err := vm.Must(ctx, "docker", "images", "--format", "{{.Repository}}:{{.Tag}}", "infractl-lab/busybox")
	image, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
	return []string{"INFRACTL_IMAGE=" + image}, err
}
