package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/cli/client"
	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/jointoken"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// DefaultSocket is the server's Unix socket on its own machine.
const DefaultSocket = "/run/infractl-server/admin.sock"

func (a *app) loginCmd() *cobra.Command {
	var socket, name string
	c := &cobra.Command{
		Use:   "login [CODE]",
		Short: "Exchange a one-use code for an identity",
		Long: `Exchange a one-use code for a certificate. There are two kinds of codes.

A login code is what an admin makes with "infractl operator add": it says where the server is and works from any machine that
reaches it. An admin code comes from "infractl-server init" or "infractl-server admin-code", makes an admin, and works only on
the server's machine, as root, over its Unix socket.

The code is asked for, or read from stdin. It may be given as an argument too, but then it stands in the shell's history and every
user of this machine sees it in the list of processes; a code that was used is worth nothing, one whose login failed is.
The key is made here and never leaves this machine's configuration folder.`,
		Example: "  infractl login\n  infractl login < code.txt\n  sudo infractl login --name anna",
		Args:    arity(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.runLogin(c.Context(), loginOptions{socket: socket, name: name, code: strings.Join(args, "")})
		},
	}
	exits(c, true)
	c.Flags().StringVar(&socket, "socket", DefaultSocket, "the server's Unix socket, for an admin code")
	c.Flags().StringVar(&name, "name", "", "your name as an operator, for an admin code: lower-case letters, digits, hyphens (default: your local "+
		"name, admin for root)")
	return c
}

// localName is the name of who runs this, which is no name of a person when it is root.
func localName() string {
	if u, err := user.Current(); err == nil && u.Username != "root" {
		return u.Username
	}
	return "admin"
}

type loginOptions struct {
	// socket and name count for an admin code; a login code knows both.
	socket, name string
	// code is the code if it stands on the command line.
	code string
}

func (a *app) runLogin(ctx context.Context, o loginOptions) error {
	f, err := a.folder()
	if err != nil {
		return err
	}
	if o.code == "" {
		if o.code, err = a.readCode(ctx); err != nil {
			return err
		}
	}
	key, err := client.NewKey()
	if err != nil {
		return err
	}
	var id *v1.OperatorIdentity
	if jointoken.IsLogin(o.code) {
		id, err = a.loginFromAfar(ctx, o, key)
	} else {
		id, err = a.loginOnTheSpot(ctx, o, key)
	}
	if err != nil {
		return err
	}
	if err := f.Store(key, id); err != nil {
		return err
	}
	a.note("logged in to site %s as %s (%s) until %s; identity in %s", id.GetSite(), id.GetName(), word(id.GetRole(), "ROLE_"),
		id.GetNotAfter().AsTime().Local().Format("2006-01-02 15:04"), f.Dir())
	a.note("next: infractl status")
	return nil
}

// loginFromAfar uses a login code, which says where the server is and who logs in.
func (a *app) loginFromAfar(ctx context.Context, o loginOptions, key *client.KeyAndCSR) (*v1.OperatorIdentity, error) {
	if o.name != "" {
		return nil, errs.New(errs.Invalid, "a login code says itself whose it is").WithHint("leave --name out")
	}
	code, err := jointoken.ParseLogin(o.code)
	if err != nil {
		return nil, err
	}
	id, now, err := client.Redeem(ctx, code, key, 0)
	if err != nil {
		return nil, errs.Wrap("log in", err)
	}
	if off := a.clock.Now().Sub(now); off.Abs() > time.Minute {
		a.note("warning: this machine's clock is %s off the server's; certificates are checked by it", off.Abs().Round(time.Second))
	}
	return id, nil
}

// loginOnTheSpot uses an admin code, over the server's socket.
func (a *app) loginOnTheSpot(ctx context.Context, o loginOptions, key *client.KeyAndCSR) (*v1.OperatorIdentity, error) {
	if o.name == "" {
		o.name = localName()
	}
	if err := certs.ValidateName("operator name", o.name); err != nil {
		return nil, err
	}
	if err := checkSocket(o.socket); err != nil {
		return nil, err
	}
	conn, err := client.Socket(o.socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answer, err := v1.NewOperatorServiceClient(conn).Login(ctx, &v1.LoginRequest{Code: o.code, Name: o.name, Csr: key.CSR})
	if err != nil {
		return nil, loginError(o.socket, errs.FromGRPC(err))
	}
	return answer.GetIdentity(), nil
}

// checkSocket says what is wrong with the socket.
func checkSocket(socket string) error {
	info, err := os.Stat(socket)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return errs.New(errs.Denied, "the server's socket is for root alone").At(socket).WithHint("log in as root: sudo infractl login")
	case err != nil:
		return errs.New(errs.Unavailable, "no server socket").At(socket).
			WithHint("an admin code works on the server's machine, while infractl-server runs; or name its socket with --socket")
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
					w.Printf("server %s at %s; identity in %s\n", dash(id.GetServerVersion()), strings.TrimPrefix(conn.Target(), "passthrough:///"), a.identityDir())
					return nil
				})
			})
		},
	}
}

// identityDir is where the identity is kept; "-" where that is not known.
func (a *app) identityDir() string {
	f, err := a.folder()
	if err != nil {
		return "-"
	}
	return f.Dir()
}
