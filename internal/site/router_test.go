package site

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestRouterFollowsFromNetworksAndFlows(t *testing.T) {
	s := load(t, example(t, false))
	key := strings.Repeat("A", 43) + "="
	specs, err := s.HostSpecs(Resources{Peers: []TunnelPeer{
		{Name: "laptop", PublicKey: key, Addresses: []netip.Addr{netip.MustParseAddr("10.0.20.2")}},
		{Name: "gone", PublicKey: key, Addresses: []netip.Addr{netip.MustParseAddr("10.0.99.2")}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	port := func(n uint32) *v1.PortRange { return &v1.PortRange{First: n, Last: n} }
	want := &v1.RouterSpec{
		Platform: "vyos-1.4",
		Interfaces: []*v1.RouterInterface{
			{Name: "eth0", Addresses: []string{"192.168.8.30/24"}, Network: "wan", Description: "WAN", Outside: true},
			{Name: "eth1", Addresses: []string{"10.0.10.1/24"}, Network: "lan", Description: "LAN"},
		},
		Routes: []*v1.RouterRoute{{Prefix: "0.0.0.0/0", Via: "192.168.8.1"}},
		SourceNat: []*v1.SourceNat{
			{Description: "lan to the internet", Source: "10.0.10.0/24", Interface: "eth0"},
			{Description: "vpn to the internet", Source: "10.0.20.0/24", Interface: "eth0"},
		},
		DestinationNat: []*v1.DestinationNat{
			{Description: "web", Interface: "eth0", Protocol: "tcp", Ports: port(80), Target: "10.0.10.10", Flow: "web"},
			{Description: "web", Interface: "eth0", Protocol: "tcp", Ports: port(443), Target: "10.0.10.10", Flow: "web"},
		},
		Wireguard: &v1.WireguardSpec{Interface: "wg0", Addresses: []string{"10.0.20.1/24"}, Port: 51820,
			Peers: []*v1.WireguardPeer{{Name: "laptop", PublicKey: key, AllowedIps: []string{"10.0.20.2/32"}}}},
	}
	if diff := cmp.Diff(want, specs["vrouter"].GetRouter(), protocmp.Transform()); diff != "" {
		t.Errorf("router (-want +got):\n%s", diff)
	}
	for name, spec := range specs {
		if name != "vrouter" && spec.GetRouter() != nil {
			t.Errorf("%s is no router, and has the section", name)
		}
	}
}

func TestTunnelAddressesAreGivenOnce(t *testing.T) {
	s := load(t, example(t, false))
	var taken []netip.Addr
	for range 253 {
		a, ok := s.FreeTunnelAddress(taken)
		if !ok || !s.TunnelAddressFree(a, taken) || s.TunnelAddressFree(a, append(taken, a)) {
			t.Fatalf("after %d addresses: %s, %v", len(taken), a, ok)
		}
		taken = append(taken, a)
	}
	if a, ok := s.FreeTunnelAddress(taken); ok {
		t.Errorf("%s is free, with a full network", a)
	}
	for _, a := range []string{"10.0.20.1", "10.0.20.0", "10.0.20.255", "10.0.10.4", "192.0.2.1"} {
		if s.TunnelAddressFree(netip.MustParseAddr(a), nil) {
			t.Errorf("%s may be a peer's", a)
		}
	}
}
