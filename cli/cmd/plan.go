package cmd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) planCmd() *cobra.Command {
	var files siteFlags
	var nodes []string
	c := &cobra.Command{
		Use: "plan", Short: "Show what apply would change, from a fresh look at every host",
		Long: `Show what apply would change, from a fresh look at every host, in the order of the waves. Nothing is changed and nothing is
stored. The site file is validated here first: with an error in it, no server and no host hears of it.`,
		Example: "  infractl plan -f site.yaml\n  infractl plan --host srv-prod -o json",
		Args:    arity(0, 0),
		RunE:    func(c *cobra.Command, _ []string) error { return a.runPlan(c.Context(), &files, nodes) },
	}
	files.add(c)
	c.Flags().StringSliceVar(&nodes, "host", nil, "only these nodes")
	a.completeNodes(c, "host")
	exits(c, true, meaning{ExitOK, "the plan is shown, with or without changes"},
		meaning{ExitSomeFailed, "the plan is shown, but some nodes could not be looked at"})
	return c
}

func (a *app) runPlan(ctx context.Context, files *siteFlags, nodes []string) error {
	src, err := files.read()
	if err != nil {
		return err
	}
	if _, err := a.check(src); err != nil {
		return err
	}
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		plan, err := v1.NewSiteServiceClient(conn).PlanSite(ctx, &v1.PlanSiteRequest{Source: src, Nodes: nodes})
		if err != nil {
			return err
		}
		a.serverFindings(plan)
		if err := w.Message(plan, func() error { showPlan(w.Printf, plan); return nil }); err != nil {
			return err
		}
		if unseen := unseenNodes(plan); len(unseen) > 0 {
			return exitError{ExitSomeFailed, "no look at " + strings.Join(unseen, ", ")}
		}
		return nil
	})
}

// unseenNodes are the nodes of a plan that could not be looked at.
func unseenNodes(plan *v1.PlanSiteResponse) []string {
	var names []string
	for _, n := range plan.GetNodes() {
		if !n.GetReachable() || n.GetError() != "" {
			names = append(names, n.GetNode())
		}
	}
	return names
}

// showPlan prints a plan for people.
func showPlan(printf func(string, ...any), plan *v1.PlanSiteResponse) {
	if plan.GetSettled() {
		printf("revision %d: all %d nodes are in sync\n", plan.GetBaseRevision(), len(plan.GetNodes()))
		return
	}
	changed := 0
	for _, n := range plan.GetNodes() {
		switch {
		case !n.GetReachable():
			printf("%s: not reachable; it will be taken up when it connects\n", n.GetNode())
		case n.GetError() != "":
			printf("%s: cannot plan: %s\n", n.GetNode(), n.GetError())
		case len(n.GetChanges()) == 0:
			printf("%s: in sync\n", n.GetNode())
		default:
			changed++
			printf("%s: %d change(s), risk %s\n", n.GetNode(), len(n.GetChanges()), risk(n.GetRisk()))
			showChanges(printf, n.GetChanges())
		}
	}
	if changed == 0 {
		return
	}
	printf("\nwaves:")
	for _, wave := range plan.GetWaves() {
		printf(" %d [%s]", wave.GetNumber(), strings.Join(wave.GetNodes(), " "))
	}
	printf("\n")
	showBounds(printf, plan.GetWaves())
	if len(atRisk(plan, v1.Risk_RISK_LOCKOUT)) > 0 {
		printf("risk lockout: each of these commits reverts by itself unless the server and its witnesses confirm that every way is open\n")
	}
	if nodes := atRisk(plan, v1.Risk_RISK_DATA); len(nodes) > 0 {
		printf("risk data: data could be lost on %s\n", strings.Join(nodes, ", "))
	}
}

// atRisk are the nodes of a plan that have a change of this risk.
func atRisk(plan *v1.PlanSiteResponse, r v1.Risk) []string {
	var names []string
	for _, n := range plan.GetNodes() {
		if n.GetRisk() == r || slices.ContainsFunc(n.GetChanges(), func(c *v1.Change) bool { return c.GetRisk() == r }) {
			names = append(names, n.GetNode())
		}
	}
	return names
}

