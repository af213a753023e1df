package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/cli/output"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) auditCmd() *cobra.Command {
	var req v1.ListAuditRequest
	var since time.Duration
	c := &cobra.Command{
		Use: "audit", Short: "Show who did what, when, with what result",
		Long: `Show who did what, when, with what result, newest first. Every call that changes something is an entry, refused ones too, and
so is reading this log. For the roles auditor and admin.`,
		Example: "  infractl audit --since 24h\n  infractl audit --actor operator/anna --action Apply -o json", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if since > 0 {
				req.Since = timestamppb.New(a.clock.Now().Add(-since))
			}
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewAuditServiceClient(conn).ListAudit(ctx, &req)
				if err != nil {
					return err
				}
				return w.Message(list, func() error {
					var rows [][]string
					for _, e := range list.GetEntries() {
						rows = append(rows, []string{num(e.GetSequence()), e.GetTime().AsTime().Local().Format("2006-01-02 15:04:05"), dash(e.GetActor()),
							e.GetAction(), dash(e.GetTarget()), dash(e.GetResult()), dash(e.GetMessage())})
					}
					return w.Rows([]string{"NO", "TIME", "WHO", "WHAT", "ON", "RESULT", "MESSAGE"}, rows)
				})
			})
		},
	}
	f := c.Flags()
	f.Uint32Var(&req.Limit, "limit", 50, "greatest number of entries")
	f.StringVar(&req.Actor, "actor", "", "only this actor, such as operator/anna or node/srv-prod")
	f.StringVar(&req.Action, "action", "", "only actions that contain this text")
	f.DurationVar(&since, "since", 0, "only entries younger than this")
	f.Uint64Var(&req.AfterSequence, "after", 0, "only entries after this number, oldest first")
	return c
}
