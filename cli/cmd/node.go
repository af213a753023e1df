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

func (a *app) nodeCmd() *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "List, show, approve, clear, revoke and forget nodes"}
	c.AddCommand(a.nodeListCmd(), a.nodeShowCmd(), a.nodeApproveCmd(), a.nodeClearCmd(), a.nodeRevokeCmd(), a.nodeForgetCmd())
	return c
}

// completeNodes completes a flag's values with live node names from the server.
func (a *app) completeNodes(c *cobra.Command, flag string) {
	must(c.RegisterFlagCompletionFunc(flag, a.nodeNames))
}

func (a *app) nodeNames(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var names []string
	err := a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, _ *output.Writer) error {
		list, err := v1.NewNodeServiceClient(conn).ListNodes(ctx, &v1.ListNodesRequest{})
		for _, n := range list.GetNodes() {
			names = append(names, n.GetName())
		}
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) nodeListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List enrolled, pending and wanted nodes", Example: "  infractl node list -o json", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewNodeServiceClient(conn).ListNodes(ctx, &v1.ListNodesRequest{})
				if err != nil {
					return err
				}
				return w.Message(list, func() error { return a.showNodes(w, list.GetNodes()) })
			})
		},
	}
}

func (a *app) showNodes(w *output.Writer, nodes []*v1.Node) error {
	var rows [][]string
	for _, n := range nodes {
		rows = append(rows, []string{n.GetName(), dash(n.GetRole()), nodeState(n.GetState()), dash(n.GetAddress()), a.syncWord(n),
			a.ago(n.GetLastSeen()), a.until(n.GetCertificateNotAfter()), dash(n.GetMessage())})
	}
	return w.Rows([]string{"NODE", "ROLE", "STATE", "ADDRESS", "SPEC", "SEEN", "CERTIFICATE", "MESSAGE"}, rows)
}

// syncWord says in one word how far a node is with its spec.
func (a *app) syncWord(n *v1.Node) string {
	s := n.GetHostState()
	switch {
	case n.GetWantedDigest() == "":
		return "-"
	case len(n.GetKnownBad()) > 0:
		return "known-bad"
	case s.GetArmedCommit() != "":
		return "in commit"
	case s.GetNarrowedDigest() != n.GetWantedDigest() && s.GetWidenedDigest() == n.GetWantedDigest():
		return "widened"
	case s.GetNarrowedDigest() != n.GetWantedDigest():
		return "behind"
	case len(s.GetDrift()) > 0:
		return "drift"
	case len(s.GetDegraded()) > 0:
		return "degraded"
	}
	return "in sync"
}

func (a *app) nodeShowCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "show NODE", Short: "Show all that is known of a node", Example: "  infractl node show srv-prod", Args: exactArgs(1, "infractl node show srv-prod"),
		ValidArgsFunction: a.nodeNames,
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				answer, err := v1.NewNodeServiceClient(conn).GetNode(ctx, &v1.GetNodeRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return w.Message(answer, func() error { return a.showNode(w, answer.GetNode()) })
			})
		},
	}
	return c
}

func (a *app) showNode(w *output.Writer, n *v1.Node) error {
	f, s := n.GetFacts(), n.GetHostState()
	rows := [][]string{
		{"role", dash(n.GetRole())}, {"state", nodeState(n.GetState())}, {"spec", a.syncWord(n)}, {"address", dash(n.GetAddress())},
		{"os", dash(f.GetOs())}, {"kernel", dash(f.GetKernel())}, {"agent", dash(n.GetAgentVersion())},
		{"seen", a.ago(n.GetLastSeen())}, {"clock ahead", n.GetSkew().AsDuration().Round(time.Millisecond).String()},
		{"certificate", short(n.GetSerial()) + ", ends " + a.until(n.GetCertificateNotAfter())},
		{"revision", num(s.GetSiteRevision())}, {"wanted", short(n.GetWantedDigest())}, {"reached", short(s.GetNarrowedDigest())},
	}
	add := func(name string, lines []string) {
		for _, l := range lines {
			rows = append(rows, []string{name, l})
		}
	}
	add("addresses", []string{strings.Join(f.GetAddresses(), " ")})
	add("still open", s.GetWidened())
	add("degraded", s.GetDegraded())
	add("warning", f.GetWarnings())
	for _, k := range n.GetKnownBad() {
		add("known-bad", []string{short(k.GetHash()) + " " + k.GetPhase() + ": " + k.GetReason()})
	}
	if n.GetMessage() != "" {
		add("message", []string{n.GetMessage()})
	}
	if err := w.Rows([]string{"NODE", n.GetName()}, rows); err != nil {
		return err
	}
	if len(s.GetDrift()) > 0 {
		w.Printf("drift, seen %s:\n", a.ago(s.GetDriftTime()))
		showChanges(w.Printf, s.GetDrift())
	}
	return nil
}

