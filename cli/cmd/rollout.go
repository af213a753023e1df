package cmd

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) rolloutCmd() *cobra.Command {
	return group("rollout", "List, show, watch and cancel rollouts",
		a.rolloutListCmd(), a.rolloutShowCmd(), a.rolloutWatchCmd(), a.rolloutCancelCmd())
}

func (a *app) rolloutListCmd() *cobra.Command {
	var limit uint32
	c := &cobra.Command{
		Use: "list", Short: "List rollouts", Example: "  infractl rollout list", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewRolloutServiceClient(conn).ListRollouts(ctx, &v1.ListRolloutsRequest{Limit: limit})
				if err != nil {
					return err
				}
				return w.Message(list, func() error {
					var rows [][]string
					for _, r := range list.GetRollouts() {
						rows = append(rows, []string{r.GetId(), num(r.GetRevision()), rolloutState(r.GetState()), a.ago(r.GetStarted()),
							r.GetOperator(), dash(r.GetReason())})
					}
					return w.Rows([]string{"ROLLOUT", "REVISION", "STATE", "STARTED", "OPERATOR", "REASON"}, rows)
				})
			})
		},
	}
	c.Flags().Uint32Var(&limit, "limit", 20, "greatest number of rollouts")
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

func (a *app) rolloutCancelCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "cancel ROLLOUT", Short: "Stop a rollout before its next node",
		Long:    "Stop a rollout before its next node. What is confirmed stays; a node at work finishes its pass.",
		Example: "  infractl rollout cancel r-12",
		Args:    arity(1, 1), ValidArgsFunction: firstOnly(a.completer(rolloutIDs)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(c.Context(), "Cancel rollout "+args[0]+"?"); err != nil {
				return err
			}
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, _ *output.Writer) error {
				_, err := v1.NewRolloutServiceClient(conn).CancelRollout(ctx, &v1.CancelRolloutRequest{Id: args[0]})
				if err == nil {
					a.note("rollout %s stops before its next node", args[0])
				}
				return err
			})
		},
	}
	a.yesFlag(c)
	return c
}
