package app

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/infractl/infractl/agent/engine"
	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider/firewall"
	"github.com/infractl/infractl/agent/provider/router"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/manpage"
	"github.com/infractl/infractl/internal/version"
)

// Variables of the environment that tests and trials set.
const (
	// ClockOffsetVariable moves the process's clock, so that skew and expiry are tried without touching the machine's.
	ClockOffsetVariable = "INFRACTL_CLOCK_OFFSET"
	// LogLevelVariable is the level of the log: trace, debug, info, warn or error.
	LogLevelVariable = "INFRACTL_LOG_LEVEL"
)

// Execute runs the agent's command line and returns the exit code: 0, or 1 after an error was shown.
func Execute(ctx context.Context, args []string, out, errOut io.Writer) int {
	c := newCommand(out, errOut)
	c.SetArgs(args)
	err := c.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(errOut, "infractl-agent: %v\n", err)
	if hint := errs.HintOf(err); hint != "" {
		fmt.Fprintf(errOut, "  hint: %s\n", hint)
	}
	return 1
}

// options are what all commands share.
type options struct {
	stateDir string
	level    string
	out      io.Writer
	errOut   io.Writer
}

func (o *options) logger() hclog.Logger {
	level := o.level
	if level == "" {
		level = os.Getenv(LogLevelVariable)
	}
	if level == "" {
		level = "info"
	}
	return hclog.New(&hclog.LoggerOptions{Name: "agent", Output: o.errOut, Level: hclog.LevelFromString(level),
		DisableTime: os.Getenv("JOURNAL_STREAM") != ""}) // the journal has the time
}

func newCommand(out, errOut io.Writer) *cobra.Command {
	o := &options{out: out, errOut: errOut}
	c := &cobra.Command{
		Use: "infractl-agent", Short: "The agent of one host of an infractl site",
		SilenceUsage: true, SilenceErrors: true, CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	c.SetOut(out)
	c.SetErr(errOut)
	f := c.PersistentFlags()
	f.StringVar(&o.stateDir, "state-dir", DefaultStateDir, "folder of identity, tasks and commits")
	f.StringVar(&o.level, "log-level", "", "trace, debug, info, warn or error (default $"+LogLevelVariable+" or info)")
	c.AddCommand(runCommand(o), revertCommand(o), firewallCommand(o), routerCommand(o), statusCommand(o), versionCommand(o), manpage.Command(8))
	return c
}

func runCommand(o *options) *cobra.Command {
	var cfg Config
	c := &cobra.Command{
		Use: "run", Short: "Run the agent",
		Long: `Run the agent: enrol with the join token as soon as there is one, keep a session with the server, apply what it asks for.

The join token is looked for in /etc/infractl/join-token, in cloud-init's seed and instance folders, in the state folder, and in
$` + enrol.TokenVariable + `. It is removed once it was used.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			go saveMemory(c.Context())
			cfg.StateDir, cfg.Log = o.stateDir, o.logger()
			cfg.Notify = func(state string) { _, _ = daemon.SdNotify(false, state) } // without systemd there is nobody to tell
			if text := os.Getenv(ClockOffsetVariable); text != "" {
				offset, err := time.ParseDuration(text)
				if err != nil {
					return errs.New(errs.Invalid, "$%s is no duration", ClockOffsetVariable)
				}
				cfg.Clock = clock.System{Offset: offset}
			}
			a, err := New(cfg)
			if err != nil {
				return err
			}
			if err := a.Run(c.Context()); err != nil && c.Context().Err() == nil {
				return err
			}
			return nil
		},
	}
	c.Flags().StringVar(&cfg.Probe, "probe", "", "run as the probe of this name: manage nothing and only open connections")
	c.Flags().StringArrayVar(&cfg.TokenFiles, "join-token", nil, "file of the join token, in place of the usual ones (repeatable)")
	return c
}

func revertCommand(o *options) *cobra.Command {
	var commit string
	var boot bool
	var after time.Duration
	c := &cobra.Command{
		Use: "revert --commit ID | --boot", Short: "Put the former state back",
		Long: `Put the former state back: of one commit (run by the timer that was armed with it), or at boot of every commit that is armed
or half reverted. A commit that was kept is left alone.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if boot == (commit != "") {
				return errs.New(errs.Invalid, "give either --commit or --boot")
			}
			if err := enrol.Sleep(c.Context(), after); err != nil {
				return err
			}
			log := o.logger()
			h := host.New(host.Config{Log: log.Named("host"), Booting: boot})
			reverter := engine.NewReverter(h, o.stateDir, NewProviders(h, log).Bound, log.Named("revert"))
			if boot {
				return reverter.RevertAll(c.Context())
			}
			err := reverter.Revert(c.Context(), commit)
			if errs.Is(err, errs.Precondition) { // it was kept: nothing to do, and no failure of the unit
				log.Info("nothing to revert", "commit", commit, "reason", err)
				return nil
			}
			return err
		},
	}
	c.Flags().StringVar(&commit, "commit", "", "the commit's id")
	c.Flags().BoolVar(&boot, "boot", false, "revert every commit that is not decided")
	c.Flags().DurationVar(&after, "after", 0, "wait first (where there is no systemd to do it)")
	return c
}

func firewallCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "firewall", Short: "Put the firewall's rules back", Args: cobra.NoArgs}
	c.AddCommand(&cobra.Command{
		Use: "boot", Short: "Put the kept rules into place, before network and Docker", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log := o.logger()
			did, err := firewall.Boot(c.Context(), host.New(host.Config{Log: log.Named("host"), Booting: true}))
			log.Info("firewall at boot", "rules", string(did))
			return errs.Join(err, router.Boot(c.Context(), host.New(host.Config{Log: log.Named("host"), Booting: true})))
		},
	}, &cobra.Command{
		Use: "repair", Short: "Put chains and jumps back that are gone, as after a restart of Docker", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return repairOnce(c.Context(), o) },
	})
	return c
}

func routerCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "router", Short: "Set up the router's tunnel", Args: cobra.NoArgs}
	c.AddCommand(&cobra.Command{
		Use: "tunnel", Short: "Set up the kept tunnel on the interface that its unit has made", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return router.UpTunnel(c.Context(), host.New(host.Config{Log: o.logger().Named("host")}))
		},
	})
	return c
}

// repairOnce waits for a commit that is not decided, and then repairs.
func repairOnce(ctx context.Context, o *options) error {
	log := o.logger()
	h := host.New(host.Config{Log: log.Named("host")})
	providers := NewProviders(h, log)
	e, err := engine.New(engine.Config{Host: h, Dir: o.stateDir, Providers: providers.Bound, Clock: clock.System{}, Log: log})
	if err != nil {
		return err
	}
	for e.State().GetArmedCommit() != "" {
		if err := enrol.Sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	if providers.Firewall == nil { // VyOS puts its own rules back
		return nil
	}
	done, err := providers.Firewall.Repair(ctx)
	log.Info("firewall repaired", "lines", len(done))
	return err
}

func versionCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Show the version", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		_, err := fmt.Fprintln(o.out, version.String())
		return err
	}}
}