// nodeAction is a verb that does one thing to one node.
func (a *app) nodeAction(c *cobra.Command, question func(name string) string, act func(context.Context, v1.NodeServiceClient, string) (string, error)) *cobra.Command {
	c.Args = exactArgs(1, strings.TrimSpace(c.Example))
	c.ValidArgsFunction = a.nodeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		if question != nil {
			if err := a.confirm(question(args[0])); err != nil {
				return err
			}
		}
		return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, _ *output.Writer) error {
			done, err := act(ctx, v1.NewNodeServiceClient(conn), args[0])
			if err == nil {
				a.note("%s", done)
			}
			return err
		})
	}
	a.yesFlag(c)
	return c
}

func (a *app) nodeApproveCmd() *cobra.Command {
	var name string
	c := &cobra.Command{Use: "approve ENROLMENT", Short: "Let a pending machine in", Example: "  infractl node approve 7f3a"}
	a.nodeAction(c, func(id string) string { return "Let machine " + id + " in?" },
		func(ctx context.Context, api v1.NodeServiceClient, id string) (string, error) {
			n, err := api.ApproveNode(ctx, &v1.ApproveNodeRequest{EnrolmentId: id, Name: name})
			return "approved as " + n.GetNode().GetName() + "; it enrols within a few seconds", err
		})
	c.Flags().StringVar(&name, "name", "", "the name it gets instead of the one that it asks for")
	return c
}

func (a *app) nodeClearCmd() *cobra.Command {
	var hash string
	c := &cobra.Command{Use: "clear NODE", Short: "Forget known-bad content, so that it is tried again", Example: "  infractl node clear srv-prod"}
	a.nodeAction(c, nil, func(ctx context.Context, api v1.NodeServiceClient, name string) (string, error) {
		r, err := api.ClearNode(ctx, &v1.ClearNodeRequest{Name: name, Hash: hash})
		return num(uint64(len(r.GetCleared()))) + " known-bad content(s) forgotten; try again with: infractl apply", err
	})
	c.Flags().StringVar(&hash, "hash", "", "only this content")
	return c
}

func (a *app) nodeRevokeCmd() *cobra.Command {
	var reason string
	c := &cobra.Command{Use: "revoke NODE", Short: "Withdraw a node's identity for good and cut it off at once", Example: "  infractl node revoke srv-prod --reason stolen"}
	a.nodeAction(c, func(name string) string { return "Revoke the identity of " + name + " for good?" },
		func(ctx context.Context, api v1.NodeServiceClient, name string) (string, error) {
			_, err := api.RevokeNode(ctx, &v1.RevokeNodeRequest{Name: name, Reason: reason})
			return "revoked; to let the name enrol again: infractl node forget " + name, err
		})
	c.Flags().StringVar(&reason, "reason", "", "kept in the audit log")
	return c
}

func (a *app) nodeForgetCmd() *cobra.Command {
	c := &cobra.Command{Use: "forget NODE", Short: "Remove a revoked or pending node, so that its name can enrol again", Example: "  infractl node forget srv-prod"}
	return a.nodeAction(c, func(name string) string { return "Forget " + name + "?" },
		func(ctx context.Context, api v1.NodeServiceClient, name string) (string, error) {
			_, err := api.ForgetNode(ctx, &v1.ForgetNodeRequest{Name: name})
			return "forgotten", err
		})
}
