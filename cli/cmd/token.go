package cmd

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) tokenCmd() *cobra.Command {
	return group("token", "Make, list and revoke join tokens", a.tokenCreateCmd(), a.tokenListCmd(), a.tokenRevokeCmd())
}

func (a *app) tokenCreateCmd() *cobra.Command {
	var node, role string
	var ttl time.Duration
	var pending bool
	c := &cobra.Command{
		Use: "create", Short: "Make a one-use join token for a node or a role, or a text for the pending lane",
		Long: `Make a one-use join token. Its text is printed once, to stdout, and goes to the machine as /etc/infractl/join-token, into
its cloud-init seed, or into the environment of the agent's unit.

With --pending it is a text without a secret, good for any number of machines and without an end: it says where the server is and
how it is recognised. A machine that shows it waits until somebody lets it in: infractl node list, infractl node approve.`,
		Example: "  infractl token create --node srv-prod > join-token\n  infractl token create --role prod --ttl 15m\n  infractl token create --pending > join-token",
		Args:    arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if pending {
				return a.pendingText(c.Context())
			}
			if (node == "") == (role == "") {
				return errs.New(errs.Invalid, "a token is for a node or for a role").WithHint("infractl token create --node NAME, or --role ROLE, or --pending")
			}
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				req := &v1.CreateTokenRequest{Node: node, Role: role}
				if ttl != 0 {
					req.Ttl = durationpb.New(ttl)
				}
				t, err := v1.NewTokenServiceClient(conn).CreateToken(ctx, req)
				if err != nil {
					return err
				}
				return w.Message(t, func() error {
					a.note("token %s for %s, ends %s; it is shown this once", t.GetToken().GetId(), node+role, a.until(t.GetToken().GetExpires()))
					return w.Raw([]byte(t.GetJoin() + "\n"))
				})
			})
		},
	}
	f := c.Flags()
	f.StringVar(&node, "node", "", "the node that it is for")
	f.StringVar(&role, "role", "", "the role that it is for: the first new node of that role may use it")
	f.DurationVar(&ttl, "ttl", 0, "how long it lives, 168h at most (default 1h)")
	f.BoolVar(&pending, "pending", false, "a text without a secret: machines that show it wait for infractl node approve")
	for _, other := range []string{"node", "role", "ttl"} {
		c.MarkFlagsMutuallyExclusive("pending", other)
	}
	a.completeNodes(c, "node")
	roles := []string{site.RoleRouter, site.RoleRelay, site.RoleServices, site.RoleSupervision, site.RoleProd, site.RolePreprod}
	must(c.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(roles, cobra.ShellCompDirectiveNoFileComp)))
	return c
}

// pendingText prints the text that lets machines ask to be let in.
func (a *app) pendingText(ctx context.Context) error {
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		t, err := v1.NewTokenServiceClient(conn).CreateToken(ctx, &v1.CreateTokenRequest{Pending: true})
		if err != nil {
			return err
		}
		return w.Message(t, func() error {
			a.note("no token: machines with this text wait for infractl node approve; it has no secret and no end")
			return w.Raw([]byte(t.GetJoin() + "\n"))
		})
	})
}

func (a *app) tokenListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List join tokens, without their secrets", Example: "  infractl token list", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewTokenServiceClient(conn).ListTokens(ctx, &v1.ListTokensRequest{})
				if err != nil {
					return err
				}
				return w.Message(list, func() error {
					var rows [][]string
					for _, t := range list.GetTokens() {
						rows = append(rows, []string{t.GetId(), dash(t.GetNode()), dash(t.GetRole()), a.ago(t.GetCreated()), a.tokenState(t),
							dash(t.GetOperator())})
					}
					return w.Rows([]string{"TOKEN", "NODE", "ROLE", "MADE", "STATE", "OPERATOR"}, rows)
				})
			})
		},
	}
}

func (a *app) tokenState(t *v1.Token) string {
	switch ends := a.until(t.GetExpires()); {
	case t.GetUsedBy() != "":
		return "used by " + t.GetUsedBy()
	case t.GetRevoked():
		return "revoked"
	case ends == "expired":
		return ends
	default:
		return "ends " + ends
	}
}

func (a *app) tokenRevokeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "revoke TOKEN", Short: "Make a join token useless", Example: "  infractl token revoke t-1a2b", Args: arity(1, 1),
		ValidArgsFunction: firstOnly(a.completer(tokenIDs)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, _ *output.Writer) error {
				_, err := v1.NewTokenServiceClient(conn).RevokeToken(ctx, &v1.RevokeTokenRequest{Id: args[0]})
				if err == nil {
					a.note("token %s is useless from now on", args[0])
				}
				return err
			})
		},
	}
}
