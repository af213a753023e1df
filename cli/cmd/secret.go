package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) secretCmd() *cobra.Command {
	c := group("secret", "Set, list, rotate and remove secrets", a.secretSetCmd(), a.secretListCmd(), a.secretRotateCmd(), a.secretRemoveCmd())
	c.Long = `Secrets are named values that stacks use: passwords, tokens, keys. The server keeps them encrypted and gives them to the hosts whose
stacks name them, and to nobody else: no command shows a value.`
	return c
}

type secretSetOptions struct {
	name, file    string
	trim, onlyNew bool
}

func (a *app) secretSetCmd() *cobra.Command {
	var o secretSetOptions
	c := &cobra.Command{
		Use: "set NAME", Short: "Give a secret a new value, from a file, from stdin, or typed",
		Long: `Give a secret a new value and bring it to the hosts that use it. The value comes from a file (-f), from stdin, or is asked for twice
on a terminal; it is never an argument, because arguments stand in the list of processes.

The bytes of a file or of stdin are kept as they are, with a line feed at their end where there is one: a key file is stored as
it is. --trim takes one line feed (with the carriage return before it) off, for what "echo" and editors put behind a password. A
value that is typed has none.`,
		Example: "  infractl secret set db-root\n  infractl secret set tls-key -f key.pem\n  pwgen -s 40 1 | infractl secret set db-root --trim",
		Args:    arity(1, 1), ValidArgsFunction: firstOnly(a.completer(secretNames)),
		RunE: func(c *cobra.Command, args []string) error {
			o.name = args[0]
			return a.runSecretSet(c.Context(), o)
		},
	}
	c.Flags().StringVarP(&o.file, "file", "f", "", `read the value from a file; "-" is stdin`)
	c.Flags().BoolVar(&o.trim, "trim", false, "take one line feed off the end of the value")
	c.Flags().BoolVar(&o.onlyNew, "only-new", false, "fail if there is such a secret already")
	return c
}

func (a *app) runSecretSet(ctx context.Context, o secretSetOptions) error {
	if err := secret.CheckName(o.name); err != nil {
		return err
	}
	value, err := a.readValue(ctx, o)
	if err != nil {
		return errs.Wrap("read the secret", err)
	}
	if err := secret.CheckValue(value); err != nil {
		return err
	}
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		res, err := v1.NewSecretServiceClient(conn).SetSecret(ctx, &v1.SetSecretRequest{Name: o.name, Value: value.Reveal(), OnlyNew: o.onlyNew})
		if err != nil {
			return err
		}
		return w.Message(res, func() error { a.sayStored(res.GetSecret(), res.GetRolloutId()); return nil })
	})
}

// sayStored says what comes next.
func (a *app) sayStored(s *v1.Secret, rollout string) {
	a.note("secret %s has version %s", s.GetName(), s.GetVersion())
	switch {
	case rollout != "":
		a.note("rollout %s brings it to: %s", rollout, strings.Join(s.GetUsedBy(), ", "))
		a.note("next: infractl operation watch %s", rollout)
	case len(s.GetUsedBy()) > 0:
		a.note("it is used by %s, and every host has what it wants", strings.Join(s.GetUsedBy(), ", "))
	default:
		a.note("nothing in the site uses it yet")
	}
}

