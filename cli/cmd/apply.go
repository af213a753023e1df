package cmd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// rolloutFlags are those of every command that starts a rollout.
type rolloutFlags struct {
	acceptRisks []string
	identity    string
	detach      bool
}

// riskNames are the risks that can be accepted by name. A lockout needs no acceptance: it reverts by itself.
func riskNames() []string { return []string{"data"} }

func (o *rolloutFlags) add(a *app, c *cobra.Command) {
	f := c.Flags()
	f.StringSliceVar(&o.acceptRisks, "accept-risk", nil, "accept a risk by name: "+strings.Join(riskNames(), ", "))
	f.BoolVar(&o.detach, "detach", false, "do not wait for the rollout")
	addIdentity(c, &o.identity)
	a.yesFlag(c)
	must(c.RegisterFlagCompletionFunc("accept-risk", cobra.FixedCompletions(riskNames(), cobra.ShellCompDirectiveNoFileComp)))
	exits(c, true, meaning{ExitOK, "every node has all of it, or there was nothing to do"},
		meaning{ExitFailed, "failed, refused, not confirmed, canceled, or superseded by a newer revision"},
		meaning{ExitSomeFailed, "some nodes are missing or degraded; they are taken up when they connect"},
		meaning{ExitRolledBack, "a commit failed: its node has its former state back, and the rollout halted"},
		meaning{ExitInterrupted, "interrupted; a rollout that was started goes on"})
}

// check refuses a plan whose risks were not accepted, and risks that do not exist.
func (o *rolloutFlags) check(plan *v1.PlanSiteResponse) error {
	for _, name := range o.acceptRisks {
		if !slices.Contains(riskNames(), name) {
			return errs.New(errs.Invalid, "there is no risk %q to accept", name).WithHint("risks: %s", strings.Join(riskNames(), ", "))
		}
	}
	if nodes := atRisk(plan, v1.Risk_RISK_DATA); len(nodes) > 0 && !slices.Contains(o.acceptRisks, "data") {
		return errs.New(errs.Precondition, "data could be lost on %s", strings.Join(nodes, ", ")).
			WithHint("read the plan; if that is what you want, add --accept-risk=data")
	}
	return nil
}

type applyOptions struct {
	files     siteFlags
	nodes     []string
	atConsole string
	rollout   rolloutFlags
}

func (a *app) applyCmd() *cobra.Command {
	var o applyOptions
	c := &cobra.Command{
		Use: "apply", Short: "Show the plan, ask, then bring every host to the site file in waves",
		Long: `Show the plan, ask, then bring every host to the site file in waves.

Every change that could lock somebody out is a commit: it is armed to revert by itself, and kept only when the node reaches
the server on a new connection and its witnesses report that every way in is open. Where a witness does not exist yet (the
first node of a site), this command takes its place: it opens the connection and the login from where it runs. It logs in with
a certificate of the server's; with your own SSH key where the host does not take that, and with a key named by --identity
alone. The audit log tells the two apart, as with infractl ssh.

With -o json or -o yaml the rollout is printed as it ended.`,
		Example: "  infractl apply -f site.yaml\n  infractl apply -f site.yaml --host srv-prod --yes\n  infractl apply -f site.yaml --detach -y -o json",
		Args:    arity(0, 0),
		RunE:    func(c *cobra.Command, _ []string) error { return a.runApply(c.Context(), &o) },
	}
	o.files.add(c)
	c.Flags().StringSliceVar(&o.nodes, "host", nil, "only these nodes")
	c.Flags().StringVar(&o.atConsole, "at-console", "", "you sit at this node's console: it needs no login witness (admin, audited)")
	o.rollout.add(a, c)
	a.completeNodes(c, "host", "at-console")
	return c
}

func (a *app) runApply(ctx context.Context, o *applyOptions) error {
	src, err := o.files.read()
	if err != nil {
		return err
	}
	if _, err := a.check(src); err != nil {
		return err
	}
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		api := v1.NewSiteServiceClient(conn)
		plan, err := api.PlanSite(ctx, &v1.PlanSiteRequest{Source: src, Nodes: o.nodes})
		if err != nil {
			return err
		}
		if done, err := a.agree(ctx, w, plan, &o.rollout, fmt.Sprintf("Apply to %d node(s)?", len(plan.GetNodes()))); done || err != nil {
			return err
		}
		started, err := api.ApplySite(ctx, &v1.ApplySiteRequest{Source: src, BaseRevision: plan.GetBaseRevision(), Nodes: o.nodes,
			AcceptRisks: o.rollout.acceptRisks, AtConsole: o.atConsole})
		if err != nil {
			return err
		}
		return a.follow(ctx, conn, w, started.GetRevision(), started.GetRolloutId(), &o.rollout)
	})
}

// agree shows a plan and asks; done says that there is nothing to do.
func (a *app) agree(ctx context.Context, w *output.Writer, plan *v1.PlanSiteResponse, o *rolloutFlags, question string) (done bool, err error) {
	if err := o.check(&v1.PlanSiteResponse{}); err != nil { // a risk that does not exist is a mistake whatever the plan says
		return false, err
	}
	if plan.GetSettled() {
		a.note("revision %d: all %d nodes are in sync, nothing to do", plan.GetBaseRevision(), len(plan.GetNodes()))
		return true, a.rolloutForPrograms(w, &v1.Rollout{Revision: plan.GetBaseRevision(), State: v1.RolloutState_ROLLOUT_STATE_SUCCEEDED})
	}
	a.serverFindings(plan)
	showPlan(a.printErr, plan)
	if err := o.check(plan); err != nil {
		return false, err
	}
	return false, a.confirm(ctx, question)
}

