// Package cmd holds the verbs of infractl, one file each.
//
// A verb is a constructor that returns a cobra command; what it does is in a run function that takes data and returns an
// error, so that tests call it without a process. Data goes to stdout; progress, questions and errors go to stderr.
package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/client"
	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
)

// Streams are the process's streams.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exit codes; see docs/cli.md.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitSomeFailed  = 3
	ExitDrift       = 4
	ExitUnreachable = 10
	ExitDenied      = 11
	ExitRolledBack  = 12
	ExitInterrupted = 130
)

// exitError ends the command with a code and without a further message: the command has said all.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// app is what all verbs share.
type app struct {
	streams Streams
	clock   clock.Clock
	format  string
	server  string
	config  string
	yes     bool
}

// Run runs the command line and returns the exit code.
func Run(ctx context.Context, args []string, s Streams) int {
	a := &app{streams: s, clock: clock.System{}}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	code := exitCode(ctx, err)
	if err != nil {
		a.report(err, code)
	}
	return code
}

// Root returns the command tree, for documentation and completion.
func Root() *cobra.Command { return (&app{clock: clock.System{}}).root() }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "infractl",
		Short: "Run a Dolibarr hosting infrastructure from one site file",
		Long: `infractl runs a small hosting infrastructure from one site file.

A central server drives a light agent on each machine. "plan" shows what would change, "apply" changes it in waves; every
change that could lock somebody out reverts by itself unless the server and its witnesses confirm that all ways are open.

Exit codes: 0 done or in sync, 1 failed, 3 some nodes failed, 4 drift (diff), 10 server unreachable, 11 not allowed,
12 failed and rolled back, 130 interrupted.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(a.streams.In)
	root.SetOut(a.streams.Out)
	root.SetErr(a.streams.Err)
	f := root.PersistentFlags()
	f.StringVarP(&a.format, "output", "o", string(output.Table), "output format: "+strings.Join(output.Formats(), ", "))
	f.StringVar(&a.server, "server", "", "server address HOST:PORT instead of the stored one")
	f.StringVar(&a.config, "config", "", "folder of identity and settings (default $INFRACTL_CONFIG or ~/.config/infractl)")
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(output.Formats(), cobra.ShellCompDirectiveNoFileComp)))
	groups := []struct {
		id, title string
		verbs     []*cobra.Command
	}{
		{"site", "Site:", []*cobra.Command{a.siteCmd(), a.planCmd(), a.applyCmd(), a.diffCmd(), a.flowsCmd()}},
		{"fleet", "Fleet:", []*cobra.Command{a.statusCmd(), a.nodeCmd(), a.tokenCmd(), a.rolloutCmd(), a.sshCmd()}},
		{"people", "People:", []*cobra.Command{a.loginCmd(), a.whoamiCmd(), a.auditCmd()}},
		{"other", "Other:", []*cobra.Command{a.versionCmd()}},
	}
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, v := range g.verbs {
			v.GroupID = g.id
			root.AddCommand(v)
		}
	}
	root.SetHelpCommandGroupID("other")
	root.SetCompletionCommandGroupID("other")
	return root
}

// must is for registrations that can only fail by a programming error.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (a *app) folder() (*client.Folder, error) {
	dir := a.config
	if dir == "" {
		var err error
		if dir, err = client.DefaultDir(); err != nil {
			return nil, err
		}
	}
	return client.NewFolder(dir), nil
}

// connect opens the connection that a verb works on.
func (a *app) connect(ctx context.Context) (*grpc.ClientConn, error) {
	f, err := a.folder()
	if err != nil {
		return nil, err
	}
	return f.Connect(ctx, client.Options{Server: a.server, Clock: a.clock})
}

// withServer runs f with a connection and brings its error home.
func (a *app) withServer(ctx context.Context, f func(context.Context, *grpc.ClientConn, *output.Writer) error) error {
	w, err := a.writer()
	if err != nil {
		return err
	}
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return errs.FromGRPC(f(ctx, conn, w))
}

func (a *app) writer() (*output.Writer, error) {
	return output.New(a.streams.Out, output.Format(a.format), width(a.streams.Out))
}

// width returns a terminal's columns, 0 for anything else.
func width(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil {
			return n
		}
	}
	return 0
}

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// note writes a line for people to stderr.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.streams.Err, format+"\n", args...)
}

func exitCode(ctx context.Context, err error) int {
	var exit exitError
	switch {
	case err == nil:
		return ExitOK
	case asExit(err, &exit):
		return exit.code
	case ctx.Err() != nil:
		return ExitInterrupted
	}
	switch errs.CodeOf(err) {
	case errs.Unavailable, errs.Timeout:
		return ExitUnreachable
	case errs.Denied, errs.Unauthenticated, errs.Revoked:
		return ExitDenied
	case errs.RolledBack:
		return ExitRolledBack
	case errs.Canceled:
		return ExitInterrupted
	}
	return ExitFailed
}

// report writes an error: what failed, where, and what to do next; with a machine format, as one JSON object.
func (a *app) report(err error, code int) {
	var exit exitError
	if asExit(err, &exit) {
		return
	}
	if a.format == string(output.JSON) || a.format == string(output.YAML) {
		line, _ := json.Marshal(map[string]any{"message_type": "exit_error", "code": code, "reason": errs.CodeOf(err),
			"message": err.Error(), "hint": errs.HintOf(err)})
		a.note("%s", line)
		return
	}
	a.note("error: %v", err)
	if hint := errs.HintOf(err); hint != "" {
		a.note("hint: %s", hint)
	}
}
