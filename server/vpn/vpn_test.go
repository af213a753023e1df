package vpn_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/sqlite"
	"github.com/infractl/infractl/server/vpn"
)

// sites is one site, and counts how often it was told of changes.
type sites struct {
	site    *site.Site
	router  *v1.RouterReport
	mu      sync.Mutex
	changed int
	reasons []string
}

func (s *sites) Load(context.Context, uint64) (*site.Site, uint64, error) { return s.site, 1, nil }
func (s *sites) Changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed++
}
func (s *sites) Deliver(_ context.Context, _, reason string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reasons = append(s.reasons, reason)
	return fmt.Sprintf("r%d", len(s.reasons)), nil
}

func newService(t *testing.T, edits ...string) (*vpn.Service, *vpn.Peers, *sites) {
	t.Helper()
	content, err := os.ReadFile("../../examples/projetpro/site.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(edits...).Replace(string(content))
	i := strings.Index(text, "\nstacks:") // they need files beside them
	j := strings.Index(text, "\nproxy:")
	loaded, findings := site.Load(site.Source{File: "site.yaml", Content: []byte(text[:i] + text[j:])})
	if loaded == nil {
		t.Fatal(findings)
	}
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Clock: clock.System{}, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	fake := &sites{site: loaded, router: &v1.RouterReport{WireguardPublicKey: key(200),
		Peers: []*v1.PeerState{{PublicKey: key(1), Endpoint: "203.0.113.9:4500"}}}}
	peers := vpn.NewPeers(store.Records(s))
	return vpn.NewService(vpn.Config{Peers: peers, Sites: fake, Deliver: fake, Clock: clock.System{},
		Router: func(context.Context, string) (*v1.RouterReport, error) { return fake.router, nil }}), peers, fake
}

func key(n byte) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{n}, 32)) }

