// Package cmd holds the verbs of infractl, one file each.
//
// A verb is a constructor that returns a cobra command; what it does is in a run function that takes data and returns an
// error, so that tests call it without a process. Data goes to stdout; progress, questions and errors go to stderr.
package cmd

import (
	"context"
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
	"github.com/infractl/infractl/internal/manpage"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Process is what the command line has of its process.
type Process struct {
	In       io.Reader
	Out, Err io.Writer
	// Clock is the operator's clock; nil means the machine's.
	Clock clock.Clock
}

// app is what all verbs share.
type app struct {
	proc   Process
	clock  clock.Clock
	format string
	server string
	config string
	yes    bool
	// said are the findings of the site file that were shown.
	said []*v1.Finding
}

// Run runs the command line and returns the exit code.
func Run(ctx context.Context, args []string, p Process) int {
	a := &app{proc: p, clock: p.Clock}
	if a.clock == nil {
		a.clock = clock.System{}
	}
	root := a.root()
	root.SetArgs(args)
	a.format = wantedFormat(args)
	err := root.ExecuteContext(ctx)
	code := exitCode(ctx, err)
	if err != nil {
		a.report(err, code)
	}
	return code
}

// wantedFormat finds the output format in arguments that may be faulty, so that a program hears of the fault in its format.
func wantedFormat(args []string) string {
	for i, arg := range args {
		for _, prefix := range []string{"--output=", "-o=", "-o"} {
			if value, ok := strings.CutPrefix(arg, prefix); ok && value != "" {
				return value
			}
		}
		if (arg == "-o" || arg == "--output") && i+1 < len(args) {
			return args[i+1]
		}
		if arg == "--" {
			break
		}
	}
	return string(output.Table)
}

func (a *app) root() *cobra.Command {
	root := group("infractl", "Run a Dolibarr hosting infrastructure from one site file")
	root.Long = `infractl runs a small hosting infrastructure from one site file.

A central server drives a light agent on each machine. "plan" shows what would change, "apply" changes it in waves; every
change that could lock somebody out reverts by itself unless the server and its witnesses confirm that all ways are open.

Data goes to stdout; progress, questions and errors go to stderr. With -o json or -o yaml the data has the shape of the
contract's messages, and when a command fails the last line of stderr is one JSON object with message_type "exit_error".`
	root.SilenceUsage, root.SilenceErrors = true, true
	root.SetUsageFunc(usage)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return errs.New(errs.Invalid, "%w", err).WithHint("%s --help", c.CommandPath())
	})
	root.SetIn(a.proc.In)
	root.SetOut(a.proc.Out)
	root.SetErr(a.proc.Err)
	f := root.PersistentFlags()
	f.StringVarP(&a.format, "output", "o", string(output.Table), "output format: "+strings.Join(output.Formats(), ", "))
	f.StringVar(&a.server, "server", "", "server address HOST:PORT instead of the stored one")
	f.StringVar(&a.config, "config", "", "folder of identity and settings (default $INFRACTL_CONFIG or ~/.config/infractl)")
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(output.Formats(), cobra.ShellCompDirectiveNoFileComp)))
	groups := []struct {
		id, title string
		verbs     []*cobra.Command
	}{
		{"site", "Site:", []*cobra.Command{a.siteCmd(), a.planCmd(), a.applyCmd(), a.diffCmd(), a.flowsCmd(), a.dnsCmd(), a.routerCmd()}},
		{"fleet", "Fleet:", []*cobra.Command{a.statusCmd(), a.topCmd(), a.nodeCmd(), a.tokenCmd(), a.instanceCmd(), a.stackCmd(), a.imageCmd(), a.operationCmd(), a.rolloutCmd(), a.sshCmd(), a.logsCmd(), a.execCmd(), a.secretCmd()}},
		{"people", "People:", []*cobra.Command{a.loginCmd(), a.whoamiCmd(), a.operatorCmd(), a.vpnCmd(), a.auditCmd()}},
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
	root.AddCommand(manpage.Command(1))
	complete(root)
	return root
}

// complete gives the usual exit codes to commands that name no special ones.
func complete(c *cobra.Command) {
	if c.Annotations[groupKey] == "" && c.Annotations[exitsKey] == "" {
		exits(c, true)
	}
	for _, sub := range c.Commands() {
		complete(sub)
	}
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
	return f.Connect(ctx, client.Options{Server: a.server, Clock: a.clock, NotRenewed: a.notRenewed})
}

// notRenewed warns that the identity was not renewed: what the operator asked for goes on.
func (a *app) notRenewed(err error) {
	a.note("warning: %v; tried again by the next command", err)
	hint := errs.HintOf(err)
	if hint == "" {
		hint = "infractl whoami says until when the identity is good"
	}
	a.note("hint: %s", hint)
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
	return output.New(a.proc.Out, output.Format(a.format), width(a.proc.Out))
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

// machine reports whether a program reads the output.
func (a *app) machine() bool {
	return a.format == string(output.JSON) || a.format == string(output.YAML)
}

// note writes a line for people to stderr.
func (a *app) note(format string, args ...any) {
	fmt.Fprintln(a.proc.Err, output.Clean(fmt.Sprintf(format, args...)))
}
