package cmd

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/vyos"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) routerCmd() *cobra.Command {
	return group("router", "Show, compare, render and import the router's configuration",
		a.routerShowCmd(), a.routerDiffCmd(), a.routerRenderCmd(), a.routerImportCmd())
}

// rendering is a configuration for programs.
type rendering struct {
	Node     string   `json:"node"`
	Platform string   `json:"platform"`
	Commands []string `json:"commands"`
	Notes    []string `json:"notes"`
}

func (a *app) routerRenderCmd() *cobra.Command {
	var files siteFlags
	var platform, peers string
	c := &cobra.Command{
		Use: "render", Short: "Print the router's configuration as VyOS set commands; needs no server",
		Long: `Print the router's configuration as VyOS set commands, from a site file alone: no server and no router hears of it. What the
release cannot do is said on stderr. Peers of the tunnel are no part of the file; without them the tunnel is left out, because VyOS
refuses a tunnel without a peer. Private keys are made on the router and never printed.`,
		Example: "  infractl router render --platform vyos-1.3 -f site.yaml\n  infractl vpn peer list -o json >peers.json; infractl router render --peers peers.json",
		Args:    arity(0, 0),
		RunE: func(*cobra.Command, []string) error {
			w, err := a.writer()
			if err != nil {
				return err
			}
			r, err := a.render(&files, platform, peers)
			if err != nil {
				return err
			}
			for _, n := range r.Notes {
				fmt.Fprintf(a.proc.Err, "note: %s\n", output.Line(n))
			}
			return w.Object(r, func() error {
				for _, line := range r.Commands {
					w.Printf("%s\n", line)
				}
				return nil
			})
		},
	}
	files.add(c)
	c.Flags().StringVar(&platform, "platform", "", "vyos-1.3, vyos-1.4 or vyos-1.5 (default: the router's platform in the file)")
	c.Flags().StringVar(&peers, "peers", "none", "peers of the tunnel: none, or a file with the output of `infractl vpn peer list -o json`")
	must(c.RegisterFlagCompletionFunc("platform", cobra.FixedCompletions([]string{"vyos-1.3", "vyos-1.4", "vyos-1.5"}, cobra.ShellCompDirectiveNoFileComp)))
	exits(c, false)
	return c
}

func (a *app) render(files *siteFlags, platform, peers string) (*rendering, error) {
	src, err := files.read()
	if err != nil {
		return nil, err
	}
	s, err := a.check(src)
	if err != nil {
		return nil, err
	}
	router := s.Router()
	if router == nil {
		return nil, errs.New(errs.NotFound, "the site has no router").At(src.GetFile())
	}
	if platform == "" {
		platform = router.Platform
	}
	version, err := vyos.ParseVersion(platform)
	if err != nil {
		return nil, errs.New(errs.Invalid, "cannot render for platform %q", platform).WithHint("--platform vyos-1.3, vyos-1.4 or vyos-1.5")
	}
	res := site.Resources{}
	if res.Peers, err = readPeers(peers); err != nil {
		return nil, err
	}
	spec, err := s.RouterSpec(res, version.String())
	if err != nil {
		return nil, err
	}
	result, err := vyos.Render(spec, version, vyos.Options{})
	if err != nil {
		return nil, err
	}
	r := &rendering{Node: router.Name, Platform: version.String(), Notes: result.Notes}
	for _, l := range result.Lines {
		r.Commands = append(r.Commands, l.String())
	}
	return r, nil
}

// maxPeers bounds the file of peers.
const maxPeers = 16 << 20

