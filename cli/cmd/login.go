package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/cli/client"
	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// DefaultSocket is the server's Unix socket on its own machine.
const DefaultSocket = "/run/infractl-server/admin.sock"

func (a *app) loginCmd() *cobra.Command {
	var socket, name string
	c := &cobra.Command{
		Use:   "login",
		Short: "Exchange a one-use code for an identity",
		Long: `Exchange a one-use code for a certificate.

The code comes from "infractl-server init" or "infractl-server admin-code" and is read from the terminal or from stdin, never
from the command line. It works only on the server's root-owned Unix socket. The key is made here and never leaves this
machine's configuration folder.`,
		Example: "  infractl login --name anna\n  infractl login --name anna < code.txt",
		Args:    arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if name == "" {
				name = localName()
			}
			return a.runLogin(c.Context(), socket, name)
		},
	}
	exits(c, true)
	c.Flags().StringVar(&socket, "socket", DefaultSocket, "the server's Unix socket")
	c.Flags().StringVar(&name, "name", "", "your name as an operator: lower-case letters, digits, hyphens (default: your local name, admin for root)")
	return c
}

// localName is the name of who runs this, which is no name of a person when it is root.
func localName() string {
	if u, err := user.Current(); err == nil && u.Username != "root" {
		return u.Username
	}
	return "admin"
}

func (a *app) runLogin(ctx context.Context, socket, name string) error {
	if err := certs.ValidateName("operator name", name); err != nil {
		return err
	}
	f, err := a.folder()
	if err != nil {
		return err
	}
	if err := checkSocket(socket); err != nil {
		return err
	}
	code, err := a.readCode(ctx)
	if err != nil {
		return err
	}
	key, err := client.NewKey()
	if err != nil {
		return err
	}
	conn, err := client.Socket(socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := v1.NewOperatorServiceClient(conn).Login(ctx, &v1.LoginRequest{Code: code, Name: name, Csr: key.CSR})
	if err != nil {
		return loginError(socket, errs.FromGRPC(err))
	}
	id := answer.GetIdentity()
	if err := f.Store(key, id); err != nil {
		return err
	}
	a.note("logged in to site %s as %s (%s) until %s; identity in %s", id.GetSite(), id.GetName(), word(id.GetRole(), "ROLE_"),
		id.GetNotAfter().AsTime().Local().Format("2006-01-02 15:04"), f.Dir())
	a.note("next: infractl status")
	return nil
}

// checkSocket says what is wrong before a code is asked for.
func checkSocket(socket string) error {
	info, err := os.Stat(socket)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return errs.New(errs.Denied, "the server's socket is for root alone").At(socket).WithHint("log in as root: sudo infractl login")
	case err != nil:
		return errs.New(errs.Unavailable, "no server socket").At(socket).
			WithHint("log in on the server's machine, while infractl-server runs; or name its socket with --socket")
	case info.Mode()&fs.ModeSocket == 0:
		return errs.New(errs.Invalid, "this is no socket").At(socket).WithHint("name the server's socket with --socket")
	}
	return nil
}

func loginError(socket string, err error) error {
	if errs.Is(err, errs.Unavailable) && errs.HintOf(err) == "" {
		return errs.New(errs.Unavailable, "log in: the server does not answer").At(socket).
			WithHint("does it run, and are you root? systemctl status infractl-server")
	}
	return errs.Wrap("log in", err)
}

// readCode reads the code without showing it, or the first line of stdin.
func (a *app) readCode(ctx context.Context) (string, error) {
	code, err := a.readSecret(ctx, "code: ")
	if err != nil {
		return "", errs.Wrap("read code", err)
	}
	if code == "" {
		return "", errs.New(errs.Invalid, "no code on stdin").WithHint("for example: infractl login < code.txt")
	}
	return code, nil
}

func (a *app) readSecret(ctx context.Context, prompt string) (string, error) {
	if !isTerminal(a.proc.In) {
		return await(ctx, func() (string, error) { return readLine(a.proc.In) })
	}
	fd := int(a.proc.In.(*os.File).Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprint(a.proc.Err, prompt)
	secret, err := await(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	fmt.Fprintln(a.proc.Err)
	if err != nil {
		_ = term.Restore(fd, state) // an interrupted reading leaves the terminal silent
	}
	return strings.TrimSpace(string(secret)), err
}

func (a *app) whoamiCmd() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Show who you are to the server", Example: "  infractl whoami -o json", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				id, err := v1.NewOperatorServiceClient(conn).GetIdentity(ctx, &v1.GetIdentityRequest{})
				if err != nil {
					return err
				}
				return w.Message(id, func() error {
					w.Printf("%s, %s of site %s; certificate ends %s\n", id.GetName(), word(id.GetRole(), "ROLE_"), id.GetSite(),
						a.until(id.GetNotAfter()))
					return nil
				})
			})
		},
	}
}
