package vyos

import (
	"context"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Report says how the router is. What cannot be found out is left empty.
func (p *Provider) Report(ctx context.Context, spec *v1.HostSpec) *v1.RouterReport {
	out := &v1.RouterReport{}
	version, text, err := p.Version()
	if err != nil {
		p.log.Warn("cannot tell the router's release", "error", err)
		return out
	}
	out.Platform = text
	w := spec.GetRouter().GetWireguard()
	have, err := p.running(ctx)
	if w == nil || err != nil {
		return out
	}
	if k, err := p.tunnelKey(spec, version, have); err == nil && k.private != "" {
		out.WireguardPublicKey, _ = public(k.private)
	}
	out.Peers = p.peers(ctx, w.GetInterface())
	return out
}

// peers asks for handshakes and endpoints; the dump of wg would print the private key.
func (p *Provider) peers(ctx context.Context, card string) []*v1.PeerState {
	if !p.host.Exists("/sys/class/net/" + card) {
		return nil
	}
	handshakes, err := p.host.Run(ctx, "wg", "show", card, "latest-handshakes")
	if err != nil {
		return nil
	}
	from := map[string]string{}
	if endpoints, err := p.host.Run(ctx, "wg", "show", card, "endpoints"); err == nil {
		for line := range strings.Lines(string(endpoints.Stdout)) {
			if f := strings.Fields(line); len(f) == 2 && f[1] != "(none)" {
				from[f[0]] = f[1]
			}
		}
	}
	var out []*v1.PeerState
	for line := range strings.Lines(string(handshakes.Stdout)) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		peer := &v1.PeerState{PublicKey: f[0], Endpoint: from[f[0]]}
		if at, err := strconv.ParseInt(f[1], 10, 64); err == nil && at > 0 {
			peer.LastHandshake = timestamppb.New(time.Unix(at, 0).Truncate(time.Minute))
		}
		out = append(out, peer)
	}
	return out
}