func readPeers(name string) ([]site.TunnelPeer, error) {
	if name == "none" {
		return nil, nil
	}
	info, err := os.Stat(name)
	if err != nil || info.Size() > maxPeers {
		return nil, errs.New(errs.Invalid, "cannot read the peers in %s", name).WithHint("--peers none, or the output of: infractl vpn peer list -o json")
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, errs.Wrap("read "+name, err)
	}
	list := &v1.ListPeersResponse{}
	if err := protojson.Unmarshal(data, list); err != nil {
		return nil, errs.New(errs.Invalid, "%s is no list of peers: %w", name, err).WithHint("the output of: infractl vpn peer list -o json")
	}
	var out []site.TunnelPeer
	for _, p := range list.GetPeers() {
		peer := site.TunnelPeer{Name: p.GetName(), PublicKey: p.GetPublicKey()}
		for _, text := range p.GetAddresses() {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return nil, errs.New(errs.Invalid, "%s: %q of peer %s is no address", name, text, p.GetName())
			}
			peer.Addresses = append(peer.Addresses, a)
		}
		out = append(out, peer)
	}
	return out, nil
}

func (a *app) routerDiffCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "diff", Short: "Compare the router, from a fresh look at it, with the current revision; exit code 4 on drift",
		Long: `Compare the router, from a fresh look at it, with the current revision: what an apply would change. On VyOS only the parts that
infractl decides are compared.`,
		Example: "  infractl router diff", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				n, err := findRouter(ctx, conn, "")
				if err != nil {
					return err
				}
				plan, err := v1.NewSiteServiceClient(conn).PlanSite(ctx, &v1.PlanSiteRequest{Nodes: []string{n.GetName()}})
				if err != nil {
					return err
				}
				if err := w.Message(plan, func() error { return showDiff(w, plan) }); err != nil {
					return err
				}
				return diffExit(plan)
			})
		},
	}
	exits(c, true, meaning{ExitOK, "the router is in sync"}, meaning{ExitSomeFailed, "the router could not be looked at"},
		meaning{ExitDrift, "the router has drifted"})
	return c
}

// findRouter finds the router, or the node of that name.
func findRouter(ctx context.Context, conn *grpc.ClientConn, name string) (*v1.Node, error) {
	client := v1.NewNodeServiceClient(conn)
	if name == "" {
		list, err := client.ListNodes(ctx, &v1.ListNodesRequest{})
		if err != nil {
			return nil, err
		}
		for _, n := range list.GetNodes() {
			if n.GetRole() == site.RoleRouter {
				name = n.GetName()
			}
		}
		if name == "" {
			return nil, errs.New(errs.NotFound, "the site has no router").WithHint("infractl node list")
		}
	}
	answer, err := client.GetNode(ctx, &v1.GetNodeRequest{Name: name})
	return answer.GetNode(), err
}

func (a *app) routerShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show [NODE]", Short: "Show how the router is, as it last reported", Example: "  infractl router show\n  infractl router show vrouter -o json",
		Args: arity(0, 1), ValidArgsFunction: firstOnly(a.completer(nodeNames)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				n, err := findRouter(ctx, conn, strings.Join(args, ""))
				if err != nil {
					return err
				}
				return w.Message(n, func() error { return a.showRouter(w, n) })
			})
		},
	}
}

func (a *app) showRouter(w *output.Writer, n *v1.Node) error {
	r := n.GetRouter()
	pairs := [][2]string{{"node", n.GetName()}, {"state", nodeState(n.GetState())}, {"seen", a.ago(n.GetLastSeen())}, {"platform", dash(r.GetPlatform())},
		{"spec", a.syncWord(n)}, {"addresses", dash(strings.Join(n.GetFacts().GetAddresses(), " "))}, {"tunnel's public key", dash(r.GetWireguardPublicKey())}}
	if err := w.Pairs(pairs); err != nil || len(r.GetPeers()) == 0 {
		return err
	}
	w.Printf("\n")
	var rows [][]string
	for _, p := range r.GetPeers() {
		rows = append(rows, []string{p.GetPublicKey(), dash(p.GetEndpoint()), a.ago(p.GetLastHandshake())})
	}
	return w.Rows([]string{"PEER", "ENDPOINT", "HANDSHAKE"}, rows)
}
