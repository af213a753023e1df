package cmd

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"strings"

	"github.com/mdp/qrterminal/v3"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) vpnCmd() *cobra.Command {
	peer := group("peer", "Add, list, rotate and remove the machines of people that use the tunnel",
		a.peerAddCmd(), a.peerListCmd(), a.peerRotateCmd(), a.peerRemoveCmd())
	peer.Long = `A peer is one machine of one person. Its private key is made here and is shown once, inside the configuration for WireGuard; the server
only learns the public half. The router's own private key never leaves the router.`
	return group("vpn", "The WireGuard tunnel into the site", peer)
}

type peerOptions struct {
	name, address, file string
	qr                  bool
}

func (o *peerOptions) flags(c *cobra.Command) {
	c.Flags().StringVarP(&o.file, "file", "f", "", "write the configuration to a file (mode 0600) instead of stdout")
	c.Flags().BoolVar(&o.qr, "qr", false, "show it as a QR code too, for a telephone")
}

func (a *app) peerAddCmd() *cobra.Command {
	var o peerOptions
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a machine and print its configuration for WireGuard",
		Long: `Add a machine to the tunnel and print its configuration for WireGuard, as text and with --qr as a QR code. Only the site's own networks go
through the tunnel, and names are asked at the site's own resolvers. What the machine may reach is what the site's flows say.`,
		Example: "  infractl vpn peer add anna-laptop -f anna-laptop.conf\n  infractl vpn peer add anna-phone --qr", Args: arity(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			o.name = args[0]
			return a.runPeer(c.Context(), o, func(ctx context.Context, vpn v1.VpnServiceClient, public string) (peerAnswer, error) {
				return vpn.AddPeer(ctx, &v1.AddPeerRequest{Name: o.name, PublicKey: public, Address: o.address})
			})
		},
	}
	o.flags(c)
	c.Flags().StringVar(&o.address, "address", "", "an address of the tunnel's network (default: the next free one)")
	return c
}

// peerAnswer is what the server says of a peer that was added or has a new key.
type peerAnswer interface {
	GetPeer() *v1.Peer
	GetTunnel() *v1.Tunnel
	GetRolloutId() string
}

// runPeer makes a key, gives its public half to the server and hands the configuration out.
func (a *app) runPeer(ctx context.Context, o peerOptions, ask func(context.Context, v1.VpnServiceClient, string) (peerAnswer, error)) error {
	private, public, err := tunnelKey()
	if err != nil {
		return err
	}
	file, err := o.open()
	if err != nil {
		return err
	}
	defer file.discard()
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, _ *output.Writer) error {
		res, err := ask(ctx, v1.NewVpnServiceClient(conn), public)
		if err != nil {
			return err
		}
		return a.givePeer(o, file, private, res.GetPeer(), res.GetTunnel(), res.GetRolloutId())
	})
}

func (a *app) peerRotateCmd() *cobra.Command {
	var o peerOptions
	c := &cobra.Command{
		Use: "rotate NAME", Short: "Give a machine a new key and print its new configuration",
		Example: "  infractl vpn peer rotate anna-laptop -f anna-laptop.conf", Args: arity(1, 1),
		ValidArgsFunction: firstOnly(a.completer(peerNames)),
		RunE: func(c *cobra.Command, args []string) error {
			o.name = args[0]
			return a.runPeer(c.Context(), o, func(ctx context.Context, vpn v1.VpnServiceClient, public string) (peerAnswer, error) {
				return vpn.RotatePeer(ctx, &v1.RotatePeerRequest{Name: o.name, PublicKey: public})
			})
		},
	}
	o.flags(c)
	return c
}

// pending is the file that will hold something secret. It is made before anything changes, so that a full disk or a wrong path
// costs nothing, and it goes again when nothing was written.
type pending struct {
	file *os.File
	what string
	done bool
}

func (o *peerOptions) open() (*pending, error) { return openPending(o.file, "the configuration") }

// openPending makes the file; without a path there is none. what names its content.
func openPending(path, what string) (*pending, error) {
	if path == "" {
		return &pending{}, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, errs.New(errs.Invalid, "cannot be written: %w", cause(err)).At(path).WithHint("name a file that does not exist yet")
	}
	return &pending{file: f, what: what}, nil
}

func (p *pending) discard() {
	if p.file != nil && !p.done {
		_ = p.file.Close()
		_ = os.Remove(p.file.Name())
	}
}

func (p *pending) write(text string) error {
	_, err := p.file.WriteString(text)
	if err = errs.Join(err, p.file.Sync(), p.file.Close()); err != nil {
		return errs.New(errs.Internal, "%s was not written: %w", p.what, err).At(p.file.Name())
	}
	p.done = true
	return nil
}