// maxLines is how many lines of one change people are shown; the whole is in -o json.
const maxLines = 40

func showChanges(printf func(string, ...any), changes []*v1.Change) {
	for _, c := range changes {
		sign := map[v1.ChangeAction]string{v1.ChangeAction_CHANGE_ACTION_CREATE: "+", v1.ChangeAction_CHANGE_ACTION_DELETE: "-"}[c.GetAction()]
		if sign == "" {
			sign = "~"
		}
		printf("  %s %s: %s\n", sign, c.GetProvider(), c.GetSubject())
		for i, line := range append(prefixed("- ", c.GetBefore()), prefixed("+ ", c.GetAfter())...) {
			if i == maxLines {
				printf("      ... %d more lines\n", len(c.GetBefore())+len(c.GetAfter())-maxLines)
				break
			}
			printf("      %s\n", line)
		}
	}
}

func prefixed(prefix string, lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = prefix + l
	}
	return out
}

func (a *app) diffCmd() *cobra.Command {
	var nodes []string
	c := &cobra.Command{
		Use: "diff", Short: "Compare every host with the current revision; exit code 4 on drift",
		Long: `Compare every host, from a fresh look at it, with the current revision, and show what differs: changes made by hand, or
something that an apply has not reached yet. To mend it: infractl apply.`,
		Example: "  infractl diff\n  infractl diff --host srv-prod",
		Args:    arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				plan, err := v1.NewSiteServiceClient(conn).PlanSite(ctx, &v1.PlanSiteRequest{Nodes: nodes})
				if err != nil {
					return err
				}
				if err := w.Message(plan, func() error { return showDiff(w, plan) }); err != nil {
					return err
				}
				return diffExit(plan)
			})
		},
	}
	c.Flags().StringSliceVar(&nodes, "host", nil, "only these nodes")
	a.completeNodes(c, "host")
	exits(c, true, meaning{ExitOK, "every node is in sync"}, meaning{ExitSomeFailed, "no drift was seen, but some nodes could not be looked at"},
		meaning{ExitDrift, "some nodes have drifted"})
	return c
}

func showDiff(w *output.Writer, plan *v1.PlanSiteResponse) error {
	for _, n := range plan.GetNodes() {
		state := "in sync"
		switch {
		case !n.GetReachable():
			state = "not reachable"
		case n.GetError() != "":
			state = "cannot look: " + n.GetError()
		case len(n.GetChanges()) > 0:
			state = fmt.Sprintf("drift: %d change(s)", len(n.GetChanges()))
		}
		w.Printf("%s: %s\n", n.GetNode(), state)
		showChanges(w.Printf, n.GetChanges())
	}
	return nil
}

// diffExit is 0 when all is in sync, 4 on drift, and 3 when a node could not be looked at and no other has drifted.
func diffExit(plan *v1.PlanSiteResponse) error {
	var drifted []string
	for _, n := range plan.GetNodes() {
		if len(n.GetChanges()) > 0 {
			drifted = append(drifted, n.GetNode())
		}
	}
	if len(drifted) > 0 {
		return exitError{ExitDrift, "drift on " + strings.Join(drifted, ", ")}
	}
	if unseen := unseenNodes(plan); len(unseen) > 0 {
		return exitError{ExitSomeFailed, "no look at " + strings.Join(unseen, ", ")}
	}
	return nil
}

// showBounds says how long waves are watched, and what roles may change at once beside the limit of the wave.
func showBounds(printf func(string, ...any), waves []*v1.Wave) {
	var soak time.Duration
	budgets := map[string]uint32{}
	for _, w := range waves {
		soak = max(soak, w.GetSoak().AsDuration())
		maps.Copy(budgets, w.GetBudgets())
	}
	if soak > 0 {
		printf("soak: each wave is watched for %s before the next one begins\n", soak)
	}
	for _, role := range slices.Sorted(maps.Keys(budgets)) {
		printf("budget: %d of role %s at once\n", budgets[role], role)
	}
}
