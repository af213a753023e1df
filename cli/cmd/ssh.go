package cmd

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

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
ever accepted on first sight. Your own SSH key is used, from the agent or from ~/.ssh.`,
		Example: "  infractl ssh srv-prod\n  infractl ssh srv-prod --user operator -- uptime",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errs.New(errs.Invalid, "no node named").WithHint("for example: infractl ssh srv-prod")
			}
			return nil
		},
		ValidArgsFunction: a.nodeNames,
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
	c.Flags().StringVarP(&o.identity, "identity", "i", envIdentity(), "private key file")
	return c
}

func envIdentity() string { return os.Getenv("INFRACTL_SSH_IDENTITY") }

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
	relay := s.Relay().Name
	hops := []string{node}
	if node != relay {
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
		for _, key := range answer.GetNode().GetFacts().GetSshHostKeys() {
			fmt.Fprintf(known, "[%s]:%d %s\n", place.Addr(), place.Port(), key)
		}
		places = append(places, place)
	}
	file, err := a.writeKnownHosts(known.String())
	if err != nil {
		return nil, err
	}
	return buildSSH(places, s.SSH.Users, file, command, o), nil
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
	if len(reported) > 0 && !contains(reported, uint32(port)) {
		port = uint16(reported[0])
	}
	return netip.AddrPortFrom(member.MainAddress(), port), nil
}

func contains(list []uint32, n uint32) bool {
	for _, v := range list {
		if v == n {
			return true
		}
	}
	return false
}

// writeKnownHosts keeps the pinned keys in the operator's folder.
func (a *app) writeKnownHosts(content string) (string, error) {
	f, err := a.folder()
	if err != nil {
		return "", err
	}
	path := filepath.Join(f.Dir(), "known_hosts")
	side := path + "." + strconv.Itoa(os.Getpid())
	if err := os.WriteFile(side, []byte(content), 0o600); err != nil {
		return "", errs.Wrap("write known hosts", err)
	}
	return path, errs.Wrap("write known hosts", os.Rename(side, path))
}

// buildSSH returns the command line; places are the relay and the node, or the relay alone.
func buildSSH(places []netip.AddrPort, users []string, knownHosts string, command []string, o sshOptions) []string {
	name := o.user
	if name == "" {
		name = users[0]
		if u, err := user.Current(); err == nil {
			for _, known := range users {
				if known == u.Username {
					name = known
				}
			}
		}
	}
	options := []string{"-F", "none", "-o", "UserKnownHostsFile=" + knownHosts, "-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=10", "-l", name}
	if o.identity != "" {
		options = append(options, "-i", o.identity, "-o", "IdentitiesOnly=yes")
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

func port(a netip.AddrPort) string { return strconv.Itoa(int(a.Port())) }

// quoteAll quotes for the shell that OpenSSH gives a ProxyCommand to; % is special to OpenSSH itself.
func quoteAll(argv []string) string {
	quoted := make([]string, len(argv))
	for i, arg := range argv {
		quoted[i] = "'" + strings.ReplaceAll(strings.ReplaceAll(arg, "'", `'\''`), "%", "%%") + "'"
	}
	return "exec " + strings.Join(quoted, " ")
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
