package vpn

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/store"
)

// maxTries bounds how often an address is chosen anew because somebody else was faster.
const maxTries = 10

// AddPeer implements v1.VpnServiceServer.
func (s *Service) AddPeer(ctx context.Context, req *v1.AddPeerRequest) (*v1.AddPeerResponse, error) {
	if err := errs.Join(checkName(req.GetName()), checkKey(req.GetPublicKey())); err != nil {
		return nil, err
	}
	where, err := s.site(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.needsKey(ctx, where); err != nil {
		return nil, err
	}
	rec := record{Name: req.GetName(), PublicKey: req.GetPublicKey(), Operator: access.CallerFrom(ctx).Identity.Name,
		Created: s.cfg.Clock.Now().UTC()}
	for try := 1; ; try++ {
		err := s.add(ctx, where, &rec, req.GetAddress())
		if err == nil {
			break
		}
		if !errs.Is(err, errs.Conflict) || try == maxTries {
			return nil, err
		}
	}
	id, err := s.deliver(ctx, "peer "+rec.Name+" of the tunnel was added")
	if err != nil {
		return nil, err
	}
	peer, tunnel, err := s.show(ctx, where, rec)
	if err != nil {
		return nil, err
	}
	return &v1.AddPeerResponse{Peer: peer, Tunnel: tunnel, RolloutId: id}, nil
}

// add stores a peer with the address that it wants, or the next free one. Conflict means that somebody else took it first.
func (s *Service) add(ctx context.Context, where *site.Site, rec *record, wanted string) error {
	items, err := s.cfg.Peers.table.List(ctx, store.ListOptions{})
	if err != nil {
		return errs.Wrap("list the tunnel's peers", err)
	}
	if len(items) >= maxPeers {
		return errs.New(errs.Exhausted, "there are %d peers already", len(items)).WithHint("infractl vpn peer remove")
	}
	var taken []netip.Addr
	for _, it := range items {
		switch {
		case it.Value.Name == rec.Name:
			return errs.New(errs.Exists, "there is a peer %s already", rec.Name).
				WithHint("infractl vpn peer rotate %s gives it a new key", rec.Name)
		case it.Value.PublicKey == rec.PublicKey:
			return errs.New(errs.Exists, "peer %s has this key already", it.Value.Name)
		}
		taken = append(taken, it.Value.Addresses...)
	}
	address, err := choose(where, taken, wanted)
	if err != nil {
		return err
	}
	rec.Addresses = []netip.Addr{address}
	put, err := s.cfg.Peers.table.PutOp(rec.Name, *rec, store.Absent)
	if err != nil {
		return err
	}
	_, err = s.cfg.Peers.records.Write(ctx, put,
		store.Put{Kind: KindAddress, Name: address.String(), Data: []byte(rec.Name), Expect: store.Absent})
	if errs.Is(err, errs.Exists) {
		return errs.New(errs.Conflict, "somebody else was faster").WithHint("try again")
	}
	return errs.Wrap("store peer "+rec.Name, err)
}

// choose returns the address of a new peer.
func choose(where *site.Site, taken []netip.Addr, wanted string) (netip.Addr, error) {
	if wanted == "" {
		a, ok := where.FreeTunnelAddress(taken)
		if !ok {
			return a, errs.New(errs.Exhausted, "no address of the tunnel's network is free").
				WithHint("infractl vpn peer list; remove one, or make the network larger in the site file")
		}
		return a, nil
	}
	a, err := netip.ParseAddr(wanted)
	if err != nil {
		return a, errs.New(errs.Invalid, "%.40q is no address", wanted)
	}
	if !where.TunnelAddressFree(a, taken) {
		return a, errs.New(errs.Exists, "address %s is taken, or not one of the tunnel's network", a).
			WithHint("leave it out: the next free one is taken")
	}
	return a, nil
}

// ListPeers implements v1.VpnServiceServer.
func (s *Service) ListPeers(ctx context.Context, _ *v1.ListPeersRequest) (*v1.ListPeersResponse, error) {
	where, err := s.site(ctx)
	if err != nil {
		return nil, err
	}
	items, err := s.cfg.Peers.table.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, errs.Wrap("list the tunnel's peers", err)
	}
	router, err := s.router(ctx, where)
	if err != nil {
		return nil, err
	}
	out := &v1.ListPeersResponse{Tunnel: tunnel(where, router)}
	for _, it := range items {
		out.Peers = append(out.Peers, toProto(it.Value, router))
	}
	return out, nil
}

