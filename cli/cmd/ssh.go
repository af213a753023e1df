package cmd

import (
	"context"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

type sshOptions struct {
	user     string
	identity string
	// breakGlass asks for the person's own key in place of a certificate.
	breakGlass bool
}

func (a *app) sshCmd() *cobra.Command {
	var o sshOptions
	c := &cobra.Command{
		Use: "ssh NODE [-- COMMAND...]", Short: "Log in to a node through the relay, with a certificate of ten minutes",
		Long: `Log in to a node through the relay with OpenSSH. Address, port and host keys come from the server, so that no host key is
ever accepted on first sight. The server makes a certificate for this one login: ten minutes, one account, one node; the key is made
for it and thrown away afterwards. ~/.ssh/config is not used. Options of the remote command stand after "--".

With --break-glass, with a key named by --identity, and when the server does not answer, your own SSH key is used instead: one that
the site file names for the account. Both kinds of logins are in the audit log, those with a key of one's own as "break-glass". While
the server is away, only nodes are known to which you have logged in before.`,
		Example:           "  infractl ssh srv-prod\n  infractl ssh srv-prod --user operator -- uptime -p\n  infractl ssh srv-prod --break-glass",
		Args:              arity(1, math.MaxInt),
		ValidArgsFunction: firstOnly(a.completer(nodeNames)),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("identity") {
				o.breakGlass = true
			}
			return a.runSSH(c.Context(), args[0], args[1:], o)
		},
	}
	c.Flags().StringVarP(&o.user, "user", "u", "", "account to log in to (default: the one of your name as an operator, or of your local name, if it is "+
		"one of ssh.users; else the first of them)")
	c.Flags().BoolVar(&o.breakGlass, "break-glass", false, "use your own SSH key, not a certificate of the server's")
	addIdentity(c, &o.identity)
	exits(c, true, meaning{ExitOK, "the session, or the command, ended with 0; otherwise its own code, and 255 when OpenSSH failed"})
	return c
}

// runSSH logs in with a certificate, or with the person's own key.
func (a *app) runSSH(ctx context.Context, node string, command []string, o sshOptions) error {
	var way sshWay
	var pass *sshPass
	err := a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, _ *output.Writer) (err error) {
		if way, err = a.sshWay(ctx, conn, node); err != nil || o.breakGlass {
			return err
		}
		o.user = accountName(o.user, a.operatorName(), localName(), way.Users)
		pass, err = newSSHPass(ctx, conn, way, o.user)
		return err
	})
	if errs.Is(err, errs.Unavailable) || err != nil && o.breakGlass {
		known, kerr := a.knownWay(node)
		if kerr != nil {
			return err
		}
		a.note("warning: %v", err)
		way, o.breakGlass = known, true
	} else if err != nil {
		return err
	}
	file, err := a.writeKnownHosts(node, way.KnownHosts)
	if err != nil {
		return err
	}
	if o.breakGlass {
		a.note("break-glass: logging in with your own key; the login is audited")
		o.user = accountName(o.user, a.operatorName(), localName(), way.Users)
		o.identity = identityFile(o.identity)
		return execProgram(buildSSH(way.Places, file, command, o, nil))
	}
	defer pass.remove()
	code, err := runProgram(buildSSH(way.Places, file, command, o, pass))
	if err != nil {
		return err
	}
	if code == sshFailed {
		a.note("hint: a node that has not taken up the SSH authority yet takes your own key only: infractl status; infractl ssh %s --break-glass", node)
	}
	if code != 0 {
		return exitError{code, "ssh ended with code " + strconv.Itoa(code)}
	}
	return nil
}

// sshFailed is OpenSSH's own exit code; a command's code may be the same.
const sshFailed = 255

// operatorName is the name in the identity, "" without one.
func (a *app) operatorName() string {
	f, err := a.folder()
	if err != nil {
		return ""
	}
	cred, err := f.Credential()
	if err != nil {
		return ""
	}
	return cred.Identity.Name
}

// sshWay is how a node is reached.
type sshWay struct {
	// Hops are the relay and the node, or the relay alone; Places are where their sshd listen.
	Hops   []string         `json:"hops"`
	Places []netip.AddrPort `json:"places"`
	// KnownHosts are the lines with their host keys.
	KnownHosts string `json:"known_hosts"`
	// Users are the accounts that may log in.
	Users []string `json:"users"`
}

// sshWay asks the server how a node is reached, and remembers it for when the server is away.
func (a *app) sshWay(ctx context.Context, conn *grpc.ClientConn, node string) (sshWay, error) {
	var way sshWay
	rev, err := v1.NewSiteServiceClient(conn).GetRevision(ctx, &v1.GetRevisionRequest{})
	if err != nil {
		return way, err
	}
	s, _ := site.Load(site.SourceFromProto(rev.GetSource()))
	if s == nil {
		return way, errs.New(errs.Precondition, "this command cannot read the server's site file").WithHint("use the server's version of infractl")
	}
	if _, ok := s.Node(node); !ok {
		return way, errs.New(errs.NotFound, "no node %q in revision %d", node, rev.GetRevision().GetNumber()).
			WithHint("nodes: %s", strings.Join(s.NodeNames(), ", "))
	}
	api := v1.NewNodeServiceClient(conn)
	way.Users, way.Hops = s.SSH.Users, []string{node}
	if relay := s.Relay().Name; node != relay {
		way.Hops = []string{relay, node}
	}
	for _, name := range way.Hops {
		answer, err := api.GetNode(ctx, &v1.GetNodeRequest{Name: name})
		if err != nil {
			return way, err
		}
		place, err := sshPlace(s, answer.GetNode())
		if err != nil {
			return way, err
		}
		lines, err := knownHosts(place, answer.GetNode().GetFacts().GetSshHostKeys())
		if err != nil {
			return way, errs.Wrap("host keys of "+name, err)
		}
		way.KnownHosts += lines
		way.Places = append(way.Places, place)
	}
	return way, a.rememberWay(node, way)
}