// givePeer hands the configuration out: the only time that the private key is seen.
func (a *app) givePeer(o peerOptions, file *pending, private secret.Value, peer *v1.Peer, t *v1.Tunnel, rollout string) error {
	text := peerConfig(private, peer, t)
	if file.file != nil {
		if err := file.write(text); err != nil {
			return errs.Wrap("save the configuration of peer "+peer.GetName(), err)
		}
		a.note("the configuration is in %s; nobody else has its private key", o.file)
	} else if _, err := fmt.Fprint(a.proc.Out, text); err != nil {
		return err
	}
	if o.qr {
		qrterminal.GenerateHalfBlock(text, qrterminal.L, a.proc.Err)
	}
	if rollout != "" {
		a.note("rollout %s tells the router; next: infractl operation watch %s", rollout, rollout)
	}
	return nil
}

// tunnelKey makes a key pair for WireGuard (X25519).
func tunnelKey() (private secret.Value, public string, err error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return secret.Value{}, "", errs.Wrap("make a key", err)
	}
	return secret.New([]byte(base64.StdEncoding.EncodeToString(key.Bytes()))),
		base64.StdEncoding.EncodeToString(key.PublicKey().Bytes()), nil
}

// peerConfig is the configuration as wg-quick, and the programs for Windows, macOS and telephones, read it.
func peerConfig(private secret.Value, peer *v1.Peer, t *v1.Tunnel) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s, made by infractl\n[Interface]\nPrivateKey = %s\n", peer.GetName(), private.Reveal())
	var own []string
	for _, addr := range peer.GetAddresses() {
		bits := "/32"
		if strings.Contains(addr, ":") {
			bits = "/128"
		}
		own = append(own, addr+bits)
	}
	fmt.Fprintf(&b, "Address = %s\n", strings.Join(own, ", "))
	if ns := append(t.GetNameservers(), t.GetSearch()); len(t.GetNameservers()) > 0 {
		fmt.Fprintf(&b, "DNS = %s\n", strings.Join(ns, ", "))
	}
	fmt.Fprintf(&b, "\n[Peer]\nPublicKey = %s\nEndpoint = %s\nAllowedIPs = %s\nPersistentKeepalive = 25\n", t.GetPublicKey(), t.GetEndpoint(),
		strings.Join(t.GetAllowedIps(), ", "))
	return b.String()
}

func (a *app) peerListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the tunnel's machines and when they were last heard", Example: "  infractl vpn peer list", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewVpnServiceClient(conn).ListPeers(ctx, &v1.ListPeersRequest{})
				if err != nil {
					return err
				}
				return w.Message(list, func() error {
					var rows [][]string
					for _, p := range list.GetPeers() {
						state := "not on the router yet"
						if p.GetLive() {
							state = "never heard"
							if p.GetLastHandshake() != nil {
								state = "heard " + a.ago(p.GetLastHandshake())
							}
						}
						rows = append(rows, []string{p.GetName(), strings.Join(p.GetAddresses(), " "), state, dash(p.GetEndpoint()), p.GetOperator()})
					}
					return w.Rows([]string{"PEER", "ADDRESS", "STATE", "FROM", "ADDED BY"}, rows)
				})
			})
		},
	}
}

func (a *app) peerRemoveCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "remove NAME", Short: "Remove a machine from the tunnel", Example: "  infractl vpn peer remove anna-laptop", Args: arity(1, 1),
		ValidArgsFunction: firstOnly(a.completer(peerNames)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(c.Context(), fmt.Sprintf("Remove %s from the tunnel? Whoever uses it is cut off.", args[0])); err != nil {
				return err
			}
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				res, err := v1.NewVpnServiceClient(conn).RemovePeer(ctx, &v1.RemovePeerRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return w.Message(res, func() error {
					a.note("peer %s is removed", args[0])
					if res.GetRolloutId() != "" {
						a.note("rollout %s tells the router; next: infractl operation watch %s", res.GetRolloutId(), res.GetRolloutId())
					}
					return nil
				})
			})
		},
	}
	a.yesFlag(c)
	return c
}

func peerNames(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	list, err := v1.NewVpnServiceClient(conn).ListPeers(ctx, &v1.ListPeersRequest{})
	var names []string
	for _, p := range list.GetPeers() {
		names = append(names, output.Line(p.GetName())+"\t"+output.Line(strings.Join(p.GetAddresses(), ", ")))
	}
	return names, err
}
