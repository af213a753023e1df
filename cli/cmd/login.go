package cmd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

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
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.runLogin(c.Context(), socket, name)
		},
	}
	c.Flags().StringVar(&socket, "socket", DefaultSocket, "the server's Unix socket")
	c.Flags().StringVar(&name, "name", defaultName(), "your name as an operator: lower-case letters, digits, hyphens")
	return c
}

func defaultName() string {
	if u, err := user.Current(); err == nil && u.Username != "root" {
		return u.Username
	}
	return "admin"
}

func (a *app) runLogin(ctx context.Context, socket, name string) error {
	f, err := a.folder()
	if err != nil {
		return err
	}
	if _, err := os.Stat(socket); err != nil {
		return errs.New(errs.Unavailable, "no server socket: %w", err).
			WithHint("log in on the server's machine as root, while infractl-server runs; or name its socket with --socket")
	}
	code, err := a.readCode()
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
		return errs.Wrap("log in", errs.FromGRPC(err))
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

// readCode reads the code without showing it, or the first line of stdin.
func (a *app) readCode() (string, error) {
	if in, ok := a.streams.In.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		fmt.Fprint(a.streams.Err, "code: ")
		code, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(a.streams.Err)
		return strings.TrimSpace(string(code)), errs.Wrap("read code", err)
	}
	line, err := bufio.NewReader(io.LimitReader(a.streams.In, 4096)).ReadString('\n')
	if line = strings.TrimSpace(line); line == "" {
		return "", errs.New(errs.Invalid, "no code on stdin: %v", err).WithHint("infractl login < code.txt")
	}
	return line, nil
}

func (a *app) whoamiCmd() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Show who you are to the server", Example: "  infractl whoami -o json", Args: cobra.NoArgs,
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