// accountName chooses the account to log in to.
func accountName(wanted, operator, local string, users []string) string {
	switch {
	case wanted != "":
		return wanted
	case operator != "" && slices.Contains(users, operator):
		return operator // the only one that the server makes certificates for
	case slices.Contains(users, local) || len(users) == 0:
		return local
	}
	return users[0]
}

// knownHosts writes known_hosts lines. Keys are read and written again, so that nothing but a key gets into the file.
func knownHosts(place netip.AddrPort, keys []string) (string, error) {
	host := place.Addr().String()
	if place.Port() != 22 { // OpenSSH looks for the bare address when the port is 22
		host = "[" + host + "]:" + port(place)
	}
	var b strings.Builder
	for _, line := range keys {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return "", errs.New(errs.Invalid, "a host key that the server names cannot be read")
		}
		b.WriteString(host + " " + string(ssh.MarshalAuthorizedKey(key)))
	}
	return b.String(), nil
}

// sshPlace is where a node's sshd listens now: the site's port once the node has it, else the one that it reports.
func sshPlace(s *site.Site, n *v1.Node) (netip.AddrPort, error) {
	member, ok := s.Node(n.GetName())
	if !ok {
		return netip.AddrPort{}, errs.New(errs.NotFound, "node %q is not in the site", n.GetName())
	}
	if len(n.GetFacts().GetSshHostKeys()) == 0 {
		return netip.AddrPort{}, errs.New(errs.Precondition, "the host keys of %s are not known yet", n.GetName()).
			WithHint("it reports them when its agent connects: infractl node show %s", n.GetName())
	}
	port := s.SSH.Port
	reported := n.GetFacts().GetSshPorts()
	if len(reported) > 0 && !slices.Contains(reported, uint32(port)) {
		port = uint16(reported[0])
	}
	return netip.AddrPortFrom(member.MainAddress(), port), nil
}

// writeKnownHosts keeps the pinned keys in the operator's folder, one file per target, so that two logins at a time do not take
// each other's keys away.
func (a *app) writeKnownHosts(node, content string) (string, error) {
	f, err := a.folder()
	if err != nil {
		return "", err
	}
	dir, err := filepath.Abs(filepath.Join(f.Dir(), "known_hosts.d"))
	if err != nil {
		return "", errs.Wrap("write known hosts", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", errs.Wrap("write known hosts", err)
	}
	path := filepath.Join(dir, node)
	return path, errs.Wrap("write known hosts", certs.WriteFile(path, []byte(content), 0o600))
}

// buildSSH returns the command line; way.Places are the relay and the node, or the relay alone. With a pass its certificates are
// used, and no other key.
func buildSSH(places []netip.AddrPort, knownHosts string, command []string, o sshOptions, pass *sshPass) []string {
	options := func(hop int) []string {
		list := []string{"-F", "none", "-o", "UserKnownHostsFile=" + optionValue(knownHosts), "-o", "GlobalKnownHostsFile=none",
			"-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no", "-o", "ConnectTimeout=10", "-l", o.user}
		switch {
		case pass != nil:
			return append(list, "-o", "IdentityFile="+optionValue(pass.key), "-o", "CertificateFile="+optionValue(pass.certificates[hop]),
				"-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none")
		case o.identity != "":
			// -i looks for the file under its name with the % doubled.
			return append(list, "-o", "IdentityFile="+optionValue(o.identity), "-o", "IdentitiesOnly=yes")
		}
		return list
	}
	last := len(places) - 1
	target := places[last]
	argv := append([]string{"ssh"}, options(last)...)
	if last > 0 {
		// ProxyJump would not pass the options on to the first hop.
		hop := append([]string{"ssh"}, options(0)...)
		hop = append(hop, "-p", port(places[0]), "-W", net.JoinHostPort(target.Addr().String(), port(target)), places[0].Addr().String())
		argv = append(argv, "-o", "ProxyCommand="+quoteAll(hop))
	}
	argv = append(argv, "-p", port(target), target.Addr().String())
	if len(command) > 0 {
		argv = append(append(argv, "--"), command...)
	}
	return argv
}

// optionValue writes a path as the value of an OpenSSH option: spaces part values and % is special.
func optionValue(path string) string {
	return `"` + strings.ReplaceAll(path, "%", "%%") + `"`
}

func port(a netip.AddrPort) string { return strconv.Itoa(int(a.Port())) }

// quoteAll quotes for the shell that OpenSSH gives a ProxyCommand to, after "exec"; % is special to OpenSSH itself.
func quoteAll(argv []string) string {
	quoted := make([]string, len(argv))
	for i, arg := range argv {
		quoted[i] = "'" + strings.ReplaceAll(strings.ReplaceAll(arg, "'", `'\''`), "%", "%%") + "'"
	}
	return strings.Join(quoted, " ")
}
