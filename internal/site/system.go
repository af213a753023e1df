package site

import (
	"net/netip"
	"slices"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (s *Site) system(n *Node) *v1.SystemSpec {
	spec := &v1.SystemSpec{
		Hostname: n.Name, Domain: s.Domain, Search: []string{s.Domain}, Timezone: s.Timezone,
		Hosts: s.hostsFile(), Sysctls: s.sysctls(n),
	}
	for _, name := range []string{s.DNS.Primary, s.DNS.Secondary} {
		if d, ok := s.Node(name); ok {
			spec.Nameservers = append(spec.Nameservers, d.main.String())
		}
	}
	return spec
}

// hostsFile names every node and host by its main addresses, so that names work while DNS does not. A node's own name has
// its real address too, never 127.0.1.1: what listens on the name must be reachable.
func (s *Site) hostsFile() []*v1.HostsEntry {
	var out []*v1.HostsEntry
	line := func(name string, addrs ...netip.Addr) {
		names := []string{name + "." + s.Domain, name}
		for _, a := range s.DNS.Aliases {
			if a.Target == name {
				names = append(names, a.Name+"."+s.Domain, a.Name)
			}
		}
		for _, a := range validAddrs(addrs...) {
			out = append(out, &v1.HostsEntry{Address: a.String(), Names: slices.Clone(names)})
		}
	}
	for _, n := range s.Nodes {
		line(n.Name, n.main, n.main6)
	}
	for _, h := range s.Hosts {
		line(h.Name, h.Address, h.Address6)
	}
	return out
}

// sysctls is a base of hardened network settings. Only settings below net. are in it: they belong to a network namespace, so
// a host in a container (the lab) can have them too. The kernel.* and fs.* settings that guides add (kptr_restrict,
// dmesg_restrict, protected_hardlinks and the like) belong to the whole kernel, cannot be set in a container, and are on by
// default in Debian and Ubuntu.
func (s *Site) sysctls(n *Node) map[string]string {
	out := map[string]string{
		"net.ipv4.tcp_syncookies":                    "1",
		"net.ipv4.icmp_echo_ignore_broadcasts":       "1",
		"net.ipv4.icmp_ignore_bogus_error_responses": "1",
		"net.ipv4.ip_forward":                        "0",
	}
	forwards := n.Role == RoleRouter || n.DockerHost()
	// Strict reverse path filtering drops what comes back on another way than it went; a router and a Docker host have such
	// ways. The kernel takes the greater of all and the interface's own value.
	filter := "1"
	if forwards {
		filter = "2"
		out["net.ipv4.ip_forward"] = "1"
	}
	for _, scope := range []string{"all", "default"} {
		v4, v6 := "net.ipv4.conf."+scope+".", "net.ipv6.conf."+scope+"."
		out[v4+"rp_filter"] = filter
		out[v4+"accept_redirects"] = "0"
		out[v4+"secure_redirects"] = "0"
		out[v4+"send_redirects"] = "0"
		out[v4+"accept_source_route"] = "0"
		out[v4+"log_martians"] = "0"
		out[v6+"accept_redirects"] = "0"
		out[v6+"accept_source_route"] = "0"
		out[v6+"accept_ra"] = "0"
		if n.Role == RoleRouter && s.hasIPv6() {
			out[v6+"forwarding"] = "1"
		}
	}
	return out
}

func (s *Site) hasIPv6() bool {
	return slices.ContainsFunc(s.Networks, func(n Network) bool { return n.Prefix6.IsValid() })
}
