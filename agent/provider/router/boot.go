package router

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Boot puts the kept translations into place, before the network is up, and the tunnel where the kernel makes it. A tunnel in
// user space has a unit of its own; routes need the interfaces' addresses and come with Repair.
func Boot(ctx context.Context, h *host.Host) error {
	kept, err := loadKept(h)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errs.Wrap("restore the router", err)
	}
	failed := []error{iptables.BringBack(ctx, h, iptables.NAT(), iptables.V4, render(kept))}
	if kept.Tunnel != nil && !h.Exists(unitFile) {
		failed = append(failed, bootTunnel(ctx, h, kept.Tunnel))
	}
	return errs.Wrap("restore the router", errors.Join(failed...))
}

func bootTunnel(ctx context.Context, h *host.Host, t *Tunnel) error {
	l, err := readLinks(ctx, h)
	if err != nil {
		return err
	}
	if !l.exists(t.Interface) {
		if _, err := h.Run(ctx, "ip", "link", "add", "dev", t.Interface, "type", "wireguard"); err != nil {
			return errs.Wrap("make the tunnel", err)
		}
	}
	return configure(ctx, h, t)
}

// UpTunnel sets up the kept tunnel on the interface that its unit has just made. Before the first kept commit there is none, and
// nothing to do: who applies sets it up.
func UpTunnel(ctx context.Context, h *host.Host) error {
	kept, err := loadKept(h)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && kept.Tunnel == nil) {
		return nil
	}
	if err == nil {
		err = waitForLink(ctx, h, kept.Tunnel.Interface)
	}
	if err == nil {
		err = configure(ctx, h, kept.Tunnel)
	}
	return errs.Wrap("set up the tunnel", err)
}

// Repair puts back translations, routes and a tunnel of ours that are gone, and says what it did. Content that was changed by hand
// is drift, and stays until the next apply. It must not run while a commit of this host is undecided.
func (p *Provider) Repair(ctx context.Context) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept, err := loadKept(p.host)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errs.Wrap("repair router", err)
	}
	var done []string
	now, err := readNAT(ctx, p.host)
	if err != nil {
		return nil, errs.Wrap("repair router", err)
	}
	if text := iptables.Repair(now, render(kept)); text != "" {
		if err := iptables.Restore(ctx, p.host, iptables.V4, text); err != nil {
			return nil, errs.Wrap("repair router", err)
		}
		done = append(done, "NAT")
	}
	l, err := readLinks(ctx, p.host)
	if err != nil {
		return done, errs.Wrap("repair router", err)
	}
	var failed []error
	for _, r := range kept.Routes {
		if len(l.find(r.Prefix)) > 0 {
			continue
		}
		err := setRoutes(ctx, p.host, []Route{r}, nil)
		if failed = append(failed, err); err == nil {
			done = append(done, "route to "+r.Prefix)
		}
	}
	if t := kept.Tunnel; t != nil && !l.exists(t.Interface) {
		err := installTunnel(ctx, p.host, t, nil)
		if failed = append(failed, err); err == nil {
			done = append(done, "tunnel "+t.Interface)
		}
	}
	if len(done) > 0 {
		p.log.Warn("put back what was gone of the router", "parts", done)
	}
	return done, errs.Wrap("repair router", errors.Join(failed...))
}

// Warnings are what the host's own network configuration has otherwise than the site says: addresses of the interfaces, and
// routes that lead elsewhere. They are not changed.
func (p *Provider) Warnings(ctx context.Context, spec *v1.RouterSpec) []string {
	if spec.GetPlatform() != Platform {
		return nil
	}
	l, err := readLinks(ctx, p.host)
	if err != nil {
		return []string{"it is not known how the interfaces are: " + err.Error()}
	}
	var list []string
	for _, c := range spec.GetInterfaces() {
		if !l.exists(c.GetName()) {
			list = append(list, fmt.Sprintf("the interface %s of the site is not there", c.GetName()))
			continue
		}
		for _, a := range c.GetAddresses() {
			if !slices.ContainsFunc(l.addresses[c.GetName()], func(have netip.Prefix) bool { return have.String() == a }) {
				list = append(list, fmt.Sprintf("%s does not have the address %s: set it in the host's network configuration", c.GetName(), a))
			}
		}
	}
	for _, r := range spec.GetRoutes() {
		if have := l.find(r.GetPrefix()); len(have) > 0 && have[0].via != r.GetVia() {
			list = append(list, fmt.Sprintf("the route to %s leads to %s, the site says %s: the host's network configuration sets it",
				r.GetPrefix(), have[0].via, r.GetVia()))
		}
	}
	return list
}

// Report says how the router is; nil where nothing was kept yet.
func (p *Provider) Report(ctx context.Context, _ *v1.HostSpec) *v1.RouterReport {
	kept, err := loadKept(p.host)
	if err != nil {
		return nil
	}
	r := &v1.RouterReport{Platform: Platform}
	if kept.Tunnel == nil {
		return r
	}
	device := kept.Tunnel.Interface
	if _, public, err := privateKey(p.host, device); err == nil {
		r.WireguardPublicKey = public
	}
	seen, err := wg(ctx, p.host, device, "latest-handshakes")
	if err != nil {
		p.log.Debug("the tunnel can't be asked", "error", err)
		return r
	}
	endpoints, err := wg(ctx, p.host, device, "endpoints")
	if err != nil {
		p.log.Debug("the tunnel can't be asked", "error", err)
	}
	from := pairs(endpoints)
	for key, text := range pairs(seen) {
		peer := &v1.PeerState{PublicKey: key}
		if at, err := strconv.ParseInt(text, 10, 64); err == nil && at > 0 {
			peer.LastHandshake = timestamppb.New(time.Unix(at, 0).Truncate(time.Minute))
		}
		if from[key] != "(none)" {
			peer.Endpoint = from[key]
		}
		r.Peers = append(r.Peers, peer)
	}
	slices.SortFunc(r.Peers, func(a, b *v1.PeerState) int { return strings.Compare(a.GetPublicKey(), b.GetPublicKey()) })
	return r
}

// pairs reads what wg prints: a key and a value a line.
func pairs(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			m[key] = value
		}
	}
	return m
}
