package cmd

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func num(n uint64) string { return strconv.FormatUint(n, 10) }

func (a *app) planCmd() *cobra.Command {
	var files siteFlags
	var nodes []string
	c := &cobra.Command{
		Use: "plan", Short: "Show what apply would change, from a fresh look at every host",
		Example: "  infractl plan -f site.yaml\n  infractl plan --host srv-prod -o json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			src, err := files.read()
			if err != nil {
				return err
			}
			if _, err := a.check(src, true); err != nil {
				return err
			}
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				plan, err := v1.NewSiteServiceClient(conn).PlanSite(ctx, &v1.PlanSiteRequest{Source: src, Nodes: nodes})
				if err != nil {
					return err
				}
				return w.Message(plan, func() error { return a.showPlan(w.Printf, plan) })
			})
		},
	}
	files.add(c)
	c.Flags().StringSliceVar(&nodes, "host", nil, "only these nodes")
	a.completeNodes(c, "host")
	return c
}

// showPlan prints a plan for people.
func (a *app) showPlan(printf func(string, ...any), plan *v1.PlanSiteResponse) error {
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
		return nil
	}
	printf("\nwaves:")
	for _, wave := range plan.GetWaves() {
		printf(" %d [%s]", wave.GetNumber(), strings.Join(wave.GetNodes(), " "))
	}
	printf("\n")
	if hasLockout(plan) {
		printf("risk lockout: each of these commits reverts by itself unless the server and its witnesses confirm that every way is open\n")
	}
	return nil
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

func hasLockout(plan *v1.PlanSiteResponse) bool {
	for _, n := range plan.GetNodes() {
		if n.GetRisk() == v1.Risk_RISK_LOCKOUT {
			return true
		}
	}
	return false
}

func (a *app) diffCmd() *cobra.Command {
	var nodes []string
	c := &cobra.Command{
		Use: "diff", Short: "Compare every host with the current revision; exit code 4 on drift",
		Example: "  infractl diff\n  infractl diff --host srv-prod",
		Args:    cobra.NoArgs,
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
	unseen := false
	for _, n := range plan.GetNodes() {
		if len(n.GetChanges()) > 0 {
			return exitError{ExitDrift}
		}
		unseen = unseen || !n.GetReachable() || n.GetError() != ""
	}
	if unseen {
		return exitError{ExitSomeFailed}
	}
	return nil
}
