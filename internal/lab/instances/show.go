package instances

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/infractl/infractl/internal/lab/demo"
)

// pageLimit is how long a page may take to be as it should be, where the command line has said that it is.
const pageLimit = 30 * time.Second

// Command returns the subcommand of infractl-lab that brings two instances up.
func Command() *cobra.Command {
	return demo.ShowCommand("demo-instances", "Build the example site with two Dolibarr instances, and reach them by name from the internet", Show)
}

// Show brings two instances up, proves that they are reached by name from the internet, and leaves them running.
func Show(ctx context.Context, o demo.Options) error {
	f, err := Boot(ctx, o)
	if err != nil {
		return demo.Failed(err)
	}
	passwords := map[string]string{}
	for _, one := range []struct{ name, company, way string }{{"acme", "ACME SARL", "the first one on this host: installed"}, {"beta", "Beta SAS", "the next one"}} {
		err := f.Step(ctx, fmt.Sprintf("instance create %s (%s)", one.name, one.way), func(ctx context.Context) error {
			passwords[one.name], err = f.MustCreate(ctx, one.name, "--company", one.company)
			return err
		})
		if err != nil {
			return demo.Failed(err)
		}
	}
	for name, password := range passwords {
		page, err := f.WaitLogin(ctx, name, pageLimit)
		if err != nil {
			return demo.Failed(err)
		}
		f.Say("internet: %s answers 200 with the title %q, %.0f ms by name, proxy, TLS and front", URL(name), page.Title, page.Seconds*1000)
		if err := f.Step(ctx, "internet: the administrator of "+name+" logs in", func(ctx context.Context) error { return f.LogIn(ctx, name, password) }); err != nil {
			return demo.Failed(err)
		}
	}
	for _, argv := range [][]string{{"instance", "list"}, {"instance", "show", "acme"}, {"instance", "audit"}} {
		r, err := f.Infractl(ctx, argv...)
		if err != nil {
			return demo.Failed(err)
		}
		fmt.Fprintf(f.out, "\n$ infractl %s\n%s%s", strings.Join(argv, " "), r.Stdout, r.Stderr)
	}
	fmt.Fprintf(f.out, "\nnext: . %s/env; infractl instance suspend acme; bin/infractl-lab exec internet -- curl -s --cacert %s %s\n", o.Dir, rootsFile, URL("acme"))
	return nil
}
