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

func (a *app) instanceAuditCmd() *cobra.Command {
	var req v1.AuditInstancesRequest
	c := &cobra.Command{
		Use: "audit", Short: "Compare records with reality, both ways; exit code 4 when they differ",
		Long: `Compare what is recorded of instances with what is there, both ways: containers, volumes, networks, folders and fronts of the hosts,
proxy hosts, names and certificates as they are served. "missing" is recorded and not there, "orphan" is there and not recorded. Nothing is changed. The
server does the same once a day.`,
		Example: "  infractl instance audit\n  infractl instance audit --node srv-prod -o json", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				res, err := v1.NewInstanceServiceClient(conn).AuditInstances(ctx, &req)
				if err != nil {
					return err
				}
				if err := w.Message(res, func() error { return a.showAudit(w, res) }); err != nil {
					return err
				}
				if n := len(res.GetFindings()); n > 0 {
					return exitError{ExitDrift, fmt.Sprintf("%d differences between records and reality", n)}
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&req.Node, "node", "", "only one host")
	a.completeNodes(c, "node")
	exits(c, true, meaning{ExitOK, "records and reality agree"}, meaning{ExitDrift, "they differ"})
	return c
}

func (a *app) showAudit(w *output.Writer, res *v1.AuditInstancesResponse) error {
	if len(res.GetFindings()) == 0 {
		a.note("records and reality agree: %d things compared", res.GetCompared())
		return nil
	}
	var rows [][]string
	for _, f := range res.GetFindings() {
		rows = append(rows, []string{f.GetKind(), f.GetWhat(), dash(f.GetName()), dash(f.GetInstance()), dash(f.GetNode())})
	}
	if err := w.Rows([]string{"KIND", "WHAT", "NAME", "INSTANCE", "NODE"}, rows); err != nil {
		return err
	}
	for _, f := range res.GetFindings() {
		if f.GetMessage() != "" {
			a.note("%s %s: %s", f.GetWhat(), f.GetName(), f.GetMessage())
		}
		if f.GetHint() != "" {
			a.note("    hint: %s", f.GetHint())
		}
	}
	a.note("%d differences in %d things compared", len(res.GetFindings()), res.GetCompared())
	return nil
}

func (a *app) instanceImportCmd() *cobra.Command {
	var all, detach bool
	c := &cobra.Command{
		Use: "import NODE [NAME...]", Short: "Show what the original scripts left on a host, and adopt it",
		Long: `Show the instances on a host that infractl did not make, such as those of the original scripts, what of each was found, what a person
must see to, and what an adoption would do. Nothing is changed by that. With names, or with --all, those that are ready are adopted: from
then on they are instances like others, and people reach them through the front of their host. Their containers, networks, data and .env
stay exactly as they are: none is made, changed or restarted. What fails undoes all of it.

infractl starts and stops such containers, and brings back one that dies; one that is gone altogether only its compose file makes again.
infractl instance delete NAME --disown lets go of one and leaves it as it is.`,
		Example: "  infractl instance import srv-prod\n  infractl instance import srv-prod dupont martin\n  infractl instance import srv-prod --all",
		Args: func(c *cobra.Command, args []string) error {
			if all && len(args) > 1 {
				return errs.New(errs.Invalid, "name instances or say --all, not both")
			}
			return arity(1, 1000)(c, args)
		},
		ValidArgsFunction: firstOnly(a.completer(nodeNames)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.runImport(c.Context(), args[0], args[1:], all, detach)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "adopt all that are ready")
	c.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	a.yesFlag(c)
	stepExits(c)
	return c
}

func (a *app) runImport(ctx context.Context, node string, names []string, all, detach bool) error {
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		api := v1.NewInstanceServiceClient(conn)
		found, err := api.ImportInstances(ctx, &v1.ImportInstancesRequest{Node: node})
		if err != nil {
			return err
		}
		if all {
			for _, c := range found.GetCandidates() {
				if c.GetReady() {
					names = append(names, c.GetName())
				}
			}
		}
		if len(names) == 0 {
			return w.Message(found, func() error { return a.showCandidates(w, node, found.GetCandidates()) })
		}
		a.showAdoption(found.GetCandidates(), names)
		question := fmt.Sprintf("Adopt %s on %s? infractl starts, stops and serves them from then on; their containers and data stay as they are.",
			strings.Join(names, ", "), node)
		if err := a.confirm(ctx, question); err != nil {
			return err
		}
		res, err := api.ImportInstances(ctx, &v1.ImportInstancesRequest{Node: node, Names: names})
		if err != nil {
			return err
		}
		if detach {
			a.startedSteps(res.GetOperationId())
		} else if err := a.finishSteps(ctx, conn, res.GetOperationId()); err != nil {
			return err
		}
		return w.Message(res, func() error { a.note("next: infractl instance list"); return nil })
	})
}

func (a *app) showCandidates(w *output.Writer, node string, list []*v1.ImportCandidate) error {
	if len(list) == 0 {
		a.note("%s has no instance that infractl did not make", node)
		return nil
	}
	var rows [][]string
	for _, c := range list {
		state := "not ready"
		if c.GetReady() {
			state = "ready"
		}
		count := map[string]int{}
		for _, p := range c.GetParts() {
			count[p.GetKind()]++
		}
		var parts []string
		for _, kind := range []string{"container", "volume", "network", "folder", "front"} {
			if count[kind] > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", count[kind], kind))
			}
		}
		rows = append(rows, []string{c.GetName(), state, dash(c.GetVersion()), strings.Join(parts, ", ")})
	}
	if err := w.Rows([]string{"INSTANCE", "STATE", "VERSION", "FOUND"}, rows); err != nil {
		return err
	}
	var names []string
	for _, c := range list {
		names = append(names, c.GetName())
	}
	a.showAdoption(list, names)
	a.note("next: infractl instance import %s NAME..., or --all; nothing was changed", node)
	return nil
}

// showAdoption says of candidates what an adoption does, and what a person must see to.
func (a *app) showAdoption(list []*v1.ImportCandidate, names []string) {
	for _, c := range list {
		if !slices.Contains(names, c.GetName()) {
			continue
		}
		for _, step := range c.GetPlan() {
			a.note("%s: %s", c.GetName(), step)
		}
		for _, p := range c.GetProblems() {
			a.note("%s: see to it: %s", c.GetName(), p)
		}
	}
}
