package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) rolloutCmd() *cobra.Command {
	c := &cobra.Command{Use: "rollout", Short: "List, show, watch and cancel rollouts"}
	c.AddCommand(a.rolloutListCmd(), a.rolloutShowCmd(), a.rolloutWatchCmd(), a.rolloutCancelCmd())
	return c
}

func (a *app) rolloutListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List rollouts", Example: "  infractl rollout list", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewRolloutServiceClient(conn).ListRollouts(ctx, &v1.ListRolloutsRequest{})
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
}

func firstArg(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func (a *app) rolloutShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show [ROLLOUT]", Short: "Show a rollout, the newest unless named", Example: "  infractl rollout show", Args: cobra.MaximumNArgs(1),
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
		text := n.GetMessage()
		if n.GetError() != nil {
			text = n.GetError().GetMessage()
		}
		rows = append(rows, []string{n.GetNode(), num(uint64(n.GetWave())), nodeRollout(n.GetState()), num(uint64(n.GetChanges())), dash(text)})
	}
	return w.Rows([]string{"NODE", "WAVE", "STATE", "CHANGES", "MESSAGE"}, rows)
}

func (a *app) rolloutWatchCmd() *cobra.Command {
	var identity string
	c := &cobra.Command{
		Use: "watch [ROLLOUT]", Short: "Follow a rollout to its end, the newest unless named", Example: "  infractl rollout watch", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				last, err := a.watch(ctx, conn, firstArg(args), identity)
				if err != nil {
					return err
				}
				if err := w.Message(last, func() error { return nil }); err != nil {
					return err
				}
				return a.conclude(last)
			})
		},
	}
	c.Flags().StringVar(&identity, "identity", "", "private SSH key for logins as a witness")
	return c
}

func (a *app) rolloutCancelCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "cancel ROLLOUT", Short: "Stop a rollout before its next node", Example: "  infractl rollout cancel r-12",
		Args: exactArgs(1, "infractl rollout cancel r-12"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm("Cancel rollout " + args[0] + "?"); err != nil {
				return err
			}
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, _ *output.Writer) error {
				_, err := v1.NewRolloutServiceClient(conn).CancelRollout(ctx, &v1.CancelRolloutRequest{Id: args[0]})
				return err
			})
		},
	}
	a.yesFlag(c)
	return c
}

// watch follows a rollout to its end, shows each change once, and takes a witness's place when the server asks for it.
func (a *app) watch(ctx context.Context, conn *grpc.ClientConn, id, identity string) (*v1.Rollout, error) {
	stream, err := v1.NewRolloutServiceClient(conn).WatchRollout(ctx, &v1.WatchRolloutRequest{Id: id})
	if err != nil {
		return nil, err
	}
	show := newProgress(a)
	var last *v1.Rollout
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if last == nil {
				return nil, errs.New(errs.Unavailable, "the server ended the watch before it began")
			}
			return last, nil
		}
		if err != nil {
			return last, err
		}
		if r := m.GetRollout(); r != nil {
			last = r
			show.update(r)
		}
		if req := m.GetWitnessRequest(); req != nil {
			go a.witness(ctx, conn, req, identity)
		}
	}
}

// progress shows a rollout: on a terminal as a table that is drawn over itself, elsewhere one line per change of a node.
type progress struct {
	a     *app
	live  bool
	lines int
	seen  map[string]string
}

func newProgress(a *app) *progress {
	return &progress{a: a, live: isTerminal(a.streams.Err), seen: map[string]string{}}
}

func (p *progress) update(r *v1.Rollout) {
	if !p.live {
		for _, n := range r.GetNodes() {
			if line := progressLine(n); p.seen[n.GetNode()] != line && n.GetState() > v1.NodeRolloutState_NODE_ROLLOUT_STATE_QUEUED {
				p.seen[n.GetNode()] = line
				p.a.note("%s", line)
			}
		}
		return
	}
	var b strings.Builder
	if p.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.lines)
	}
	limit := max(20, width(p.a.streams.Err)-1)
	for _, n := range r.GetNodes() {
		line := []rune(progressLine(n))
		fmt.Fprintf(&b, "\x1b[2K%s\n", string(line[:min(len(line), limit)]))
	}
	p.lines = len(r.GetNodes())
	fmt.Fprint(p.a.streams.Err, b.String())
}

func progressLine(n *v1.NodeRollout) string {
	text := n.GetMessage()
	if n.GetError() != nil {
		text = n.GetError().GetMessage()
	}
	what := nodeRollout(n.GetState())
	if n.GetPhase() != 0 && (n.GetState() == v1.NodeRolloutState_NODE_ROLLOUT_STATE_WIDENING || n.GetState() == v1.NodeRolloutState_NODE_ROLLOUT_STATE_NARROWING) {
		what += " (" + phase(n.GetPhase()) + ")"
	}
	return strings.TrimRight(fmt.Sprintf("wave %d  %-18s %-28s %s", n.GetWave(), n.GetNode(), what, text), " ")
}
