package cmd

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/site/sitedir"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// siteFlags name the files of a site.
type siteFlags struct {
	file    string
	overlay string
}

func (f *siteFlags) add(c *cobra.Command) {
	c.Flags().StringVarP(&f.file, "file", "f", "site.yaml", "the site file")
	c.Flags().StringVar(&f.overlay, "overlay", "", "a lab overlay (default: $INFRACTL_OVERLAY, none without it)")
	must(c.MarkFlagFilename("file", "yaml", "yml"))
	must(c.MarkFlagFilename("overlay", "yaml", "yml"))
}

// read reads the files, and those of the stacks that the site names.
func (f *siteFlags) read() (*v1.SiteSource, error) {
	overlay := f.overlay
	if overlay == "" {
		overlay = os.Getenv("INFRACTL_OVERLAY")
	}
	return sitedir.Read(f.file, overlay)
}

// check validates a source here, before any host or server hears of it. It writes the findings and fails on errors.
func (a *app) check(src *v1.SiteSource) (*site.Site, error) {
	s, findings := site.Load(site.SourceFromProto(src))
	a.findings(findings, v1.Severity_SEVERITY_WARNING)
	a.said = findings
	if s == nil {
		return nil, errs.New(errs.Invalid, "%s; nothing was sent anywhere", faults(findings)).At(src.GetFile())
	}
	return s, nil
}

// serverFindings shows people what the server says of the site file and nobody said here: it may be of another version, or the
// file an old revision. Programs find them in the answer.
func (a *app) serverFindings(plan *v1.PlanSiteResponse) {
	if a.machine() {
		return
	}
	a.findings(slices.DeleteFunc(slices.Clone(plan.GetFindings()), func(f *v1.Finding) bool {
		return slices.ContainsFunc(a.said, func(said *v1.Finding) bool { return proto.Equal(f, said) })
	}), v1.Severity_SEVERITY_WARNING)
}

func faults(findings []*v1.Finding) string {
	n := 0
	for _, f := range findings {
		if f.GetSeverity() == v1.Severity_SEVERITY_ERROR {
			n++
		}
	}
	if n == 1 {
		return "the site file has an error"
	}
	return fmt.Sprintf("the site file has %d errors", n)
}

// findings writes those that are at least as bad as least.
func (a *app) findings(list []*v1.Finding, least v1.Severity) {
	for _, f := range list {
		if f.GetSeverity() >= least {
			a.finding(f)
		}
	}
}

func (a *app) finding(f *v1.Finding) {
	where := f.GetWhere()
	if where != "" {
		where += ": "
	}
	a.note("%s%s: %s", where, severity(f.GetSeverity()), f.GetMessage())
	if f.GetHint() != "" {
		a.note("    hint: %s", f.GetHint())
	}
}

func (a *app) siteCmd() *cobra.Command {
	return group("site", "Check, plan, apply and roll back the site",
		a.siteCheckCmd(), a.planCmd(), a.applyCmd(), a.historyCmd(), a.rollbackCmd(), a.siteShowCmd(), a.siteSchemaCmd())
}

func (a *app) siteCheckCmd() *cobra.Command {
	var files siteFlags
	c := &cobra.Command{
		Use: "check", Short: "Validate a site file; needs no server",
		Long: `Validate a site file, with a lab overlay where there is one, and show what it leaves to warn about. Nothing is sent anywhere.
Every fault is shown at once, with file, line and column.`,
		Example: "  infractl site check -f examples/projetpro/site.yaml",
		Args:    arity(0, 0),
		RunE:    func(*cobra.Command, []string) error { return a.runSiteCheck(&files) },
	}
	files.add(c)
	exits(c, false, meaning{ExitOK, "the file is valid"}, meaning{ExitFailed, "it has errors, or cannot be read"})
	return c
}

func (a *app) runSiteCheck(files *siteFlags) error {
	w, err := a.writer()
	if err != nil {
		return err
	}
	src, err := files.read()
	if err != nil {
		return err
	}
	s, findings := site.Load(site.SourceFromProto(src))
	answer := &v1.CheckSiteResponse{Findings: findings, Valid: s != nil}
	if s != nil {
		answer.Nodes = s.NodeNames()
	}
	err = w.Message(answer, func() error {
		a.findings(findings, v1.Severity_SEVERITY_INFO)
		if s != nil {
			w.Printf("%s: site %s, %d nodes, %d flows: valid\n", src.GetFile(), s.Name, len(s.Nodes), len(s.Flows()))
		}
		return nil
	})
	if err != nil || s != nil {
		return err
	}
	if !a.machine() {
		a.note("%s: %s", src.GetFile(), faults(findings))
	}
	return exitError{ExitFailed, faults(findings)}
}

func (a *app) historyCmd() *cobra.Command {
	var limit uint32
	c := &cobra.Command{
		Use: "history", Short: "List the stored revisions", Example: "  infractl site history --limit 5", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewSiteServiceClient(conn).ListRevisions(ctx, &v1.ListRevisionsRequest{Limit: limit})
				if err != nil {
					return err
				}
				return w.Message(list, func() error {
					var rows [][]string
					for _, r := range list.GetRevisions() {
						note := ""
						if r.GetRollbackOf() != 0 {
							note = "rollback to " + num(r.GetRollbackOf())
						}
						rows = append(rows, []string{num(r.GetNumber()), a.ago(r.GetTime()), r.GetOperator(), num(uint64(r.GetNodes())),
							short(r.GetDigest()), dash(note)})
					}
					return w.Rows([]string{"REVISION", "STORED", "OPERATOR", "NODES", "DIGEST", "NOTE"}, rows)
				})
			})
		},
	}
	c.Flags().Uint32Var(&limit, "limit", 20, "greatest number of revisions")
	return c
}

func (a *app) siteShowCmd() *cobra.Command {
	var number uint64
	var path string
	c := &cobra.Command{
		Use: "show", Short: "Print a stored revision's site file, or a file of its stacks",
		Long: `Print a stored revision's site file. The Compose files of its stacks and what stands beside them are named on stderr; --path prints
one of them.`,
		Example: "  infractl site show --revision 3 > old.yaml\n  infractl site show --path stacks/services.yml",
		Args:    arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				r, err := v1.NewSiteServiceClient(conn).GetRevision(ctx, &v1.GetRevisionRequest{Number: number})
				if err != nil {
					return err
				}
				return w.Message(r, func() error { return a.showSource(w, r.GetSource(), path) })
			})
		},
	}
	c.Flags().Uint64Var(&number, "revision", 0, "the revision; 0 is the newest")
	c.Flags().StringVar(&path, "path", "", "a file of a stack, instead of the site file")
	must(c.RegisterFlagCompletionFunc("revision", a.completer(revisionNumbers)))
	return c
}

// showSource prints one file of a site.
func (a *app) showSource(w *output.Writer, src *v1.SiteSource, path string) error {
	if path == "" {
		for _, f := range src.GetFiles() {
			a.note("with %s (%d bytes)", f.GetPath(), len(f.GetContent()))
		}
		return w.Raw(src.GetContent())
	}
	for _, f := range src.GetFiles() {
		if f.GetPath() == path {
			return w.Raw(f.GetContent())
		}
	}
	return errs.New(errs.NotFound, "the revision has no file %q", path).WithHint("infractl site show names them")
}
