package cmd

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) statusCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "status", Short: "Show the whole picture: site, nodes, and what needs a person",
		Long: `Show the whole picture: site, revision, rollout, every node, and what needs a person, each with what to do about it.

SPEC says how far a node is with what is wanted: "in sync"; "widened" (old ways are still open beside the new ones); "behind";
"in commit"; "drift"; "degraded"; "known-bad" (it failed here and is not tried again until infractl node clear).`,
		Example: "  infractl status\n  infractl status -o yaml", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), a.runStatus)
		},
	}
	exits(c, true, meaning{ExitOK, "every node is online and in sync"},
		meaning{ExitSomeFailed, "a node is away or not in sync, or something needs a person"})
	return c
}

func (a *app) runStatus(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
	s, err := v1.NewNodeServiceClient(conn).GetStatus(ctx, &v1.GetStatusRequest{})
	if err != nil {
		return err
	}
	a.compareVersions(s.GetServerVersion())
	if skew := a.clock.Now().Sub(s.GetServerTime().AsTime()); s.GetServerTime() != nil && skew.Abs() > maxSkew {
		a.note("warning: this machine's clock is %s away from the server's", skew.Abs().Round(time.Second))
	}
	if err := w.Message(s, func() error { return a.showStatus(w, s) }); err != nil {
		return err
	}
	return a.statusExit(s)
}

// maxSkew is the difference of clocks that nobody needs to hear of.
const maxSkew = 5 * time.Second

func (a *app) showStatus(w *output.Writer, s *v1.GetStatusResponse) error {
	rollout := "none"
	if s.GetRolloutId() != "" {
		rollout = s.GetRolloutId() + " " + s.GetRolloutState()
	}
	w.Printf("site %s, revision %d, rollout %s; server %s, certificate ends %s\n\n", s.GetSite(), s.GetRevision(), rollout,
		s.GetServerVersion(), a.until(s.GetCertificateNotAfter()))
	if err := a.showNodes(w, s.GetNodes()); err != nil {
		return err
	}
	for i, f := range s.GetFindings() {
		if i == 0 {
			w.Printf("\n")
		}
		where := ""
		if f.GetWhere() != "" {
			where = f.GetWhere() + ": "
		}
		w.Printf("%s%s: %s\n", where, severity(f.GetSeverity()), f.GetMessage())
		if f.GetHint() != "" {
			w.Printf("    hint: %s\n", f.GetHint())
		}
	}
	if len(s.GetNotManaged()) > 0 {
		w.Printf("\nnot managed yet: %s\n", strings.Join(s.GetNotManaged(), ", "))
	}
	return nil
}

// statusExit is 0 when nothing needs a person.
func (a *app) statusExit(s *v1.GetStatusResponse) error {
	var names []string
	for _, n := range s.GetNodes() {
		word := a.syncWord(n)
		gone := n.GetState() == v1.NodeState_NODE_STATE_REVOKED && n.GetRole() == "" // withdrawn, and no longer in the site
		if !gone && (n.GetState() != v1.NodeState_NODE_STATE_ONLINE || word != "in sync" && word != "-") {
			names = append(names, n.GetName())
		}
	}
	if len(names) > 0 {
		return exitError{ExitSomeFailed, "not online or not in sync: " + strings.Join(names, ", ")}
	}
	for _, f := range s.GetFindings() {
		if f.GetSeverity() == v1.Severity_SEVERITY_ERROR {
			return exitError{ExitSomeFailed, f.GetMessage()}
		}
	}
	return nil
}
