package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/app"
)

func restoreCmd(cfg *app.Config, out io.Writer) *cobra.Command {
	var keyFile string
	var force, finish bool
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put the server back from a backup and the recovery key",
		Long: `Put the server back. Everything is read, checked and prepared beside the server's folders; one rename then decides. The folders
must be empty or absent; --force moves what is in them aside and removes nothing. FILE may be - for standard input.

The authority comes with it: no host enrols again. Nothing is applied to a host before it was heard, nor to one that reports a
newer revision than the backup knew (infractl node resume NODE). Use --addresses when the server comes back under other
addresses; hosts find it only under one that they know (docs/disaster.md).

A restore that was killed behind the step that decides is finished by --finish; before that step nothing was changed.` + exitCodes,
		Example: "  infractl-server restore infractl-projetpro-20261124T030000Z.age\n" +
			"  infractl-server restore --key - infractl.age < paper.txt\n  infractl-server restore --finish",
		Args: func(_ *cobra.Command, args []string) error {
			if finish == (len(args) > 0) || len(args) > 1 {
				return errs.New(errs.Precondition, "name one backup, or give --finish alone")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if finish {
				return withCode(app.FinishRestore(*cfg))
			}
			from, key, err := openBackup(args[0], keyFile, c.InOrStdin(), c.ErrOrStderr())
			if err != nil {
				return withCode(err)
			}
			defer from.Close()
			done, err := app.Restore(c.Context(), *cfg, from, key, force)
			if err != nil {
				return withCode(err)
			}
			showRestored(out, done, time.Now())
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&keyFile, "key", "", "file with the recovery key, - for standard input; without it the key is asked for")
	f.BoolVar(&force, "force", false, "move what is in the folders aside")
	f.BoolVar(&finish, "finish", false, "finish a restore that was cut short")
	f.StringSliceVar(&cfg.Addresses, "addresses", nil, "addresses in place of those in the backup")
	f.StringVar(&cfg.Firstboot, "firstboot-dir", app.DefaultFirstboot, "where the first-boot firewall of this machine looks; empty to leave it alone")
	return c
}

// showRestored says what was put back, and what a person has to look at: a backup knows nothing of what came after it.
func showRestored(out io.Writer, r *app.Restored, now time.Time) {
	showManifest(out, r.Manifest)
	fmt.Fprintf(out, "addresses     %s\n", strings.Join(r.Addresses, " "))
	for _, dir := range r.Moved {
		fmt.Fprintf(out, "moved aside   %s\n", dir)
	}
	for _, id := range r.Halted {
		fmt.Fprintf(out, "halted        %s, which was at work when the backup was made\n", id)
	}
	fmt.Fprintf(out, `
not known to this server: all that happened from %s to now (%s)
  revocations     a host or operator that was revoked in that time is accepted again: revoke it again
                  (%d withdrawn keys are known; compare with your copies of the audit log behind entry %d)
  operators       whoever logged in first in that time: infractl-server admin-code, infractl login
  hosts           one that enrolled in that time is unknown and enrols again: docs/disaster.md
  revisions       those behind %d: infractl apply -f site.yaml with your newest file
  join tokens, secrets and roles that were changed in that time: set them again

next:
  systemctl restart infractl-firewall.service   (lets agents and operators in)
  systemctl enable --now infractl-server
  infractl status                               (hosts are awaited; those that know more are paused)
  infractl apply -f site.yaml, then infractl node resume NODE for each paused one
`, r.Made.Format(time.RFC3339), now.Sub(r.Made).Round(time.Minute), r.Revoked, r.AuditLast, r.SiteRevision)
}
