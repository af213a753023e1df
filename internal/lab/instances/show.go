package instances

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/infractl/infractl/internal/errs"
)

// pageLimit is how long a page may take to be as it should be, where the command line has said that it is.
const pageLimit = 30 * time.Second

// Command returns the subcommand of infractl-lab that brings two instances up.
func Command() *cobra.Command {
	o := Options{}
	verbose := false
	c := &cobra.Command{
		Use: "demo-instances", Short: "Build the example site with two Dolibarr instances, and reach them by name from the internet", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Out = c.OutOrStdout()
			if verbose {
				o.Log = hclog.New(&hclog.LoggerOptions{Name: "lab", Level: hclog.Debug, Output: c.ErrOrStderr()})
			}
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return Show(ctx, o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Root, "root", ".", "the project's folder")
	f.StringVar(&o.Bin, "bin", "bin", "folder of the built programs")
	f.StringVar(&o.Dir, "dir", ".lab", "folder of the lab's state")
	f.StringVar(&o.Name, "name", "demo", "name of the lab")
	f.BoolVarP(&verbose, "verbose", "v", false, "details on stderr")
	return c
}

// Show brings two instances up, proves that they are reached by name from the internet, and leaves them running.
func Show(ctx context.Context, o Options) error {
	f, err := Boot(ctx, o)
	if err != nil {
		return failed(err)
	}
	passwords := map[string]string{}
	for _, one := range []struct{ name, company, way string }{{"acme", "ACME SARL", "the first one on this host: installed"}, {"beta", "Beta SAS", "the next one"}} {
		err := f.step(ctx, fmt.Sprintf("instance create %s (%s)", one.name, one.way), func(ctx context.Context) error {
			passwords[one.name], err = f.MustCreate(ctx, one.name, "--company", one.company)
			return err
		})
		if err != nil {
			return failed(err)
		}
	}
	for name, password := range passwords {
		page, err := f.WaitLogin(ctx, name, pageLimit)
		if err != nil {
			return failed(err)
		}
		f.say("internet: %s answers 200 with the title %q, %.0f ms by name, proxy, TLS and front", URL(name), page.Title, page.Seconds*1000)
		if err := f.step(ctx, "internet: the administrator of "+name+" logs in", func(ctx context.Context) error { return f.LogIn(ctx, name, password) }); err != nil {
			return failed(err)
		}
	}
	for _, argv := range [][]string{{"instance", "list"}, {"instance", "show", "acme"}, {"instance", "audit"}} {
		r, err := f.Infractl(ctx, argv...)
		if err != nil {
			return failed(err)
		}
		fmt.Fprintf(f.out, "\n$ infractl %s %s\n%s%s", argv[0], argv[1], r.Stdout, r.Stderr)
	}
	fmt.Fprintf(f.out, "\nnext: . %s/env; infractl instance suspend acme; bin/infractl-lab exec internet -- curl -s --cacert %s %s\n", o.Dir, rootsFile, URL("acme"))
	return nil
}

// failed says where to look.
func failed(err error) error {
	return &errs.Error{Code: errs.CodeOf(err), Err: err, Message: err.Error(), Hint: "what was built is still there for a look; make demo-down removes it"}
}
