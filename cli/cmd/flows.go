package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) flowsCmd() *cobra.Command {
	var files siteFlags
	var node string
	c := &cobra.Command{
		Use: "flows", Short: "Print who may talk to whom, with the reason of each line",
		Long: `Print the matrix of who may talk to whom, with the reason of each line; everything that is not in it is dropped.
With -f the matrix of a file is shown without a server.`,
		Example: "  infractl flows\n  infractl flows --host srv-prod\n  infractl flows -f site.yaml\n  infractl flows check",
		Args:    arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("file") || c.Flags().Changed("overlay") {
				return a.flowsOffline(files, node)
			}
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewFlowServiceClient(conn).ListFlows(ctx, &v1.ListFlowsRequest{Node: node})
				if err != nil {
					return err
				}
				return w.Message(list, func() error { return showFlows(w, list.GetFlows()) })
			})
		},
	}
	files.add(c)
	c.Flags().StringVar(&node, "host", "", "only the lines that concern this node")
	a.completeNodes(c, "host")
	c.AddCommand(a.flowsCheckCmd())
	return c
}

func (a *app) flowsOffline(files siteFlags, node string) error {
	w, err := a.writer()
	if err != nil {
		return err
	}
	src, err := files.read()
	if err != nil {
		return err
	}
	s, err := a.check(src)
	if err != nil {
		return err
	}
	member, ok := s.Node(node)
	if node != "" && !ok {
		return errs.New(errs.NotFound, "no node %q in %s", node, src.GetFile()).WithHint("nodes: %s", strings.Join(s.NodeNames(), ", "))
	}
	list := &v1.ListFlowsResponse{}
	for _, f := range s.Flows() {
		if node == "" || concerns(f, member) {
			list.Flows = append(list.Flows, f.ToProto())
		}
	}
	return w.Message(list, func() error { return showFlows(w, list.GetFlows()) })
}

// concerns reports whether a line of the matrix names the node, its role, one of its networks, or everybody.
func concerns(f site.Flow, n *site.Node) bool {
	named := func(principal string) bool {
		return principal == n.Name || principal == n.Role || principal == "all" ||
			slices.ContainsFunc(n.Interfaces, func(i site.Interface) bool { return i.Network == principal })
	}
	return named(f.From) || named(f.To)
}

func showFlows(w *output.Writer, flows []*v1.Flow) error {
	var rows [][]string
	for _, f := range flows {
		rows = append(rows, []string{f.GetName(), f.GetFrom(), f.GetTo(), strings.Join(f.GetPorts(), " "), f.GetReason()})
	}
	return w.Rows([]string{"FLOW", "FROM", "TO", "PORTS", "REASON"}, rows)
}

func (a *app) flowsCheckCmd() *cobra.Command {
	var nodes []string
	c := &cobra.Command{
		Use: "check", Short: "Prove the matrix: open real connections between nodes and compare",
		Long:    "Prove the matrix with real connections between nodes and probes: those that must open, and those that must not.",
		Example: "  infractl flows check\n  infractl flows check --host srv-prod", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				check, err := a.runFlowsCheck(ctx, conn, nodes)
				if err != nil {
					return err
				}
				if err := w.Message(check, func() error { return showCheck(w, check) }); err != nil {
					return err
				}
				return checkExit(check)
			})
		},
	}
	exits(c, true, meaning{ExitOK, "every way is as the matrix says"}, meaning{ExitFailed, "a way differs from the matrix, or the check failed"},
		meaning{ExitSomeFailed, "no way differs, but some could not be looked at"})
	c.Flags().StringSliceVar(&nodes, "host", nil, "only ways from or to these nodes")
	a.completeNodes(c, "host")
	return c
}

func (a *app) runFlowsCheck(ctx context.Context, conn *grpc.ClientConn, nodes []string) (*v1.FlowCheck, error) {
	stream, err := v1.NewFlowServiceClient(conn).CheckFlows(ctx, &v1.CheckFlowsRequest{Nodes: nodes})
	if err != nil {
		return nil, err
	}
	live := isTerminal(a.proc.Err) && os.Getenv("TERM") != "dumb"
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errs.New(errs.Unavailable, "the server ended the check before its result")
		}
		if err != nil {
			return nil, err
		}
		if live {
			fmt.Fprintf(a.proc.Err, "\r\x1b[2K%d of %d ways looked at", m.GetDone(), m.GetTotal())
		}
		if m.GetResult() != nil {
			if live {
				fmt.Fprint(a.proc.Err, "\r\x1b[2K")
			}
			return m.GetResult(), nil
		}
	}
}

func checkExit(c *v1.FlowCheck) error {
	if n := len(c.GetViolations()); n > 0 {
		return exitError{ExitFailed, fmt.Sprintf("%d way(s) differ from the matrix", n)}
	}
	if n := len(c.GetUnseen()); n > 0 {
		return exitError{ExitSomeFailed, fmt.Sprintf("%d way(s) could not be looked at", n)}
	}
	return nil
}

func showCheck(w *output.Writer, c *v1.FlowCheck) error {
	w.Printf("%d ways open as they should be, %d closed as they should be, %d wrong, %d not seen\n", c.GetOpenAsWanted(),
		c.GetClosedAsWanted(), len(c.GetViolations()), len(c.GetUnseen()))
	table := func(title string, list []*v1.FlowObservation) error {
		if len(list) == 0 {
			return nil
		}
		w.Printf("\n%s:\n", title)
		var rows [][]string
		for _, o := range list {
			wanted := "closed"
			if o.GetWanted() {
				wanted = "open"
			}
			rows = append(rows, []string{o.GetFrom(), o.GetTo(), o.GetAddress(), o.GetPort(), wanted, word(o.GetSeen(), "PROBE_OUTCOME_"), dash(o.GetDetail())})
		}
		return w.Rows([]string{"FROM", "TO", "ADDRESS", "PORT", "WANTED", "SEEN", "DETAIL"}, rows)
	}
	if err := table("wrong", c.GetViolations()); err != nil {
		return err
	}
	if err := table("not seen", c.GetUnseen()); err != nil {
		return err
	}
	for _, n := range c.GetNotes() {
		w.Printf("note: %s\n", n)
	}
	return nil
}