func (a *app) printErr(format string, args ...any) {
	fmt.Fprint(a.proc.Err, output.Clean(fmt.Sprintf(format, args...)))
}

// rolloutForPrograms writes a rollout in a machine format; people have seen it.
func (a *app) rolloutForPrograms(w *output.Writer, r *v1.Rollout) error {
	return w.Message(r, func() error { return nil })
}

// follow watches what was started, unless the operator does not want to wait.
func (a *app) follow(ctx context.Context, conn *grpc.ClientConn, w *output.Writer, revision uint64, id string, o *rolloutFlags) error {
	if id == "" {
		a.note("revision %d is stored; no node changes", revision)
		return a.rolloutForPrograms(w, &v1.Rollout{Revision: revision, State: v1.RolloutState_ROLLOUT_STATE_SUCCEEDED})
	}
	if o.detach {
		a.note("revision %d, rollout %s; follow it with: infractl operation watch %s", revision, id, id)
		return a.rolloutForPrograms(w, &v1.Rollout{Id: id, Revision: revision, State: v1.RolloutState_ROLLOUT_STATE_RUNNING})
	}
	return a.watchToEnd(ctx, conn, w, id, o.identity)
}

// watchToEnd watches a rollout, shows it as it ended, and turns that into the command's end.
func (a *app) watchToEnd(ctx context.Context, conn *grpc.ClientConn, w *output.Writer, id, identity string) error {
	last, err := a.watch(ctx, conn, id, identity)
	if err != nil {
		if last != nil || id != "" {
			id = orElse(last.GetId(), id)
			a.note("the rollout goes on without this command; follow it with: infractl operation watch %s", id)
		}
		return err
	}
	if err := a.rolloutForPrograms(w, last); err != nil {
		return err
	}
	return a.conclude(last)
}

// conclude says how a rollout ended and turns it into an exit code.
func (a *app) conclude(r *v1.Rollout) error {
	switch r.GetState() {
	case v1.RolloutState_ROLLOUT_STATE_SUCCEEDED:
		took := ""
		if r.GetStarted() != nil && r.GetEnded() != nil {
			took = fmt.Sprintf(", %.1f s", r.GetEnded().AsTime().Sub(r.GetStarted().AsTime()).Seconds())
		}
		if len(r.GetNodes()) == 0 {
			a.note("no node needed anything")
			return nil
		}
		a.note("revision %d is on all %d nodes%s", r.GetRevision(), len(r.GetNodes()), took)
		return nil
	case v1.RolloutState_ROLLOUT_STATE_HALTED:
		a.unfinished(r)
		return errs.New(errs.RolledBack, "rollout %s halted: %s", r.GetId(), orElse(r.GetReason(), "a node failed")).
			WithHint("correct the site file and apply again; or mend the node, infractl node clear NODE, and infractl operation retry %s", r.GetId())
	case v1.RolloutState_ROLLOUT_STATE_CANCELED, v1.RolloutState_ROLLOUT_STATE_SUPERSEDED:
		text := fmt.Sprintf("rollout %s was %s", r.GetId(), rolloutState(r.GetState()))
		if r.GetReason() != "" {
			text += ": " + r.GetReason()
		}
		a.note("%s", text)
		return exitError{ExitFailed, text}
	}
	a.unfinished(r)
	text := fmt.Sprintf("rollout %s is incomplete: some nodes are missing or degraded; missing ones are taken up when they connect", r.GetId())
	a.note("%s", text)
	return exitError{ExitSomeFailed, text}
}

// unfinished lists the nodes that have not all of a rollout.
func (a *app) unfinished(r *v1.Rollout) {
	for _, n := range r.GetNodes() {
		if n.GetState() != v1.NodeRolloutState_NODE_ROLLOUT_STATE_DONE {
			a.note("%s: %s: %s", n.GetNode(), nodeRollout(n.GetState()), dash(nodeText(n)))
			if hint := n.GetError().GetHint(); hint != "" {
				a.note("    hint: %s", hint)
			}
		}
	}
}

func (a *app) rollbackCmd() *cobra.Command {
	var o rolloutFlags
	c := &cobra.Command{
		Use: "rollback REVISION", Short: "Make an old revision the newest one and apply it",
		Long: `Make the files of an old revision the newest revision, show the plan, ask, and apply it in waves like any other. Resources
(instances, secrets, operators) are not touched.`,
		Example:           "  infractl site rollback 3",
		Args:              arity(1, 1),
		ValidArgsFunction: firstOnly(a.completer(revisionNumbers)),
		RunE: func(c *cobra.Command, args []string) error {
			number, err := parseRevision(args[0])
			if err != nil {
				return err
			}
			return a.runRollback(c.Context(), number, &o)
		},
	}
	o.add(a, c)
	return c
}

func (a *app) runRollback(ctx context.Context, number uint64, o *rolloutFlags) error {
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
		if done, err := a.agree(ctx, w, plan, o, fmt.Sprintf("Roll back to revision %d?", number)); done || err != nil {
			return err
		}
		started, err := api.RollbackSite(ctx, &v1.RollbackSiteRequest{Number: number, BaseRevision: plan.GetBaseRevision(),
			AcceptRisks: o.acceptRisks})
		if err != nil {
			return err
		}
		return a.follow(ctx, conn, w, started.GetRevision(), started.GetRolloutId(), o)
	})
}
