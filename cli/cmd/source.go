package cmd

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// siteFlags name the files of a site.
type siteFlags struct {
	file    string
	overlay string
}

func (f *siteFlags) add(c *cobra.Command) {
	c.Flags().StringVarP(&f.file, "file", "f", "site.yaml", "the site file")
	c.Flags().StringVar(&f.overlay, "overlay", os.Getenv("INFRACTL_OVERLAY"), "a lab overlay (default $INFRACTL_OVERLAY)")
	must(c.MarkFlagFilename("file", "yaml", "yml"))
	must(c.MarkFlagFilename("overlay", "yaml", "yml"))
}

// maxSiteFile is the greatest size that is read; the parser's own limit is smaller and says so with more words.
const maxSiteFile = 16 << 20

// read reads the files and looks which of the paths that the site names exist beside it.
func (f *siteFlags) read() (*v1.SiteSource, error) {
	content, err := readLimited(f.file)
	if err != nil {
		return nil, err
	}
	src := &v1.SiteSource{File: f.file, Content: content}
	if f.overlay != "" {
		if src.OverlayContent, err = readLimited(f.overlay); err != nil {
			return nil, err
		}
		src.OverlayFile = f.overlay
	}
	base := filepath.Dir(f.file)
	site.Load(site.Source{File: src.File, Content: src.Content, OverlayFile: src.OverlayFile, OverlayContent: src.OverlayContent,
		Present: func(path string) bool {
			_, err := os.Stat(filepath.Join(base, path))
			if err == nil {
				src.PresentFiles = append(src.PresentFiles, path)
			}
			return err == nil
		}})
	return src, nil
}

func readLimited(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.New(errs.NotFound, "no such file").At(path).WithHint("name the site file with -f; examples/projetpro/site.yaml is one")
	}
	if err != nil {
		return nil, errs.Wrap("read "+path, err)
	}
	if info.Size() > maxSiteFile {
		return nil, errs.New(errs.Invalid, "the file has %d bytes; that is no site file", info.Size()).At(path + ":1:1").
			WithHint("is it the right file?")
	}
	data, err := os.ReadFile(path)
	return data, errs.Wrap("read "+path, err)
}

// check validates a source here, before any host or server hears of it. It writes the findings and fails on errors.
func (a *app) check(src *v1.SiteSource, quiet bool) (*site.Site, error) {
	s, findings := site.Load(site.SourceFromProto(src))
	failed := 0
	for _, f := range findings {
		if f.GetSeverity() == v1.Severity_SEVERITY_ERROR {
			failed++
		}
		if !quiet || f.GetSeverity() != v1.Severity_SEVERITY_INFO {
			a.finding(f)
		}
	}
	if s == nil {
		return nil, errs.New(errs.Invalid, "the site file has %d error(s); nothing was sent anywhere", failed).At(src.GetFile())
	}
	return s, nil
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
	c := &cobra.Command{Use: "site", Short: "Check, plan, apply and roll back the site"}
	c.AddCommand(a.siteCheckCmd(), a.planCmd(), a.applyCmd(), a.historyCmd(), a.rollbackCmd(), a.siteShowCmd())
	return c
}

func (a *app) siteCheckCmd() *cobra.Command {
	var files siteFlags
	c := &cobra.Command{
		Use: "check", Short: "Validate a site file; needs no server",
		Example: "  infractl site check -f examples/projetpro/site.yaml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
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
			if err := w.Message(answer, func() error { return a.showCheck(w, src, s) }); err != nil {
				return err
			}
			if s == nil {
				return exitError{ExitFailed}
			}
			return nil
		},
	}
	files.add(c)
	return c
}

func (a *app) showCheck(w *output.Writer, src *v1.SiteSource, s *site.Site) error {
	if _, err := a.check(src, false); err != nil {
		a.note("error: %v", err)
		return nil
	}
	w.Printf("%s: site %s, %d nodes, %d flows: valid\n", src.GetFile(), s.Name, len(s.Nodes), len(s.Flows()))
	return nil
}

func (a *app) historyCmd() *cobra.Command {
	var limit uint32
	c := &cobra.Command{
		Use: "history", Short: "List the stored revisions", Example: "  infractl site history --limit 5", Args: cobra.NoArgs,
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
	c := &cobra.Command{
		Use: "show", Short: "Print a stored revision's site file", Example: "  infractl site show --revision 3 > old.yaml", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				r, err := v1.NewSiteServiceClient(conn).GetRevision(ctx, &v1.GetRevisionRequest{Number: number})
				if err != nil {
					return err
				}
				return w.Message(r, func() error { w.Printf("%s", r.GetSource().GetContent()); return nil })
			})
		},
	}
	c.Flags().Uint64Var(&number, "revision", 0, "the revision; 0 is the newest")
	return c
}
