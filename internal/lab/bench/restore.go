package bench

import (
	"context"
	"path/filepath"
	"time"

	"github.com/infractl/infractl/internal/lab/demo"
)

// restore loses the server's machine and puts the server back on a new one, from a backup and the recovery key.
func restore(ctx context.Context, o Options, r *Report) error {
	site, err := demo.BootSmall(ctx, demo.Options{Root: o.Root, Bin: o.Bin, Dir: filepath.Join(o.Dir, "restore"), Name: "restore-bench", Out: o.Out})
	if site != nil {
		defer site.Down(context.WithoutCancel(ctx)) //nolint:errcheck // the next lab of this name removes what stayed
	}
	if err != nil {
		return err
	}
	begun := time.Now()
	backup, err := site.Backup(ctx)
	if err != nil {
		return err
	}
	r.Stated("server backup", time.Since(begun).Seconds(), "s", "six nodes, taken off the machine")
	r.Stated("server backup, size", float64(len(backup))/1024, "KiB", "six nodes, one revision")
	done, err := site.RestoreServer(ctx, backup)
	if err != nil {
		return err
	}
	r.AtMost("server restore to all agents back", done.Back.Seconds(), 60, "s", "from the start of the command on a fresh VM; nobody publishes one")
	r.Stated("server restore, the command", done.Command.Seconds(), "s", "restore, firewall, start of the server")
	return nil
}
