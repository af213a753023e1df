package router

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables"
	"github.com/infractl/infractl/internal/errs"
)

// The unit that runs WireGuard in user space, on kernels that have none.
const (
	unitName = "infractl-tunnel.service"
	unitFile = "/etc/systemd/system/" + unitName
	unitLink = "/etc/systemd/system/multi-user.target.wants/" + unitName
)

// mtu leaves room for WireGuard's own headers over IPv6 on an ordinary wire.
const mtu = "1420"

// linkWait bounds how long the interface may take to appear.
const linkWait = 5 * time.Second

// liveTunnel is an interface as the kernel has it; in order says that it needs nothing.
type liveTunnel struct {
	Tunnel
	up     bool
	public string
}

// readTunnel reads an interface, nil where it is not there.
func readTunnel(ctx context.Context, h *host.Host, l links, device string) (*liveTunnel, error) {
	if !l.exists(device) {
		return nil, nil
	}
	t := &liveTunnel{Tunnel: Tunnel{Interface: device}, up: l.up[device]}
	for _, a := range l.addresses[device] {
		t.Addresses = append(t.Addresses, a.String())
	}
	port, err := wg(ctx, h, device, "listen-port")
	if err != nil {
		return nil, err
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(port), 10, 16)
	t.Port = uint16(n)
	if t.public, err = wg(ctx, h, device, "public-key"); err != nil {
		return nil, err
	}
	t.public = strings.TrimSpace(t.public)
	peers, err := wg(ctx, h, device, "allowed-ips")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(peers) {
		key, list, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok {
			continue
		}
		p := Peer{PublicKey: key}
		if list != "(none)" {
			p.Allowed = slices.Sorted(slices.Values(strings.Fields(list)))
		}
		t.Peers = append(t.Peers, p)
	}
	slices.SortFunc(t.Peers, func(a, b Peer) int { return strings.Compare(a.PublicKey, b.PublicKey) })
	return t, nil
}

func wg(ctx context.Context, h *host.Host, device, what string) (string, error) {
	out, err := h.Run(ctx, "wg", "show", device, what)
	return string(out.Stdout), errs.Wrap("ask WireGuard", noTools(err))
}

func noTools(err error) error {
	if err != nil && strings.Contains(err.Error(), "executable file not found") {
		return errs.New(errs.Precondition, "WireGuard's tools are not installed: %w", err).WithHint("apt-get install wireguard-tools")
	}
	return err
}

// lines are a tunnel as people read it, and as it is compared.
func (t *Tunnel) lines() []string {
	if t == nil {
		return nil
	}
	list := []string{fmt.Sprintf("listens on UDP port %d", t.Port)}
	for _, a := range t.Addresses {
		list = append(list, "address "+a)
	}
	for _, p := range t.Peers {
		list = append(list, "peer "+p.PublicKey+" has "+strings.Join(p.Allowed, ","))
	}
	return list
}

// tunnelChange says in which lines interface and wish differ, and the routes to its peers.
func tunnelChange(want *Tunnel, now *liveTunnel, l links, public string) (before, after []string) {
	var have []string
	if now != nil {
		have = now.lines()
		if !now.up {
			have = append(have, "is down")
		}
		if want != nil && now.public != public {
			after = append(after, "the router's own key")
		}
		for _, r := range l.routes {
			if r.dev == now.Interface && r.ours {
				have = append(have, "route to "+r.prefix.String())
			}
		}
	}
	wanted := want.lines()
	for _, p := range want.prefixes() {
		wanted = append(wanted, "route to "+p)
	}
	return iptables.Without(have, wanted), append(after, iptables.Without(wanted, have)...)
}

// prefixes are the addresses of all peers.
func (t *Tunnel) prefixes() []string {
	if t == nil {
		return nil
	}
	var list []string
	for _, p := range t.Peers {
		list = append(list, p.Allowed...)
	}
	return list
}

// installTunnel makes the interface as wanted, whatever it is now.
func installTunnel(ctx context.Context, h *host.Host, want *Tunnel, now *liveTunnel) error {
	if err := ensureKey(h, want.Interface); err != nil {
		return err
	}
	if now == nil {
		if err := makeLink(ctx, h, want.Interface); err != nil {
			return err
		}
	}
	return configure(ctx, h, want)
}

// makeLink makes the interface: in the kernel where it can, else by wireguard-go in a unit of its own.
func makeLink(ctx context.Context, h *host.Host, device string) error {
	_, err := h.Run(ctx, "ip", "link", "add", "dev", device, "type", "wireguard")
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !h.Has("wireguard-go") {
		return errs.New(errs.Precondition, "this kernel has no WireGuard, and wireguard-go is not installed: %w", err).
			WithHint("apt-get install wireguard-go")
	}
	for _, f := range unitFiles(device) {
		if _, err := h.Write(f); err != nil {
			return err
		}
	}
	if err := h.Systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	if err := h.Systemctl(ctx, "restart", unitName); err != nil {
		return err
	}
	return waitForLink(ctx, h, device)
}

