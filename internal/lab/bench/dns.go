package bench

import (
	"context"
	"path/filepath"

	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/dns"
)

// dnsNumbers measures a large zone on a real bind in a virtual machine.
func dnsNumbers(ctx context.Context, o Options, r *Report) error {
	got, output, err := dns.Run(ctx, demo.Options{Root: o.Root, Bin: o.Bin, Dir: filepath.Join(o.Dir, "dns"), Name: "bench-dns"})
	if err != nil {
		r.say("%s", output)
		return err
	}
	r.AtMost("zone of 5,000 names live", got["live_s"], 3, "s", "rendered, checked, read by bind, each name asked for")
	r.Stated("one name more in it", got["one_more_s"], "s", "the whole zone is written and checked again")
	r.AtMost("name service plan without change", got["noop_plan_ms"], 100, "ms", "5,000 names")
	return nil
}
