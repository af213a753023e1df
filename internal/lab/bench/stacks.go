package bench

import (
	"context"
	"os"
	"path/filepath"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/stacks"
)

// stackNumbers measures container stacks on the engine of a virtual machine, and the helper.
func stackNumbers(ctx context.Context, o Options, r *Report) error {
	info, err := os.Stat(filepath.Join(o.Bin, "infractl-compose"))
	if err != nil {
		return errs.New(errs.Precondition, "infractl-compose is not built: %w", err).WithHint("make build")
	}
	r.Stated("infractl-compose on disk", float64(info.Size())/1e6, "MB", "lives only while a stack changes")
	got, output, err := stacks.Run(ctx, demo.Options{Root: o.Root, Bin: o.Bin, Dir: filepath.Join(o.Dir, "stacks"), Name: "bench-stacks"})
	if err != nil {
		r.say("%s", output)
		return err
	}
	r.AtMost("stack plan without change", got["noop_plan_ms"], 100, "ms", "mean of 50, two services, real engine")
	r.AtMost("first up of a stack", got["first_up_ratio"], 1.2, "x", "the Compose library alone on the same files, best of three each")
	r.Stated("first up of a stack, seconds", got["first_up_s"], "s", "two services, health waited for")
	r.Stated("infractl-compose at most resident", got["helper_peak_rss_mb"], "MB", "first up of a stack")
	return nil
}
