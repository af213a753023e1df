package cmd

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/vyos/imports"
)

// importLine is one line of an imported configuration for programs.
type importLine struct {
	Line  int    `json:"line"`
	Text  string `json:"text"`
	Class string `json:"class"`
	Why   string `json:"why"`
}

type imported struct {
	Fragment string       `json:"fragment"`
	Notes    []string     `json:"notes"`
	Lines    []importLine `json:"lines"`
}

func (a *app) routerImportCmd() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "import FILE|-", Short: "Read a VyOS configuration into site-file terms; needs no server",
		Long: `Read what "show configuration commands" prints on a VyOS router, or such lines with comments and text between them, and print the
part of a site file that says the same. What becomes of the lines is said on stderr: used, corrected, dropped, or not understood,
each with the reason. Passwords and private keys are not repeated. SNMP is dropped on purpose.`,
		Example: "  infractl router import - <router.txt\n  infractl router import router.txt --all >fragment.yaml",
		Args:    arity(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			w, err := a.writer()
			if err != nil {
				return err
			}
			in := a.proc.In
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return errs.New(errs.NotFound, "%w", err)
				}
				defer f.Close()
				in = f
			}
			r, err := imports.Read(in)
			if err != nil {
				return err
			}
			return a.showImport(w, r, all)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "tell of lines that are used, and of comments, too")
	exits(c, false)
	return c
}

func (a *app) showImport(w *output.Writer, r imports.Result, all bool) error {
	out := imported{Fragment: r.Fragment, Notes: r.Notes}
	for _, l := range r.Lines {
		out.Lines = append(out.Lines, importLine{l.Number, l.Text, string(l.Class), l.Why})
	}
	return w.Object(out, func() error {
		for _, l := range r.Lines {
			if all || l.Class != imports.Used && !l.Plain() {
				fmt.Fprintf(a.proc.Err, "line %d, %s: %s\n  %s\n", l.Number, l.Class, output.Line(l.Text), output.Line(l.Why))
			}
		}
		for _, n := range r.Notes {
			fmt.Fprintf(a.proc.Err, "note: %s\n", output.Line(n))
		}
		fmt.Fprintf(a.proc.Err, "%d lines: %d used, %d corrected, %d dropped, %d not understood\n", len(r.Lines), r.Count(imports.Used),
			r.Count(imports.Corrected), r.Count(imports.Dropped), r.Count(imports.NotUnderstood))
		w.Printf("%s", r.Fragment)
		return nil
	})
}
