package cmd

import (
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/infractl/infractl/internal/console"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) instanceLogsCmd() *cobra.Command {
	var o logsOptions
	c := &cobra.Command{
		Use: "logs NAME [" + strings.Join(console.Parts(), "|") + "]", Short: "Show the logs of an instance's containers",
		Long: `Show the logs of an instance's containers, or of one of them: the application, the database, the scheduled jobs. It needs no login on
the host; who looked at what stands in the audit log.`,
		Example: "  infractl instance logs acme\n  infractl instance logs acme app -f\n  infractl instance logs acme db --since 1h", Args: arity(1, 2),
		ValidArgsFunction: a.secondWord(instanceNames, console.Parts()...),
		RunE: func(c *cobra.Command, args []string) error {
			o.allLines = o.since != "" && !c.Flags().Changed("tail")
			o.instance = args[0]
			if len(args) > 1 {
				o.service = args[1]
			}
			return a.runLogs(c.Context(), o)
		},
	}
	logsFlags(c, &o)
	return c
}

func (a *app) instanceExecCmd() *cobra.Command {
	var o execOptions
	part := "app"
	c := &cobra.Command{
		Use: "exec NAME [flags] -- COMMAND [ARGS...]", Short: "Run a command in a container of an instance",
		Long: `Run a command in the application's container of an instance, or with --part in another one, as infractl exec does in one of a stack.
Who ran what stands in the audit log, with all arguments: write no secret there. The database takes its administrator without a password
from inside its container.

The command's exit code becomes infractl's. When infractl itself fails, it says so on stderr, in a line that begins with "error:".`,
		Example: "  infractl instance exec acme -- php -v\n  infractl instance exec acme --user www-data -- sh\n" +
			"  infractl instance exec acme --part db -n -- mariadb-dump dolibarr > acme.sql",
		Args: func(c *cobra.Command, args []string) error {
			if c.ArgsLenAtDash() == 0 || len(args) > 0 && c.ArgsLenAtDash() > 1 {
				return errs.New(errs.Invalid, "the instance comes first, then --, then the command").WithHint("infractl instance exec NAME -- COMMAND")
			}
			return arity(2, math.MaxInt)(c, args)
		},
		ValidArgsFunction: firstOnly(a.completer(instanceNames)),
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(console.Parts(), part) {
				return errs.New(errs.Invalid, "an instance has no part %.20q", part).WithHint("--part %s", strings.Join(console.Parts(), ", "))
			}
			o.command = &v1.ExecCommand{Instance: args[0], Service: part, Argv: args[1:], User: o.user}
			return a.runExec(c.Context(), o)
		},
	}
	execFlags(c, &o)
	c.Flags().StringVar(&part, "part", part, "the container: "+strings.Join(console.Parts(), ", "))
	must(c.RegisterFlagCompletionFunc("part", cobra.FixedCompletions(console.Parts(), cobra.ShellCompDirectiveNoFileComp)))
	return c
}
