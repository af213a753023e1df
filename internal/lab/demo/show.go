package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/infractl/infractl/internal/errs"
)

// Apply applies the site file with its overlay and fails unless every node keeps it.
func (s *Site) Apply(ctx context.Context, args ...string) error {
	r, err := s.Infractl(ctx, append([]string{"apply", "-f", s.File, "--overlay", s.Overlay, "--yes"}, args...)...)
	if err != nil {
		return err
	}
	return r.OK("infractl", "apply")
}

// FlowCheck is the result of a flows check, in the shape of the contract.
type FlowCheck struct {
	OpenAsWanted   int               `json:"open_as_wanted"`
	ClosedAsWanted int               `json:"closed_as_wanted"`
	Violations     []json.RawMessage `json:"violations"`
	Unseen         []json.RawMessage `json:"unseen"`
	Notes          []string          `json:"notes"`
}

// CheckFlows proves the matrix and returns what was seen.
func (s *Site) CheckFlows(ctx context.Context) (FlowCheck, error) {
	var c FlowCheck
	r, err := s.Infractl(ctx, "flows", "check", "-o", "json")
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal([]byte(r.Stdout), &c); err != nil {
		return c, errs.New(errs.Internal, "flows check: %s: %w", r.Stderr, err)
	}
	return c, nil
}

// StartContainers starts two containers on one network of the prod VM's engine, one of them with a published port: what the
// firewall must leave alone and must filter.
func (s *Site) StartContainers(ctx context.Context) error {
	prod := s.Lab.VM(Prod)
	for _, argv := range [][]string{
		{"docker", "network", "create", "appnet"},
		{"docker", "run", "-d", "--pull", "never", "--name", "db", "--network", "appnet", "infractl-lab/busybox", "httpd", "-f", "-p", "3306"},
		{"docker", "run", "-d", "--pull", "never", "--name", "web", "--network", "appnet", "-p", "8080:80", "infractl-lab/busybox", "httpd", "-f", "-p", "80"},
	} {
		if _, err := prod.Must(ctx, argv...); err != nil {
			return errs.Wrap("start containers on "+Prod, err)
		}
	}
	return nil
}

// Command returns the demo subcommand of infractl-lab.
func Command() *cobra.Command {
	return ShowCommand("demo", "Build the example site, apply it and prove its flows", Show)
}

// ShowCommand returns a subcommand of infractl-lab that shows something and leaves it running.
func ShowCommand(use, short string, show func(context.Context, Options) error) *cobra.Command {
	var o Options
	verbose := false
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Out = c.OutOrStdout()
			if verbose {
				o.Log = hclog.New(&hclog.LoggerOptions{Name: "lab", Level: hclog.Debug, Output: c.ErrOrStderr()})
			}
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return show(ctx, o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Root, "root", ".", "the project's folder")
	f.StringVar(&o.Bin, "bin", "bin", "folder of the built programs")
	f.StringVar(&o.Dir, "dir", ".lab", "folder of the lab's state")
	f.StringVar(&o.Name, "name", "demo", "name of the lab")
	f.BoolVarP(&verbose, "verbose", "v", false, "show details")
	return c
}

// Show does the main job once, from nothing to a proven site, and leaves it running.
func Show(ctx context.Context, o Options) error {
	s, err := Boot(ctx, o)
	if err != nil {
		return Failed(err)
	}
	if err := s.StartContainers(ctx); err != nil {
		return Failed(err)
	}
	begun := time.Now()
	if err := s.Apply(ctx); err != nil {
		return Failed(errs.Wrap("apply", err))
	}
	s.Say("apply: the example site is on all %d nodes, %.1f s", len(Nodes()), time.Since(begun).Seconds())
	begun = time.Now()
	check, err := s.CheckFlows(ctx)
	if err != nil {
		return Failed(err)
	}
	s.Say("flows: %d ways open and %d closed as they should be, %d wrong, %d not seen, %.1f s", check.OpenAsWanted, check.ClosedAsWanted,
		len(check.Violations), len(check.Unseen), time.Since(begun).Seconds())
	for _, n := range check.Notes {
		s.Say("note: %s", n)
	}
	if len(check.Violations) > 0 {
		return Failed(errs.New(errs.Internal, "the flows differ from the matrix").WithHint(". %s/env; infractl flows check", o.Dir))
	}
	if err := s.prove(ctx); err != nil {
		return Failed(err)
	}
	begun = time.Now()
	if err := s.Apply(ctx); err != nil {
		return Failed(errs.Wrap("apply again", err))
	}
	s.Say("apply again: nothing to do, every host read anew, %.1f s", time.Since(begun).Seconds())
	s.nextSteps()
	return nil
}

// Failed is the error of a demo: it says where to look.
func Failed(err error) error {
	return &errs.Error{Code: errs.CodeOf(err), Err: err, Message: err.Error(),
		Hint: "what was built is still there for a look; make demo-down removes it"}
}

func (s *Site) nextSteps() {
	where := s.opts.Dir
	if cwd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(cwd, where); err == nil {
			where = rel
		}
	}
	fmt.Fprintf(s.opts.Out, `
The site runs. You are its operator, on the far side of the VPN:

  . %s/env                      an infractl on the PATH with the operator's identity
  infractl status               the whole picture
  infractl flows                who may talk to whom, and why
  infractl ssh srv-prod         a login through the relay
  infractl vpn peer list        who comes in through the tunnel
  infractl diff                 has anything drifted?
  infractl plan -f %s    edit the file first: what would change?

  make demo-down                takes it all down again
`, where, filepath.Join(where, "site/site.yaml"))
}
