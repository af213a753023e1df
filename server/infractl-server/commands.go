package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/manpage"
	"github.com/infractl/infractl/internal/version"
	"github.com/infractl/infractl/server/app"
)

// execute runs the command line and returns the exit code: 0, or 1 after an error was shown; backup and restore have more.
func execute(ctx context.Context, args []string, out, errOut io.Writer) int {
	c := root(out, errOut)
	c.SetArgs(args)
	err := c.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(errOut, "infractl-server: %v\n", err)
	if hint := errs.HintOf(err); hint != "" {
		fmt.Fprintf(errOut, "  hint: %s\n", hint)
	}
	if own := (coded{}); errors.As(err, &own) {
		return own.code
	}
	return 1
}

func root(out, errOut io.Writer) *cobra.Command {
	cfg := &app.Config{}
	c := &cobra.Command{
		Use: "infractl-server", Short: "The central server of an infractl site",
		SilenceUsage: true, SilenceErrors: true,
	}
	c.SetOut(out)
	c.SetErr(errOut)
	f := c.PersistentFlags()
	f.StringVar(&cfg.DataDir, "data-dir", app.DefaultDataDir, "folder of the database and settings")
	f.StringVar(&cfg.KeyDir, "key-dir", "", "folder of the certificate authority (default: the data folder with -keys behind it)")
	f.StringVar(&cfg.StoreKey, "store-key", storeKeyCredential(os.Getenv), "file of the key that opens secrets (default: store.key in the "+
		"key folder, or the systemd credential "+storeKeyName+" where there is one)")
	c.AddCommand(initCmd(cfg, out), runCmd(cfg, errOut), adminCodeCmd(cfg, out), versionCmd(out), manpage.Command(8),
		backupCmd(cfg, out, errOut), restoreCmd(cfg, out))
	return c
}

func initCmd(cfg *app.Config, out io.Writer) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "init --site NAME --address ADDRESS",
		Short: "Set up a new server on this machine",
		Long: `Set up a new server: certificate authority, database, first admin code and recovery key.

The admin code is good for one "infractl login" on this machine, within a day. The recovery key opens the server's backups; it
is shown this once and stored nowhere: keep it on paper.`,
		Example: "  infractl-server init --site projetpro --address 10.0.10.4",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return errs.New(errs.Invalid, "unknown output format %.20q", format).WithHint("use text or json")
			}
			made, err := app.Init(c.Context(), *cfg)
			if err != nil {
				return err
			}
			return showInit(out, format, made)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Site, "site", "", "the site's name: lower-case letters, digits, hyphens")
	f.StringArrayVar(&cfg.Addresses, "address", nil, "an address by which nodes and operators reach this server (repeatable)")
	f.StringArrayVar(&cfg.Names, "name", nil, "a DNS name for the server's certificate (repeatable)")
	f.StringVar(&cfg.Firstboot, "firstboot-dir", app.DefaultFirstboot, "where the first-boot firewall of this machine looks; empty to leave it alone")
	f.StringVarP(&format, "output", "o", "text", "text or json")
	return c
}

func showInit(out io.Writer, format string, made *app.InitResult) error {
	if format == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(made)
	}
	_, err := fmt.Fprintf(out, `site          %s
fingerprint   %s
addresses     %s
admin code    %s   (one login, until %s)
recovery key  %s   (write it down: it is shown this once)

next:
  systemctl restart infractl-firewall.service   (lets agents and operators in)
  systemctl enable --now infractl-server
  infractl login --name YOUR-NAME
`, made.Site, made.Fingerprint, strings.Join(made.Addresses, " "), made.AdminCode,
		made.AdminCodeExpires.Local().Format("2006-01-02 15:04"), made.RecoveryKey)
	return err
}

func runCmd(cfg *app.Config, errOut io.Writer) *cobra.Command {
	var level string
	var jsonLog bool
	c := &cobra.Command{
		Use: "run", Short: "Run the server until it is told to stop", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			parsed := hclog.LevelFromString(level)
			if parsed == hclog.NoLevel {
				return errs.New(errs.Invalid, "unknown log level %.20q", level).WithHint("use trace, debug, info, warn or error")
			}
			cfg.Log = hclog.New(&hclog.LoggerOptions{Name: "infractl-server", Level: parsed, Output: errOut, JSONFormat: jsonLog,
				DisableTime: os.Getenv("JOURNAL_STREAM") != "" && !jsonLog})
			return run(c.Context(), *cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Sessions, "listen", app.DefaultSessions, "where agents and operators connect")
	f.StringVar(&cfg.Enrolment, "listen-enrolment", app.DefaultEnrolment, "where machines enrol")
	f.StringVar(&cfg.Socket, "socket", app.DefaultSocket, "Unix socket for logins")
	f.StringArrayVar(&cfg.Addresses, "address", nil, "addresses to use in place of those given to init (repeatable)")
	f.DurationVar(&cfg.Heartbeat, "heartbeat", 15*time.Second, "interval of the agents' heartbeats")
	f.StringVar(&level, "log-level", "info", "trace, debug, info, warn or error")
	f.BoolVar(&jsonLog, "log-json", false, "log as JSON")
	return c
}

func run(ctx context.Context, cfg app.Config) error {
	server, err := app.New(ctx, cfg)
	if err != nil {
		return err
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		cfg.Log.Warn("systemd not told that the server is ready", "error", err)
	}
	return server.Run(ctx)
}

func adminCodeCmd(cfg *app.Config, out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use: "admin-code", Short: "Make a new one-use admin code; the server may run meanwhile", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			code, expires, err := app.AdminCode(*cfg)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(out, "%s\n", code)
			fmt.Fprintf(os.Stderr, "good for one infractl login on this machine, until %s\n", expires.Local().Format("2006-01-02 15:04"))
			return err
		},
	}
}

func versionCmd(out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(out, "infractl-server", version.String())
			return err
		},
	}
}

// storeKeyName is the name of the systemd credential that holds the store key.
const storeKeyName = "infractl-store-key"

// storeKeyCredential returns the file of the credential that systemd gives this service, "" where there is none.
func storeKeyCredential(getenv func(string) string) string {
	dir := getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return ""
	}
	file := filepath.Join(dir, storeKeyName)
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}
