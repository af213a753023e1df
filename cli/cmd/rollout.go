package cmd

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// rolloutCmd shows rollouts in their own words. Everything else about them is an operation's, so it stays out of the help.
func (a *app) rolloutCmd() *cobra.Command {
	c := group("rollout", "Show and watch rollouts in detail; see infractl operation", a.rolloutShowCmd(), a.rolloutWatchCmd())
	c.Hidden = true
	return c
}

func firstArg(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func (a *app) rolloutShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show [ROLLOUT]", Short: "Show a rollout, the newest unless named", Example: "  infractl rollout show", Args: arity(0, 1),
		ValidArgsFunction: firstOnly(a.completer(rolloutIDs)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				r, err := v1.NewRolloutServiceClient(conn).GetRollout(ctx, &v1.GetRolloutRequest{Id: firstArg(args)})
				if err != nil {
					return err
				}
				return w.Message(r, func() error { return a.showRollout(w, r.GetRollout()) })
			})
		},
	}
}

func (a *app) showRollout(w *output.Writer, r *v1.Rollout) error {
	w.Printf("rollout %s of revision %d: %s, started %s by %s\n", r.GetId(), r.GetRevision(), rolloutState(r.GetState()),
		a.ago(r.GetStarted()), dash(r.GetOperator()))
	if r.GetMessage() != "" {
		w.Printf("%s\n", r.GetMessage())
	}
	if r.GetReason() != "" {
		w.Printf("reason: %s\n", r.GetReason())
	}
	var rows [][]string
	for _, n := range r.GetNodes() {
		rows = append(rows, []string{n.GetNode(), num(uint64(n.GetWave())), nodeRollout(n.GetState()), num(uint64(n.GetChanges())), dash(nodeText(n))})
	}
	return w.Rows([]string{"NODE", "WAVE", "STATE", "CHANGES", "MESSAGE"}, rows)
}

func (a *app) rolloutWatchCmd() *cobra.Command {
	var identity string
	c := &cobra.Command{
		Use: "watch [ROLLOUT]", Short: "Follow a rollout to its end, the newest unless named",
		Long: `Follow a rollout to its end, the newest unless named, as apply does: where a witness does not exist yet, this command takes its
place. With -o json or -o yaml the rollout is printed as it ended.`,
		Example: "  infractl rollout watch", Args: arity(0, 1),
		ValidArgsFunction: firstOnly(a.completer(rolloutIDs)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				return a.watchToEnd(ctx, conn, w, firstArg(args), identity)
			})
		},
	}
	addIdentity(c, &identity)
	exits(c, true, meaning{ExitOK, "every node has all of it"},
		meaning{ExitFailed, "failed, canceled, or superseded by a newer revision"},
		meaning{ExitSomeFailed, "some nodes are missing or degraded"},
		meaning{ExitRolledBack, "a commit failed: its node has its former state back, and the rollout halted"},
		meaning{ExitInterrupted, "interrupted; the rollout goes on"})
	return c
}