func (a *app) readValue(ctx context.Context, o secretSetOptions) (secret.Value, error) {
	if o.file == "" && isTerminal(a.proc.In) {
		return a.askSecret(ctx, o.name)
	}
	in := a.proc.In
	if o.file != "" && o.file != "-" {
		f, err := os.Open(o.file)
		if err != nil {
			code := errs.Invalid
			if errors.Is(err, fs.ErrNotExist) {
				code = errs.NotFound
			}
			return secret.Value{}, errs.New(code, "%w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := await(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(in, secret.MaxValue+3)) })
	if err != nil {
		return secret.Value{}, err
	}
	switch {
	case o.trim:
		if cut, ok := bytes.CutSuffix(data, []byte("\n")); ok {
			data = bytes.TrimSuffix(cut, []byte("\r"))
		}
	case bytes.HasSuffix(data, []byte("\n")) && bytes.Count(data, []byte("\n")) == 1:
		a.note("warning: the value ends with a line feed, which is kept; --trim takes it off")
	}
	return secret.New(data), nil
}

// askSecret asks twice, because nobody sees what they type.
func (a *app) askSecret(ctx context.Context, name string) (secret.Value, error) {
	fd := int(a.proc.In.(*os.File).Fd()) // isTerminal said that it is one
	state, err := term.GetState(fd)
	if err != nil {
		return secret.Value{}, err
	}
	defer func() { _ = term.Restore(fd, state) }() // a prompt that was given up leaves the terminal without echo
	ask := func(question string) (secret.Value, error) {
		fmt.Fprint(a.proc.Err, question)
		typed, err := await(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
		fmt.Fprintln(a.proc.Err)
		return secret.New(typed), err
	}
	first, err := ask("Value of " + name + ": ")
	if err != nil {
		return secret.Value{}, err
	}
	again, err := ask("Once more: ")
	if err != nil {
		return secret.Value{}, err
	}
	if !bytes.Equal(first.Reveal(), again.Reveal()) {
		return secret.Value{}, errs.New(errs.Invalid, "the two values differ; nothing was changed")
	}
	return first, nil
}

func (a *app) secretListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List secrets, those that the site names and nobody has set included; never a value",
		Example: "  infractl secret list", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewSecretServiceClient(conn).ListSecrets(ctx, &v1.ListSecretsRequest{})
				if err != nil {
					return err
				}
				return w.Message(list, func() error {
					var rows [][]string
					for _, s := range list.GetSecrets() {
						rows = append(rows, []string{s.GetName(), dash(s.GetVersion()), a.secretSet(s), dash(s.GetOperator()), dash(strings.Join(s.GetUsedBy(), ", "))})
					}
					return w.Rows([]string{"SECRET", "VERSION", "SET", "OPERATOR", "USED BY"}, rows)
				})
			})
		},
	}
}

func (a *app) secretSet(s *v1.Secret) string {
	switch {
	case s.GetMissing():
		return "MISSING"
	case s.GetGenerated():
		return a.ago(s.GetUpdated()) + ", random"
	}
	return a.ago(s.GetUpdated())
}

func (a *app) secretRotateCmd() *cobra.Command {
	var length uint32
	c := &cobra.Command{
		Use: "rotate NAME", Short: "Give a secret a random value and bring it to the hosts that use it",
		Long: `Give a secret a random value (letters, digits, - and _) that nobody sees, and bring it to the hosts that use it. A secret that does not
exist is made.

What uses it must take a new value at its next start. Some programs read a password only once, when their data is made (databases
do); change it there first, and set the secret to the same value.`,
		Example: "  infractl secret rotate grafana-admin\n  infractl secret rotate api-token --length 64", Args: arity(1, 1),
		ValidArgsFunction: firstOnly(a.completer(secretNames)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				res, err := v1.NewSecretServiceClient(conn).RotateSecret(ctx, &v1.RotateSecretRequest{Name: args[0], Length: length})
				if err != nil {
					return err
				}
				return w.Message(res, func() error { a.sayStored(res.GetSecret(), res.GetRolloutId()); return nil })
			})
		},
	}
	c.Flags().Uint32Var(&length, "length", 0, "characters, 16 to 128 (default 32)")
	return c
}

func (a *app) secretRemoveCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "remove NAME", Short: "Remove a secret that nothing uses", Example: "  infractl secret remove old-token", Args: arity(1, 1),
		ValidArgsFunction: firstOnly(a.completer(secretNames)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(c.Context(), "Remove secret "+args[0]+" for good?"); err != nil {
				return err
			}
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, _ *output.Writer) error {
				_, err := v1.NewSecretServiceClient(conn).RemoveSecret(ctx, &v1.RemoveSecretRequest{Name: args[0]})
				if err == nil {
					a.note("secret %s is gone", args[0])
				}
				return err
			})
		},
	}
	a.yesFlag(c)
	return c
}

func secretNames(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	list, err := v1.NewSecretServiceClient(conn).ListSecrets(ctx, &v1.ListSecretsRequest{})
	var names []string
	for _, s := range list.GetSecrets() {
		names = append(names, output.Line(s.GetName())+"\t"+output.Line(strings.Join(s.GetUsedBy(), ", ")))
	}
	return names, err
}
