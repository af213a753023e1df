package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the whole picture: site, nodes, and what needs a person",
		Long:    "Show the whole picture. Exit code 0 when every node is online and in sync, 3 otherwise.",
		Example: "  infractl status\n  infractl status -o yaml", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				s, err := v1.NewNodeServiceClient(conn).GetStatus(ctx, &v1.GetStatusRequest{})
				if err != nil {
					return err
				}
				if err := w.Message(s, func() error { return a.showStatus(w, s) }); err != nil {
					return err
				}
				return a.statusExit(s)
			})
		},
	}
}

func (a *app) showStatus(w *output.Writer, s *v1.GetStatusResponse) error {
	w.Printf("site %s, revision %d, rollout %s; server %s, certificate ends %s\n", s.GetSite(), s.GetRevision(), dash(s.GetRolloutState()),
		s.GetServerVersion(), a.until(s.GetCertificateNotAfter()))
	if skew := a.clock.Now().Sub(s.GetServerTime().AsTime()); skew.Abs() > 5*time.Second {
		w.Printf("warning: this machine's clock is %s away from the server's\n", skew.Round(time.Second))
	}
	w.Printf("\n")
	if err := a.showNodes(w, s.GetNodes()); err != nil {
		return err
	}
	for i, f := range s.GetFindings() {
		if i == 0 {
			w.Printf("\n")
		}
		w.Printf("%s: %s\n", severity(f.GetSeverity()), f.GetMessage())
		if f.GetHint() != "" {
			w.Printf("    hint: %s\n", f.GetHint())
		}
	}
	if len(s.GetNotManaged()) > 0 {
		w.Printf("\nnot yet managed: %v\n", s.GetNotManaged())
	}
	return nil
}

// statusExit is 0 when nothing needs a person.
func (a *app) statusExit(s *v1.GetStatusResponse) error {
	for _, n := range s.GetNodes() {
		word := a.syncWord(n)
		if n.GetState() != v1.NodeState_NODE_STATE_ONLINE || (word != "in sync" && word != "-") {
			return exitError{ExitSomeFailed}
		}
	}
	return nil
}