// RemovePeer implements v1.VpnServiceServer.
func (s *Service) RemovePeer(ctx context.Context, req *v1.RemovePeerRequest) (*v1.RemovePeerResponse, error) {
	it, err := s.get(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	ops := []store.Op{store.Delete{Kind: KindPeer, Name: it.Name, Expect: it.Revision}}
	for _, a := range it.Value.Addresses {
		ops = append(ops, store.Delete{Kind: KindAddress, Name: a.String(), Expect: store.Any})
	}
	if _, err := s.cfg.Peers.records.Write(ctx, ops...); err != nil {
		return nil, errs.Wrap("remove peer "+it.Name, err)
	}
	id, err := s.deliver(ctx, "peer "+it.Name+" of the tunnel was removed")
	if err != nil {
		return nil, err
	}
	return &v1.RemovePeerResponse{RolloutId: id}, nil
}

// RotatePeer implements v1.VpnServiceServer.
func (s *Service) RotatePeer(ctx context.Context, req *v1.RotatePeerRequest) (*v1.RotatePeerResponse, error) {
	if err := checkKey(req.GetPublicKey()); err != nil {
		return nil, err
	}
	where, err := s.site(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.needsKey(ctx, where); err != nil {
		return nil, err
	}
	items, err := s.cfg.Peers.table.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, errs.Wrap("list the tunnel's peers", err)
	}
	for _, it := range items {
		if it.Value.PublicKey == req.GetPublicKey() {
			return nil, errs.New(errs.Exists, "peer %s has this key already", it.Value.Name)
		}
	}
	if _, err := s.get(ctx, req.GetName()); err != nil {
		return nil, err
	}
	it, err := s.cfg.Peers.table.Update(ctx, req.GetName(), func(r *record) error { r.PublicKey = req.GetPublicKey(); return nil })
	if err != nil {
		return nil, err
	}
	id, err := s.deliver(ctx, "peer "+it.Name+" of the tunnel has a new key")
	if err != nil {
		return nil, err
	}
	peer, tunnel, err := s.show(ctx, where, it.Value)
	if err != nil {
		return nil, err
	}
	return &v1.RotatePeerResponse{Peer: peer, Tunnel: tunnel, RolloutId: id}, nil
}

func (s *Service) get(ctx context.Context, name string) (store.Item[record], error) {
	if err := checkName(name); err != nil {
		return store.Item[record]{}, err
	}
	it, err := s.cfg.Peers.table.Get(ctx, name)
	if errs.Is(err, errs.NotFound) {
		return it, errs.New(errs.NotFound, "there is no peer %s", name).WithHint("infractl vpn peer list")
	}
	return it, err
}

// site returns the newest site, which must have a tunnel.
func (s *Service) site(ctx context.Context) (*site.Site, error) {
	where, _, err := s.cfg.Sites.Load(ctx, 0)
	if err != nil {
		return nil, err
	}
	if _, ok := where.Tunnel(); !ok || where.Router() == nil {
		return nil, errs.New(errs.Precondition, "the site has no tunnel").WithHint("add a vpn section to the site file, and apply it")
	}
	return where, nil
}

// deliver tells the router. The peer is stored already when this fails.
func (s *Service) deliver(ctx context.Context, reason string) (string, error) {
	s.cfg.Sites.Changed()
	id, err := s.cfg.Deliver.Deliver(ctx, access.CallerFrom(ctx).Actor, reason)
	if err != nil {
		return "", errs.New(errs.CodeOf(err), "%s, but the router has not heard of it: %w", reason, err).WithHint("infractl apply tells it")
	}
	return id, nil
}

// router returns what the router last reported; nil before its first report.
func (s *Service) router(ctx context.Context, where *site.Site) (*v1.RouterReport, error) {
	r, err := s.cfg.Router(ctx, where.Router().Name)
	return r, errs.Wrap("read what the router reported", err)
}

// needsKey refuses, with code precondition, as long as the router has not reported the key that every configuration of a peer names.
func (s *Service) needsKey(ctx context.Context, where *site.Site) error {
	r, err := s.router(ctx, where)
	if err != nil || r.GetWireguardPublicKey() != "" {
		return err
	}
	return errs.New(errs.Precondition, "router %s has not reported its key of the tunnel yet", where.Router().Name).
		WithHint("infractl apply brings the tunnel to the router; infractl router show says when it has its key")
}

func (s *Service) show(ctx context.Context, where *site.Site, rec record) (*v1.Peer, *v1.Tunnel, error) {
	router, err := s.router(ctx, where)
	if err != nil {
		return nil, nil, err
	}
	return toProto(rec, router), tunnel(where, router), nil
}

func toProto(rec record, router *v1.RouterReport) *v1.Peer {
	p := &v1.Peer{Name: rec.Name, PublicKey: rec.PublicKey, Operator: rec.Operator, Created: timestamppb.New(rec.Created)}
	for _, a := range rec.Addresses {
		p.Addresses = append(p.Addresses, a.String())
	}
	for _, state := range router.GetPeers() {
		if state.GetPublicKey() == rec.PublicKey {
			p.Live, p.LastHandshake, p.Endpoint = true, state.GetLastHandshake(), state.GetEndpoint()
		}
	}
	return p
}

// tunnel is what peers need to know. Only what the site's flows let them reach goes through it: a split tunnel.
func tunnel(where *site.Site, router *v1.RouterReport) *v1.Tunnel {
	t, _ := where.Tunnel()
	out := &v1.Tunnel{PublicKey: router.GetWireguardPublicKey(), Search: where.Domain,
		Endpoint: net.JoinHostPort(where.TunnelEndpoint(), strconv.Itoa(int(t.Port)))}
	for _, n := range where.Networks {
		if !n.Outside {
			out.AllowedIps = append(out.AllowedIps, n.Prefix.String())
		}
	}
	for _, name := range []string{where.DNS.Primary, where.DNS.Secondary} {
		if n, ok := where.Node(name); ok {
			out.Nameservers = append(out.Nameservers, n.MainAddress().String())
		}
	}
	slices.SortFunc(out.AllowedIps, strings.Compare)
	return out
}
