package lab

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/infractl/infractl/internal/errs"
)

// ExitCode is the error of a command in a VM that failed: the program ends with that code and says nothing more.
type ExitCode int

// Error implements error.
func (e ExitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

type options struct {
	name, dir, cache string
	verbose          bool
}

// NewCommand returns the command infractl-lab.
func NewCommand() *cobra.Command {
	var o options
	root := &cobra.Command{
		Use:           "infractl-lab",
		Short:         "Build, enter and remove a virtual site on this machine",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&o.dir, "dir", ".lab", "folder of the lab's state file")
	flags.StringVar(&o.cache, "cache", "", "folder of engine data and images (default $INFRACTL_LAB_CACHE or "+DefaultCacheDir+")")
	flags.BoolVarP(&o.verbose, "verbose", "v", false, "show what is done")
	root.AddCommand(o.up(), o.down(), o.clean(), o.exec(), o.shell(), o.status(), o.image(), o.doctor())
	return root
}

func (o *options) config(cmd *cobra.Command) Config {
	cfg := DefaultSite(o.name, o.dir)
	cfg.CacheDir = o.cache
	cfg.Progress = func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), text) }
	if o.verbose {
		cfg.Log = hclog.New(&hclog.LoggerOptions{Name: "lab", Level: hclog.Debug, Output: cmd.ErrOrStderr()})
	}
	return cfg
}

func (o *options) up() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make the example site and boot all of it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg := o.config(cmd)
			begin := time.Now()
			l, err := Create(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			created := time.Now()
			if err := l.StartVM(cmd.Context()); err != nil {
				return err
			}
			if err := l.WaitBooted(cmd.Context()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d VMs are up: made in %.1f s, booted in %.1f s\n", len(l.cfg.VMs),
				created.Sub(begin).Seconds(), time.Since(created).Seconds())
			return nil
		},
	}
	cmd.Flags().StringVar(&o.name, "name", "projetpro", "name of the lab")
	return cmd
}

func (o *options) down() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the lab; images stay",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := Open(cmd.Context(), o.dir)
			if errs.Is(err, errs.NotFound) {
				fmt.Fprintln(cmd.OutOrStdout(), "there is no lab")
				return nil
			}
			if err != nil {
				return err
			}
			return l.Down(cmd.Context())
		},
	}
}

func (o *options) clean() *cobra.Command {
	return &cobra.Command{
		Use:   "clean",
		Short: "Remove the lab, its images and its cache",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := Open(cmd.Context(), o.dir)
			switch {
			case errs.Is(err, errs.NotFound):
				return Clean(cmd.Context(), o.cache)
			case err != nil:
				return err
			}
			return l.Clean(cmd.Context())
		},
	}
}

func (o *options) exec() *cobra.Command {
	return &cobra.Command{
		Use:   "exec HOST -- COMMAND...",
		Short: "Run a command in a VM or a namespace",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.attach(cmd.Context(), args[0], args[1:])
		},
	}
}

func (o *options) shell() *cobra.Command {
	return &cobra.Command{
		Use:   "shell HOST",
		Short: "Open a shell in a VM or a namespace",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.attach(cmd.Context(), args[0], []string{"bash"})
		},
	}
}

// attach runs a command with this terminal.
func (o *options) attach(ctx context.Context, host string, argv []string) error {
	l, err := Open(ctx, o.dir)
	if err != nil {
		return err
	}
	run := l.VM(host).Attach
	if ns := l.spaces[host]; ns != nil {
		run = ns.Attach
	}
	code, err := run(ctx, argv...)
	if err == nil && code != 0 {
		return ExitCode(code)
	}
	return err
}

func (o *options) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the VMs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := Open(cmd.Context(), o.dir)
			if err != nil {
				return err
			}
			return table(cmd.OutOrStdout(), func(w io.Writer) {
				fmt.Fprintln(w, "VM\tSTATE\tPID\tMEMORY\tCABLES OUT")
				for _, s := range l.Status(cmd.Context()) {
					fmt.Fprintf(w, "%s\t%s\t%d\t%.1f MiB\t%s\n", s.Name, s.State, s.Pid, float64(s.MemoryKiB)/1024, strings.Join(s.CablesOut, " "))
				}
			})
		},
	}
}

func (o *options) image() *cobra.Command {
	return &cobra.Command{
		Use:   "image",
		Short: "Build the images that are missing, without a lab",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg := o.config(cmd)
			return BuildImages(cmd.Context(), cfg)
		},
	}
}

func (o *options) doctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine lacks for a lab",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			healthy := true
			err := table(cmd.OutOrStdout(), func(w io.Writer) {
				for _, f := range Doctor(cmd.Context(), o.cache) {
					mark := "ok"
					if !f.OK {
						mark, healthy = "MISSING", false
					}
					fmt.Fprintf(w, "%s\t%s\t%s\n", mark, f.What, f.Note)
				}
			})
			if err == nil && !healthy {
				return ExitCode(1)
			}
			return err
		},
	}
}

func table(out io.Writer, rows func(io.Writer)) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	rows(w)
	return w.Flush()
}
