package cmd

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/cli/output"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) nodeCmd() *cobra.Command {
	return group("node", "List, show, approve, clear, revoke, forget and resume nodes",
		a.nodeListCmd(), a.nodeShowCmd(), a.nodeApproveCmd(), a.nodeClearCmd(), a.nodeRevokeCmd(), a.nodeForgetCmd(), a.nodeResumeCmd())
}

func (a *app) nodeListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List enrolled, pending and wanted nodes", Example: "  infractl node list -o json", Args: arity(0, 0),
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
	reached := s.GetNarrowedDigest() == n.GetWantedDigest()
	switch {
	case n.GetWantedDigest() == "":
		return "-"
	case s.GetArmedCommit() != "":
		return "in commit"
	case !reached && len(n.GetKnownBad()) > 0: // what failed under an earlier revision does not matter once this one is reached
		return "known-bad"
	case !reached && s.GetWidenedDigest() == n.GetWantedDigest():
		return "widened"
	case !reached:
		return "behind"
	case len(s.GetDegraded()) > 0, slices.ContainsFunc(n.GetContainers().GetStacks(), func(st *v1.StackState) bool { return st.GetProblem() != "" }):
		return "degraded"
	case len(s.GetDrift()) > 0:
		return "drift"
	}
	return "in sync"
}

func (a *app) nodeShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show NODE", Short: "Show all that is known of a node", Example: "  infractl node show srv-prod", Args: arity(1, 1),
		ValidArgsFunction: firstOnly(a.completer(nodeNames)),
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
}

func (a *app) showNode(w *output.Writer, n *v1.Node) error {
	f, s := n.GetFacts(), n.GetHostState()
	pairs := [][2]string{
		{"node", n.GetName()}, {"role", dash(n.GetRole())}, {"state", nodeState(n.GetState())}, {"spec", a.syncWord(n)},
		{"address", dash(n.GetAddress())}, {"addresses", dash(strings.Join(f.GetAddresses(), " "))},
		{"os", dash(f.GetOs())}, {"kernel", dash(f.GetKernel())}, {"docker", dash(f.GetDockerVersion())}, {"agent", dash(n.GetAgentVersion())},
		{"enrolled", a.ago(n.GetEnrolled())}, {"seen", a.ago(n.GetLastSeen())},
		{"clock ahead", n.GetSkew().AsDuration().Round(time.Millisecond).String()},
		{"certificate", short(n.GetSerial()) + ", ends " + a.until(n.GetCertificateNotAfter())},
		{"revision", num(s.GetSiteRevision())}, {"wanted", short(n.GetWantedDigest())}, {"reached", short(s.GetNarrowedDigest())},
	}
	add := func(name string, lines ...string) {
		for _, l := range lines {
			if l != "" {
				pairs = append(pairs, [2]string{name, l})
			}
		}
	}
	add("enrolment", n.GetEnrolmentId())
	add("machine", n.GetFingerprint().GetMachineId())
	add("in commit", s.GetArmedCommit())
	add("still open", s.GetWidened()...)
	add("degraded", s.GetDegraded()...)
	add("warning", f.GetWarnings()...)
	for _, k := range n.GetKnownBad() {
		add("known-bad", short(k.GetHash())+" "+k.GetPhase()+", "+a.ago(k.GetTime())+": "+k.GetReason())
	}
	add("message", n.GetMessage())
	if err := w.Pairs(pairs); err != nil {
		return err
	}
	if len(s.GetDrift()) > 0 {
		w.Printf("drift, seen %s:\n", a.ago(s.GetDriftTime()))
		showChanges(w.Printf, s.GetDrift())
	}
	return nil
}

// nodeAct does one thing to a node and returns the server's answer and what people are told.
type nodeAct func(ctx context.Context, api v1.NodeServiceClient, name string) (proto.Message, string, error)

