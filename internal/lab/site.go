package lab

import (
	"fmt"
	"net/netip"
)

// DefaultSite returns the lab of the example site: a router, five servers, the outside world as one VM, and the namespace
// of an operator behind the VPN's bridge.
func DefaultSite(name, dir string) Config {
	any4 := netip.MustParsePrefix("0.0.0.0/0")
	server := func(vm, address string) VMSpec {
		return VMSpec{
			Name:       vm,
			Interfaces: []Interface{card("lan", "eth0", address+"/24")},
			Routes:     []Route{{Dst: any4, Via: netip.MustParseAddr("10.0.10.1")}},
		}
	}
	router := VMSpec{
		Name: "vrouter",
		Interfaces: []Interface{
			card("wan", "eth0", "192.168.8.30/24"),
			card("lan", "eth1", "10.0.10.1/24"),
			card("vpn", "eth2", "10.0.20.1/24"),
		},
		Routes:  []Route{{Dst: any4, Via: netip.MustParseAddr("192.168.8.1")}},
		Sysctls: map[string]string{"net.ipv4.ip_forward": "1"},
	}
	prod := server("srv-prod", "10.0.10.20")
	prod.NestedDocker = true
	preProd := server("srv-pre-prod", "10.0.10.21")
	preProd.Variant = VariantUbuntu

	outside := Interface{Name: "lo"}
	for i := 1; i <= 10; i++ {
		outside.Addresses = append(outside.Addresses, netip.MustParsePrefix(fmt.Sprintf("203.0.113.%d/32", i)))
	}
	toSite := netip.MustParseAddr("192.168.8.30")
	internet := VMSpec{
		Name:       "internet",
		Interfaces: []Interface{outside, card("wan", "eth0", "192.168.8.1/24")},
		Routes: []Route{
			{Dst: netip.MustParsePrefix("10.0.10.0/24"), Via: toSite},
			{Dst: netip.MustParsePrefix("10.0.20.0/24"), Via: toSite},
		},
		Sysctls: map[string]string{"net.ipv4.ip_forward": "0"},
		// It serves the time, from this machine's clock.
		Files:       []File{{Guest: "/etc/chrony/conf.d/lab.conf", Mode: 0o644, Content: []byte("local stratum 8\nallow\n")}},
		EnableUnits: []string{"chrony.service"},
	}
	return Config{
		Name: name,
		Dir:  dir,
		Networks: []Network{
			{Name: "wan", CIDR: netip.MustParsePrefix("192.168.8.0/24")},
			{Name: "lan", CIDR: netip.MustParsePrefix("10.0.10.0/24")},
			{Name: "vpn", CIDR: netip.MustParsePrefix("10.0.20.0/24")},
		},
		VMs: []VMSpec{
			router,
			server("client-relay", "10.0.10.4"),
			server("srv-dhcp-dns", "10.0.10.10"),
			server("srv-supervision", "10.0.10.11"),
			prod,
			preProd,
			internet,
		},
		Namespaces: []NamespaceSpec{{
			Name:       "operator",
			Interfaces: []Interface{card("vpn", "eth0", "10.0.20.10/24")},
			Routes:     []Route{{Dst: any4, Via: netip.MustParseAddr("10.0.20.1")}},
		}},
	}
}

func card(network, name, address string) Interface {
	return Interface{Network: network, Name: name, Addresses: []netip.Prefix{netip.MustParsePrefix(address)}}
}
