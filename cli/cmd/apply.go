package cmd

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

type applyOptions struct {
	files       siteFlags
	nodes       []string
	acceptRisks []string
	atConsole   string
	identity    string
	detach      bool
}

func (a *app) applyCmd() *cobra.Command {
	var o applyOptions
	c := &cobra.Command{
		Use: "apply", Short: "Show the plan, ask, then bring every host to the site file in waves",
		Long: `Show the plan, ask, then bring every host to the site file in waves.

Every change that could lock somebody out is a commit: it is armed to revert by itself, and kept only when the node reaches
the server on a new connection and its witnesses report that every way in is open. Where a witness does not exist yet (the
first node of a site), this command takes its place: it opens the connection and the login from where it runs.

Exit codes: 0 done or nothing to do, 3 some nodes are missing or degraded, 12 a commit failed and was rolled back.`,
		Example: "  infractl apply -f site.yaml\n  infractl apply -f site.yaml --host srv-prod --yes",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return a.runApply(c.Context(), o) },
	}
	o.files.add(c)
	f := c.Flags()
	f.StringSliceVar(&o.nodes, "host", nil, "only these nodes")
	f.StringSliceVar(&o.acceptRisks, "accept-risk", nil, "accept a risk by name: data")
	f.StringVar(&o.atConsole, "at-console", "", "you sit at this node's console: it needs no login witness (admin, audited)")
	f.StringVar(&o.identity, "identity", "", "private SSH key for logins as a witness (default: ssh-agent, then ~/.ssh)")
	f.BoolVar(&o.detach, "detach", false, "do not wait for the rollout")
	a.yesFlag(c)
	a.completeNodes(c, "host")
	return c
}

func (a *app) runApply(ctx context.Context, o applyOptions) error {
	src, err := o.files.read()
	if err != nil {
		return err
	}
	if _, err := a.check(src, true); err != nil {
		return err
	}
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		api := v1.NewSiteServiceClient(conn)
		plan, err := api.PlanSite(ctx, &v1.PlanSiteRequest{Source: src, Nodes: o.nodes})
		if err != nil {
			return err
		}
		if plan.GetSettled() {
			a.note("revision %d: all %d nodes in sync, nothing to do", plan.GetBaseRevision(), len(plan.GetNodes()))
			return nil
		}
		if err := a.showPlan(a.printErr, plan); err != nil {
			return err
		}
		if err := a.confirm(fmt.Sprintf("Apply to %d node(s)?", len(plan.GetNodes()))); err != nil {
			return err
		}
		started, err := api.ApplySite(ctx, &v1.ApplySiteRequest{Source: src, BaseRevision: plan.GetBaseRevision(), Nodes: o.nodes,
			AcceptRisks: o.acceptRisks, AtConsole: o.atConsole})
		if err != nil {
			return err
		}
		return a.follow(ctx, conn, w, started.GetRevision(), started.GetRolloutId(), o)
	})
}

func (a *app) printErr(format string, args ...any) { fmt.Fprintf(a.streams.Err, format, args...) }

// follow watches what was started, unless the operator does not want to wait.
func (a *app) follow(ctx context.Context, conn *grpc.ClientConn, w *output.Writer, revision uint64, id string, o applyOptions) error {
	if id == "" {
		a.note("revision %d stored; no node changes", revision)
		return nil
	}
	if o.detach {
		a.note("revision %d, rollout %s; follow it with: infractl rollout watch %s", revision, id, id)
		return nil
	}
	last, err := a.watch(ctx, conn, id, o.identity)
	if err != nil {
		if ctx.Err() != nil {
			a.note("rollout %s goes on without this command; follow it with: infractl rollout watch %s", id, id)
		}
		return err
	}
	if err := w.Message(last, func() error { return nil }); err != nil {
		return err
	}
	return a.conclude(last)
}

// conclude says how a rollout ended and turns it into an exit code.
func (a *app) conclude(r *v1.Rollout) error {
	took := r.GetEnded().AsTime().Sub(r.GetStarted().AsTime())
	switch r.GetState() {
	case v1.RolloutState_ROLLOUT_STATE_SUCCEEDED:
		a.note("revision %d is on all %d nodes, %.1f s", r.GetRevision(), len(r.GetNodes()), took.Seconds())
		return nil
	case v1.RolloutState_ROLLOUT_STATE_HALTED:
		a.nodeErrors(r)
		return errs.New(errs.RolledBack, "rollout %s halted: %s", r.GetId(), r.GetReason()).
			WithHint("correct the site file and apply again; what failed is remembered: infractl node show NODE, infractl node clear NODE")
	case v1.RolloutState_ROLLOUT_STATE_CANCELED, v1.RolloutState_ROLLOUT_STATE_SUPERSEDED:
		a.note("rollout %s: %s", r.GetId(), rolloutState(r.GetState()))
		return exitError{ExitFailed}
	}
	a.nodeErrors(r)
	a.note("rollout %s: some nodes are missing; they are taken up when they connect", r.GetId())
	return exitError{ExitSomeFailed}
}

func (a *app) nodeErrors(r *v1.Rollout) {
	for _, n := range r.GetNodes() {
		if n.GetState() == v1.NodeRolloutState_NODE_ROLLOUT_STATE_DONE {
			continue
		}
		text := n.GetMessage()
		if n.GetError() != nil {
			text = n.GetError().GetMessage()
		}
		a.note("%s: %s: %s", n.GetNode(), nodeRollout(n.GetState()), dash(text))
	}
}

func (a *app) rollbackCmd() *cobra.Command {
	var o applyOptions
	c := &cobra.Command{
		Use: "rollback REVISION", Short: "Make an old revision the newest one and apply it",
		Example: "  infractl site rollback 3",
		Args:    exactArgs(1, "infractl site rollback 3"),
		RunE: func(c *cobra.Command, args []string) error {
			var number uint64
			if _, err := fmt.Sscan(args[0], &number); err != nil || number == 0 {
				return errs.New(errs.Invalid, "%q is no revision number", args[0]).WithHint("infractl site history lists them")
			}
			return a.runRollback(c.Context(), number, o)
		},
	}
	c.Flags().BoolVar(&o.detach, "detach", false, "do not wait for the rollout")
	a.yesFlag(c)
	return c
}

func (a *app) runRollback(ctx context.Context, number uint64, o applyOptions) error {
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		api := v1.NewSiteServiceClient(conn)
		old, err := api.GetRevision(ctx, &v1.GetRevisionRequest{Number: number})
		if err != nil {
			return err
		}
		plan, err := api.PlanSite(ctx, &v1.PlanSiteRequest{Source: old.GetSource()})
		if err != nil {
			return err
		}
		if err := a.showPlan(a.printErr, plan); err != nil {
			return err
		}
		if err := a.confirm(fmt.Sprintf("Roll back to revision %d?", number)); err != nil {
			return err
		}
		started, err := api.RollbackSite(ctx, &v1.RollbackSiteRequest{Number: number, BaseRevision: plan.GetBaseRevision()})
		if err != nil {
			return err
		}
		return a.follow(ctx, conn, w, started.GetRevision(), started.GetRolloutId(), o)
	})
}
