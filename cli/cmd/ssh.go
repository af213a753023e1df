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
	"syscall"

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
}

func (a *app) sshCmd() *cobra.Command {
	var o sshOptions
	c := &cobra.Command{
		Use: "ssh NODE [-- COMMAND...]", Short: "Log in to a node through the relay, its host key pinned",
		Long: `Log in to a node through the relay with OpenSSH. Address, port and host keys come from the server, so that no host key is
ever accepted on first sight. Your own SSH key is used; ~/.ssh/config is not. Options of the remote command stand after "--".`,
		Example:           "  infractl ssh srv-prod\n  infractl ssh srv-prod --user operator -- uptime -p",
		Args:              arity(1, math.MaxInt),
		ValidArgsFunction: firstOnly(a.completer(nodeNames)),
		RunE: func(c *cobra.Command, args []string) error {
			var argv []string
			err := a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, _ *output.Writer) (err error) {
				argv, err = a.sshArgv(ctx, conn, args[0], args[1:], o)
				return err
			})
			if err != nil {
				return err
			}
			return execProgram(argv)
		},
	}
	c.Flags().StringVarP(&o.user, "user", "u", "", "account to log in to (default: your local name if it is one of ssh.users, else the first of them)")
	addIdentity(c, &o.identity)
	exits(c, true, meaning{ExitOK, "the session, or the command, ended with 0; otherwise its own code, and 255 when OpenSSH failed"})
	return c
}

// sshArgv builds the OpenSSH command line for a login through the relay.
func (a *app) sshArgv(ctx context.Context, conn *grpc.ClientConn, node string, command []string, o sshOptions) ([]string, error) {
	rev, err := v1.NewSiteServiceClient(conn).GetRevision(ctx, &v1.GetRevisionRequest{})
	if err != nil {
		return nil, err
	}
	s, _ := site.Load(site.SourceFromProto(rev.GetSource()))
	if s == nil {
		return nil, errs.New(errs.Precondition, "this command cannot read the server's site file").WithHint("use the server's version of infractl")
	}
	if _, ok := s.Node(node); !ok {
		return nil, errs.New(errs.NotFound, "no node %q in revision %d", node, rev.GetRevision().GetNumber()).
			WithHint("nodes: %s", strings.Join(s.NodeNames(), ", "))
	}
	api := v1.NewNodeServiceClient(conn)
	hops := []string{node}
	if relay := s.Relay().Name; node != relay {
		hops = []string{relay, node}
	}
	known := &strings.Builder{}
	places := make([]netip.AddrPort, 0, len(hops))
	for _, name := range hops {
		answer, err := api.GetNode(ctx, &v1.GetNodeRequest{Name: name})
		if err != nil {
			return nil, err
		}
		place, err := sshPlace(s, answer.GetNode())
		if err != nil {
			return nil, err
		}
		lines, err := knownHosts(place, answer.GetNode().GetFacts().GetSshHostKeys())
		if err != nil {
			return nil, errs.Wrap("host keys of "+name, err)
		}
		known.WriteString(lines)
		places = append(places, place)
	}
	file, err := a.writeKnownHosts(node, known.String())
	if err != nil {
		return nil, err
	}
	o.user = accountName(o.user, localName(), s.SSH.Users)
	o.identity = identityFile(o.identity)
	return buildSSH(places, file, command, o), nil
}

// accountName chooses the account to log in to.
func accountName(wanted, local string, users []string) string {
	switch {
	case wanted != "":
		return wanted
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

// buildSSH returns the command line; places are the relay and the node, or the relay alone.
func buildSSH(places []netip.AddrPort, knownHosts string, command []string, o sshOptions) []string {
	options := []string{"-F", "none", "-o", "UserKnownHostsFile=" + optionValue(knownHosts), "-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no", "-o", "ConnectTimeout=10", "-l", o.user}
	if o.identity != "" {
		// -i looks for the file under its name with the % doubled.
		options = append(options, "-o", "IdentityFile="+optionValue(o.identity), "-o", "IdentitiesOnly=yes")
	}
	target := places[len(places)-1]
	argv := append([]string{"ssh"}, options...)
	if len(places) == 2 {
		// ProxyJump would not pass the options on to the first hop.
		hop := append([]string{"ssh"}, options...)
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

// execProgram replaces this process, so that the terminal, signals and the exit code are the program's own.
func execProgram(argv []string) error {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, argv[0])
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return errs.Wrap("start "+path, syscall.Exec(path, argv, os.Environ()))
		}
	}
	return errs.New(errs.Precondition, "%s is not installed", argv[0]).WithHint("apt install openssh-client")
}