func TestAPeerGetsAnAddressAndTheTunnel(t *testing.T) {
	s, peers, fake := newService(t)
	res, err := s.AddPeer(t.Context(), &v1.AddPeerRequest{Name: "anna-laptop", PublicKey: key(1)})
	if err != nil {
		t.Fatal(err)
	}
	p, tun := res.GetPeer(), res.GetTunnel()
	if p.GetAddresses()[0] != "10.0.20.2" || !p.GetLive() || p.GetEndpoint() != "203.0.113.9:4500" || res.GetRolloutId() != "r1" {
		t.Errorf("peer %v", res)
	}
	if tun.GetPublicKey() != key(200) || tun.GetEndpoint() != "192.168.8.30:51820" || tun.GetNameservers()[0] != "10.0.10.10" ||
		cmp.Diff([]string{"10.0.10.0/24", "10.0.20.0/24"}, tun.GetAllowedIps()) != "" {
		t.Errorf("tunnel %v", tun)
	}
	var into site.Resources
	if err := peers.Resources(t.Context(), &into); err != nil || fake.changed != 1 {
		t.Fatal(err, fake.changed)
	}
	want := []site.TunnelPeer{{Name: "anna-laptop", PublicKey: key(1), Addresses: []netip.Addr{netip.MustParseAddr("10.0.20.2")}}}
	if diff := cmp.Diff(want, into.Peers, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
}

func TestAddRefuses(t *testing.T) {
	s, _, _ := newService(t)
	if _, err := s.AddPeer(t.Context(), &v1.AddPeerRequest{Name: "anna", PublicKey: key(1), Address: "10.0.20.40"}); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		req  *v1.AddPeerRequest
		want errs.Code
	}{
		"ErrName":           {&v1.AddPeerRequest{Name: "Anna Laptop", PublicKey: key(2)}, errs.Invalid},
		"ErrEmptyName":      {&v1.AddPeerRequest{PublicKey: key(2)}, errs.Invalid},
		"ErrKey":            {&v1.AddPeerRequest{Name: "bob", PublicKey: "secret"}, errs.Invalid},
		"ErrZeroKey":        {&v1.AddPeerRequest{Name: "bob", PublicKey: key(0)}, errs.Invalid},
		"ErrNameTaken":      {&v1.AddPeerRequest{Name: "anna", PublicKey: key(2)}, errs.Exists},
		"ErrKeyTaken":       {&v1.AddPeerRequest{Name: "bob", PublicKey: key(1)}, errs.Exists},
		"ErrAddressTaken":   {&v1.AddPeerRequest{Name: "bob", PublicKey: key(2), Address: "10.0.20.40"}, errs.Exists},
		"ErrRoutersAddress": {&v1.AddPeerRequest{Name: "bob", PublicKey: key(2), Address: "10.0.20.1"}, errs.Exists},
		"ErrOtherNetwork":   {&v1.AddPeerRequest{Name: "bob", PublicKey: key(2), Address: "10.0.10.40"}, errs.Exists},
		"ErrNoAddress":      {&v1.AddPeerRequest{Name: "bob", PublicKey: key(2), Address: "ten"}, errs.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := s.AddPeer(t.Context(), tt.req); !errs.Is(err, tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	if list, err := s.ListPeers(t.Context(), &v1.ListPeersRequest{}); err != nil || len(list.GetPeers()) != 1 {
		t.Errorf("%v, %v: a refused peer was kept", list, err)
	}
}

func TestPeersAddedAtOnceGetAddressesOfTheirOwn(t *testing.T) {
	s, _, _ := newService(t)
	const n = 6
	var wg sync.WaitGroup
	addresses := make([]string, n)
	for i := range n {
		wg.Go(func() {
			res, err := s.AddPeer(t.Context(), &v1.AddPeerRequest{Name: fmt.Sprintf("peer-%d", i), PublicKey: key(byte(i + 1))})
			if err != nil {
				t.Error(err)
				return
			}
			addresses[i] = res.GetPeer().GetAddresses()[0]
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, a := range addresses {
		if a == "" || seen[a] {
			t.Errorf("addresses %v are not all different", addresses)
		}
		seen[a] = true
	}
}

func TestARemovedPeersAddressIsFreeAgain(t *testing.T) {
	s, _, fake := newService(t)
	for i := range 3 {
		if _, err := s.AddPeer(t.Context(), &v1.AddPeerRequest{Name: fmt.Sprintf("peer-%d", i), PublicKey: key(byte(i + 1))}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.RemovePeer(t.Context(), &v1.RemovePeerRequest{Name: "peer-1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RemovePeer(t.Context(), &v1.RemovePeerRequest{Name: "peer-1"}); !errs.Is(err, errs.NotFound) {
		t.Errorf("removed twice: %v", err)
	}
	res, err := s.AddPeer(t.Context(), &v1.AddPeerRequest{Name: "new", PublicKey: key(9)})
	if err != nil || res.GetPeer().GetAddresses()[0] != "10.0.20.3" {
		t.Errorf("%v, %v: want the address that became free", res, err)
	}
	if last := fake.reasons[len(fake.reasons)-1]; last != "peer new of the tunnel was added" {
		t.Errorf("reason %q", last)
	}
}

func TestARotatedPeerKeepsItsAddress(t *testing.T) {
	s, _, _ := newService(t)
	before, err := s.AddPeer(t.Context(), &v1.AddPeerRequest{Name: "anna", PublicKey: key(1)})
	if err != nil {
		t.Fatal(err)
	}
	after, err := s.RotatePeer(t.Context(), &v1.RotatePeerRequest{Name: "anna", PublicKey: key(2)})
	if err != nil || after.GetPeer().GetPublicKey() != key(2) ||
		after.GetPeer().GetAddresses()[0] != before.GetPeer().GetAddresses()[0] || after.GetPeer().GetLive() {
		t.Errorf("%v, %v", after, err)
	}
	if _, err := s.RotatePeer(t.Context(), &v1.RotatePeerRequest{Name: "anna", PublicKey: key(2)}); !errs.Is(err, errs.Exists) {
		t.Errorf("the same key again: %v", err)
	}
	if _, err := s.RotatePeer(t.Context(), &v1.RotatePeerRequest{Name: "nobody", PublicKey: key(3)}); !errs.Is(err, errs.NotFound) {
		t.Errorf("a peer that is not there: %v", err)
	}
	if d := time.Since(after.GetPeer().GetCreated().AsTime()); d < 0 || d > time.Hour {
		t.Errorf("created %s ago", d)
	}
}

func TestWithoutATunnelThereAreNoPeers(t *testing.T) {
	s, _, _ := newService(t, "\nvpn:\n  interface: wg0\n  address: 10.0.20.1\n  port: 51820\n", "\n")
	if _, err := s.AddPeer(t.Context(), &v1.AddPeerRequest{Name: "anna", PublicKey: key(1)}); !errs.Is(err, errs.Precondition) {
		t.Errorf("got %v, want a precondition", err)
	}
}

func TestBeforeTheRouterHasItsKeyNothingIsHandedOut(t *testing.T) {
	s, peers, fake := newService(t)
	if _, err := s.AddPeer(t.Context(), &v1.AddPeerRequest{Name: "anna", PublicKey: key(1)}); err != nil {
		t.Fatal(err)
	}
	for name, report := range map[string]*v1.RouterReport{"NoReport": nil, "NoTunnelYet": {Platform: "linux"}} {
		t.Run(name, func(t *testing.T) {
			fake.router = report
			if _, err := s.AddPeer(t.Context(), &v1.AddPeerRequest{Name: "bob", PublicKey: key(2)}); !errs.Is(err, errs.Precondition) {
				t.Errorf("add: %v, want a precondition", err)
			}
			if _, err := s.RotatePeer(t.Context(), &v1.RotatePeerRequest{Name: "anna", PublicKey: key(3)}); !errs.Is(err, errs.Precondition) {
				t.Errorf("rotate: %v, want a precondition", err)
			}
		})
	}
	var into site.Resources
	if err := peers.Resources(t.Context(), &into); err != nil || len(into.Peers) != 1 || into.Peers[0].PublicKey != key(1) {
		t.Errorf("%v, %v: a refused peer was kept, or a refused key", into.Peers, err)
	}
	if _, err := s.RemovePeer(t.Context(), &v1.RemovePeerRequest{Name: "anna"}); err != nil {
		t.Errorf("who has to go goes at any time: %v", err)
	}
}