// nodeAction makes a verb that asks and then does one thing to one node.
func (a *app) nodeAction(c *cobra.Command, question func(name string) string, act nodeAct) *cobra.Command {
	c.Args = arity(1, 1)
	if c.ValidArgsFunction == nil {
		c.ValidArgsFunction = firstOnly(a.completer(nodeNames))
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if question != nil {
			if err := a.confirm(c.Context(), question(args[0])); err != nil {
				return err
			}
		}
		return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
			answer, done, err := act(ctx, v1.NewNodeServiceClient(conn), args[0])
			if err != nil {
				return err
			}
			a.note("%s", done)
			return w.Message(answer, func() error { return nil })
		})
	}
	if question != nil {
		a.yesFlag(c)
	}
	return c
}

func (a *app) nodeApproveCmd() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "approve ENROLMENT", Short: "Let a pending machine in",
		Long: `Let a pending machine in. ENROLMENT is its enrolment id, or a prefix of it that names just one: see infractl node list and
infractl node show. Compare the machine id with what the machine says: cat /etc/machine-id.`,
		Example:           "  infractl node approve 7f3a\n  infractl node approve 7f3a --name srv-prod2 --yes",
		ValidArgsFunction: firstOnly(a.completer(pendingEnrolments)),
	}
	c.Flags().StringVar(&name, "name", "", "the name it gets instead of the one that it asks for")
	return a.nodeAction(c, func(id string) string { return "Let machine " + id + " in?" },
		func(ctx context.Context, api v1.NodeServiceClient, id string) (proto.Message, string, error) {
			n, err := api.ApproveNode(ctx, &v1.ApproveNodeRequest{EnrolmentId: id, Name: name})
			return n, "approved as " + n.GetNode().GetName() + "; it enrols when it asks next, within 15 seconds while its agent runs", err
		})
}

func (a *app) nodeClearCmd() *cobra.Command {
	var hash string
	c := &cobra.Command{
		Use: "clear NODE", Short: "Forget known-bad content, so that it is tried again",
		Long: `Forget what is known to be bad on a node, so that the next apply tries it again. infractl node show NODE lists it with the
reason of each.`,
		Example: "  infractl node clear srv-prod",
	}
	c.Flags().StringVar(&hash, "hash", "", "only this content")
	return a.nodeAction(c, nil, func(ctx context.Context, api v1.NodeServiceClient, name string) (proto.Message, string, error) {
		r, err := api.ClearNode(ctx, &v1.ClearNodeRequest{Name: name, Hash: hash})
		if len(r.GetCleared()) == 0 {
			return r, "nothing was known to be bad on " + name, err
		}
		return r, num(uint64(len(r.GetCleared()))) + " known-bad content(s) of " + name + " forgotten; try again with: infractl apply", err
	})
}

func (a *app) nodeRevokeCmd() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "revoke NODE", Short: "Withdraw a node's identity for good and cut it off at once",
		Long: `Withdraw a node's identity for good and cut its stream at once. The host keeps its configuration, and nobody drives it any
more. For a machine that is stolen, copied, or gone.`,
		Example: "  infractl node revoke srv-prod --reason stolen",
	}
	c.Flags().StringVar(&reason, "reason", "", "kept in the audit log")
	return a.nodeAction(c, func(name string) string { return "Revoke the identity of " + name + " for good?" },
		func(ctx context.Context, api v1.NodeServiceClient, name string) (proto.Message, string, error) {
			r, err := api.RevokeNode(ctx, &v1.RevokeNodeRequest{Name: name, Reason: reason})
			return r, name + " is revoked; to let the name enrol again: infractl node forget " + name, err
		})
}

func (a *app) nodeForgetCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "forget NODE", Short: "Remove a revoked or pending node, so that its name can enrol again",
		Long:    "Remove a revoked node, or a pending enrolment by its id, so that the name can enrol again.",
		Example: "  infractl node forget srv-prod",
	}
	return a.nodeAction(c, func(name string) string { return "Forget " + name + "?" },
		func(ctx context.Context, api v1.NodeServiceClient, name string) (proto.Message, string, error) {
			r, err := api.ForgetNode(ctx, &v1.ForgetNodeRequest{Name: name})
			return r, name + " is forgotten", err
		})
}