func waitForLink(ctx context.Context, h *host.Host, device string) error {
	ctx, cancel := context.WithTimeout(ctx, linkWait)
	defer cancel()
	for {
		_, err := h.Run(ctx, "ip", "link", "show", "dev", device)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errs.New(errs.Timeout, "the interface %s does not appear: %w", device, err).WithHint("journalctl -u %s", unitName)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// configure gives an interface that is there its key, peers, addresses and routes. The key goes through a pipe.
func configure(ctx context.Context, h *host.Host, want *Tunnel) error {
	key, _, err := privateKey(h, want.Interface)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[Interface]\nPrivateKey = %s\nListenPort = %d\n", key, want.Port)
	for _, p := range want.Peers {
		fmt.Fprintf(&b, "\n[Peer]\nPublicKey = %s\nAllowedIPs = %s\n", p.PublicKey, strings.Join(p.Allowed, ", "))
	}
	_, err = h.RunCmd(ctx, host.Cmd{Argv: []string{"wg", "syncconf", want.Interface, "/dev/stdin"}, Stdin: []byte(b.String())})
	if err != nil {
		return errs.Wrap("set up the tunnel", noTools(err))
	}
	l, err := readLinks(ctx, h)
	if err != nil {
		return err
	}
	var have []string
	for _, a := range l.addresses[want.Interface] {
		have = append(have, a.String())
	}
	for _, a := range iptables.Without(have, want.Addresses) {
		if _, err := h.Run(ctx, "ip", "address", "del", a, "dev", want.Interface); err != nil {
			return errs.Wrap("drop the tunnel's address", err)
		}
	}
	for _, a := range iptables.Without(want.Addresses, have) {
		if _, err := h.Run(ctx, "ip", "address", "replace", a, "dev", want.Interface); err != nil {
			return errs.Wrap("set the tunnel's address", err)
		}
	}
	if _, err := h.Run(ctx, "ip", "link", "set", "dev", want.Interface, "mtu", mtu, "up"); err != nil {
		return errs.Wrap("bring the tunnel up", err)
	}
	return peerRoutes(ctx, h, l, want)
}

// peerRoutes leads each peer's address, and nothing else, into the tunnel.
func peerRoutes(ctx context.Context, h *host.Host, l links, want *Tunnel) error {
	wanted := want.prefixes()
	var have []string
	for _, r := range l.routes {
		if r.dev != want.Interface || !r.ours {
			continue
		}
		have = append(have, r.prefix.String())
		if slices.Contains(wanted, r.prefix.String()) {
			continue
		}
		if _, err := h.Run(ctx, "ip", "route", "del", r.prefix.String(), "dev", want.Interface, "proto", ourRoutes); err != nil {
			return errs.Wrap("drop a peer's route", err)
		}
	}
	for _, p := range iptables.Without(wanted, have) {
		argv := []string{"ip", "route", "replace", p, "dev", want.Interface, "proto", ourRoutes}
		if source := want.source(p); source != "" {
			argv = append(argv, "src", source)
		}
		if _, err := h.Run(ctx, argv...); err != nil {
			return errs.Wrap("set a peer's route", err)
		}
	}
	return nil
}

// source is the tunnel's own address of a prefix's family.
func (t *Tunnel) source(prefix string) string {
	p, err := netip.ParsePrefix(prefix)
	for _, a := range t.Addresses {
		if own, oerr := netip.ParsePrefix(a); err == nil && oerr == nil && own.Addr().Is4() == p.Addr().Is4() {
			return own.Addr().String()
		}
	}
	return ""
}

// removeTunnel takes the interface down, with the unit that made it.
func removeTunnel(ctx context.Context, h *host.Host, device string) error {
	if hasUnit(h, device) {
		if err := h.Systemctl(ctx, "stop", unitName); err != nil {
			return err
		}
		for _, path := range []string{unitLink, unitFile} {
			if err := h.Remove(path); err != nil {
				return err
			}
		}
		if err := h.Systemctl(ctx, "daemon-reload"); err != nil {
			return err
		}
	}
	l, err := readLinks(ctx, h)
	if err != nil || !l.exists(device) {
		return err
	}
	_, err = h.Run(ctx, "ip", "link", "del", "dev", device)
	return errs.Wrap("remove the tunnel", err)
}

// hasUnit reports whether the interface is made by our unit.
func hasUnit(h *host.Host, device string) bool {
	data, err := h.ReadFile(unitFile)
	return err == nil && strings.Contains(string(data), "wireguard-go -f "+device+"\n")
}

// unitFiles are the unit and what starts it at boot. wireguard-go stays in the foreground by its flag; its variable for that is
// left alone, because any value that it does not know makes it fork without end.
func unitFiles(device string) []host.File {
	text := `# Written by infractl; changes here are undone. This kernel has no WireGuard: it runs in user space.
[Unit]
Description=infractl: tunnel ` + device + `
After=network-pre.target infractl-firewall.service
Before=network.target

[Service]
ExecStart=/usr/bin/wireguard-go -f ` + device + `
ExecStartPost=/usr/bin/infractl-agent router tunnel
Restart=always
RestartSec=1
TimeoutStartSec=30
UMask=0077

[Install]
WantedBy=multi-user.target
`
	return []host.File{
		{Path: unitFile, Data: []byte(text), Mode: 0o644, UID: os.Geteuid(), GID: os.Getegid()},
		{Path: unitLink, Data: []byte(unitFile), Mode: os.ModeSymlink | 0o777},
	}
}
