package cmd

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// passwordFlags say where an administrator's password goes: to a terminal by itself, elsewhere only when asked for.
type passwordFlags struct {
	file string
	show bool
}

func (p *passwordFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&p.file, "password-file", "", "write the password to a new file (mode 0600) instead of the terminal")
	c.Flags().BoolVar(&p.show, "show-password", false, "write it to stdout even where that is no terminal, and into -o json")
	c.MarkFlagsMutuallyExclusive("password-file", "show-password")
}

func (p *passwordFlags) wanted() bool { return p.file != "" || p.show }

// open makes the file before anything changes; a dry run makes none.
func (p *passwordFlags) open(dry bool) (*pending, error) {
	if dry {
		return &pending{}, nil
	}
	return openPending(p.file, "the password")
}

// canGive reports whether there is somebody to give a password to.
func (a *app) canGive(file *pending, o *passwordFlags) bool {
	return file.file != nil || o.show || isTerminal(a.proc.Out) && !a.machine()
}

func (a *app) instancePasswordCmd() *cobra.Command {
	var o passwordFlags
	var database, detach bool
	c := &cobra.Command{
		Use: "password NAME", Short: "Give an instance's administrator, or its database, a new random password",
		Long: `Give an instance's administrator a new random password and show it, this once: on a terminal, in a new file (--password-file), or with
--show-password wherever stdout goes. The former one is good no longer.

With --database its database gets new passwords instead, its root's and its application's, which nobody sees. That is an operation: the
application goes on all the while, because the former ones are good until the new ones were tried.`,
		Example: "  infractl instance password acme\n  infractl instance password acme --password-file acme.password\n" +
			"  infractl instance password acme --show-password -o json\n  infractl instance password acme --database --yes",
		Args: arity(1, 1), ValidArgsFunction: firstOnly(a.completer(instanceNames)),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case database:
				return a.changeInstance(c.Context(), a.databasePasswords(args[0], detach))
			case detach:
				return errs.New(errs.Invalid, "--detach goes with --database: a new password is shown at once")
			}
			return a.runPassword(c.Context(), args[0], &o)
		},
	}
	o.add(c)
	c.Flags().BoolVar(&database, "database", false, "new passwords for its database instead")
	c.Flags().BoolVar(&detach, "detach", false, "do not wait for the end of --database")
	c.MarkFlagsMutuallyExclusive("database", "password-file")
	c.MarkFlagsMutuallyExclusive("database", "show-password")
	a.yesFlag(c)
	stepExits(c)
	return c
}

func (a *app) databasePasswords(name string, detach bool) *instanceChange {
	return &instanceChange{name: name, detach: detach,
		ask: func(ctx context.Context, _ *v1.GetInstanceResponse) error {
			return a.confirm(ctx, "Give the database of "+name+" new passwords? Whoever else logs into it with the present ones is cut off.")
		},
		call: func(ctx context.Context, api v1.InstanceServiceClient) (changed, error) {
			return api.RotateDatabase(ctx, &v1.RotateDatabaseRequest{Name: name})
		},
		done: func(i *v1.Instance) { a.note("the database of %s has new passwords", i.GetName()) },
	}
}

func (a *app) runPassword(ctx context.Context, name string, o *passwordFlags) error {
	file, err := o.open(false)
	if err != nil {
		return err
	}
	defer file.discard()
	if !a.canGive(file, o) {
		return errs.New(errs.Precondition, "stdout is no terminal, and nobody would see the password; nothing was changed").
			WithHint("add --password-file FILE, or --show-password to write it to stdout all the same")
	}
	if err := a.confirm(ctx, "Give the administrator of "+name+" a new password? The present one is good no longer."); err != nil {
		return err
	}
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		res, err := v1.NewInstanceServiceClient(conn).ResetPassword(ctx, &v1.ResetPasswordRequest{Name: name})
		if err != nil {
			return err
		}
		if file.file != nil {
			if err := file.write(res.GetPassword() + "\n"); err != nil {
				return errs.Wrap("save the password of instance "+name, err)
			}
			a.note("the password is in %s", o.file)
			res.Password = ""
		}
		return w.Message(res, func() error {
			pairs := [][2]string{{"login", res.GetLogin()}}
			if res.GetPassword() != "" {
				pairs = append(pairs, [2]string{"password", res.GetPassword()})
				a.note("the password is not shown again")
			}
			return w.Pairs(pairs)
		})
	})
}
