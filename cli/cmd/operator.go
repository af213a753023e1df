package cmd

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) operatorCmd() *cobra.Command {
	return group("operator", "Add, list and remove the people who use infractl", a.operatorAddCmd(), a.operatorListCmd(), a.operatorRoleCmd(),
		a.operatorRemoveCmd())
}

// roleNames are the roles as people type them.
func roleNames() []string {
	var names []string
	for _, r := range certs.Roles() {
		names = append(names, string(r))
	}
	return names
}

func parseRole(text string) (v1.Role, error) {
	role, err := certs.ParseRole(text)
	if err != nil {
		return v1.Role_ROLE_UNSPECIFIED, err
	}
	return v1.Role(v1.Role_value["ROLE_"+strings.ToUpper(string(role))]), nil
}

func (a *app) operatorAddCmd() *cobra.Command {
	var role string
	var ttl time.Duration
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a person, or make a new login code for one",
		Long: `Add a person and make a one-use login code. Its text is printed once, to stdout, and is good for one "infractl login" on that
person's machine. For a person who exists, leave --role out: the code is then for a new machine, and the login there ends the former
identity.`,
		Example: "  infractl operator add berta --role operator\n  infractl operator add berta --ttl 24h > code.txt",
		Args:    arity(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			req := &v1.AddOperatorRequest{Name: args[0]}
			if role != "" {
				var err error
				if req.Role, err = parseRole(role); err != nil {
					return err
				}
			}
			if ttl != 0 {
				req.Ttl = durationpb.New(ttl)
			}
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				answer, err := v1.NewOperatorServiceClient(conn).AddOperator(ctx, req)
				if err != nil {
					return err
				}
				return w.Message(answer, func() error {
					op := answer.GetOperator()
					a.note("login code for %s (%s), ends %s; it is shown this once", op.GetName(), word(op.GetRole(), "ROLE_"),
						a.until(op.GetCodeNotAfter()))
					a.note("next, on that person's machine: infractl login")
					return w.Raw([]byte(answer.GetCode() + "\n"))
				})
			})
		},
	}
	c.Flags().StringVar(&role, "role", "", "what the person may do: "+strings.Join(roleNames(), ", "))
	c.Flags().DurationVar(&ttl, "ttl", 0, "how long the code lives, 24h at most (default 1h)")
	must(c.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(roleNames(), cobra.ShellCompDirectiveNoFileComp)))
	return c
}

func (a *app) operatorListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the people who use infractl", Example: "  infractl operator list", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewOperatorServiceClient(conn).ListOperators(ctx, &v1.ListOperatorsRequest{})
				if err != nil {
					return err
				}
				return w.Message(list, func() error {
					var rows [][]string
					for _, op := range list.GetOperators() {
						seen, ends, code := "never", "-", "-"
						if op.GetLastSeen() != nil {
							seen = a.ago(op.GetLastSeen())
						}
						if op.GetNotAfter() != nil {
							ends = a.until(op.GetNotAfter())
						}
						if op.GetCodeNotAfter() != nil {
							code = "ends " + a.until(op.GetCodeNotAfter())
						}
						rows = append(rows, []string{op.GetName(), word(op.GetRole(), "ROLE_"), seen, ends, code, a.ago(op.GetCreated()),
							dash(op.GetCreatedBy())})
					}
					return w.Rows([]string{"NAME", "ROLE", "SEEN", "CERTIFICATE ENDS", "LOGIN CODE", "ADDED", "BY"}, rows)
				})
			})
		},
	}
}

func (a *app) operatorRoleCmd() *cobra.Command {
	return &cobra.Command{
		Use: "role NAME ROLE", Short: "Change what a person may do, from the next call on",
		Long: `Change what a person may do. It holds from the next call on; what is under way and not allowed any more is ended. Roles: ` +
			strings.Join(roleNames(), ", ") + `.`,
		Example: "  infractl operator role berta viewer", Args: arity(2, 2),
		ValidArgsFunction: func(c *cobra.Command, args []string, text string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return roleNames(), cobra.ShellCompDirectiveNoFileComp
			}
			return firstOnly(a.completer(operatorNames))(c, args, text)
		},
		RunE: func(c *cobra.Command, args []string) error {
			role, err := parseRole(args[1])
			if err != nil {
				return err
			}
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				answer, err := v1.NewOperatorServiceClient(conn).SetOperatorRole(ctx, &v1.SetOperatorRoleRequest{Name: args[0], Role: role})
				if err != nil {
					return err
				}
				a.note("%s has the role %s from now on", args[0], word(answer.GetOperator().GetRole(), "ROLE_"))
				return nil
			})
		},
	}
}

func (a *app) operatorRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Withdraw a person's identity at once",
		Long: `Withdraw a person's identity. The key is refused for good, what runs under it is cut, and an unused login code is worth nothing.
SSH sessions that are open stay open, and a person's own SSH keys are in the site file: take them out there, and apply.`,
		Example: "  infractl operator remove berta", Args: arity(1, 1), ValidArgsFunction: firstOnly(a.completer(operatorNames)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, _ *output.Writer) error {
				_, err := v1.NewOperatorServiceClient(conn).RemoveOperator(ctx, &v1.RemoveOperatorRequest{Name: args[0]})
				if err == nil {
					a.note("%s is removed", args[0])
					a.note("an account with SSH keys in the site file stays until you take it out there: infractl apply")
				}
				return err
			})
		},
	}
}

// operatorNames are the names for completion.
func operatorNames(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	list, err := v1.NewOperatorServiceClient(conn).ListOperators(ctx, &v1.ListOperatorsRequest{})
	var names []string
	for _, op := range list.GetOperators() {
		names = append(names, op.GetName())
	}
	return names, errs.FromGRPC(err)
}
