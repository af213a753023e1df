package imports

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/infractl/infractl/internal/vyos"
)

// yaml writes what was read as a part of a site file. Texts are quoted; names were read from a configuration and may be anything.
func (b *builder) yaml() string {
	var s strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	line("# Read from a VyOS router. Other nodes, the server and more flows are still to be written.")
	if b.domain != "" {
		line("domain: %s", quote(b.domain))
	}
	if b.timezone != "" {
		line("timezone: %s", quote(b.timezone))
	}
	if len(b.ntp) > 0 {
		line("ntp: [%s]", quoteAll(b.ntp))
	}
	b.yamlNetworks(line)
	if len(b.hosts) > 0 {
		line("hosts: # or nodes, where infractl manages them")
		for _, h := range b.hosts {
			line("  %s: {address: %s}", h.name, h.address)
		}
	}
	if len(b.flows) > 0 {
		line("flows:")
		for _, f := range b.flows {
			line("  - {name: %s, from: %s, to: %s, ports: [%s]}", quote(f.name), quote(f.from), quote(f.to), quoteAll(f.ports))
		}
	}
	if b.sshPort != "" {
		line("ssh: {port: %s}", quote(b.sshPort))
	}
	b.yamlAccounts(line)
	if b.tunnel != nil {
		line("vpn: {interface: %s, address: %s, port: %s}", quote(b.tunnel.name), b.tunnel.address.Addr(), quote(b.portOfTunnel()))
	}
	return s.String()
}

func (b *builder) platform() vyos.Version {
	switch {
	case b.local:
		return vyos.V15
	case b.later:
		return vyos.V14
	}
	return vyos.V13
}

func (b *builder) yamlNetworks(line func(string, ...any)) {
	cards := b.cards
	if b.tunnel != nil {
		cards = append(append([]*card{}, cards...), b.tunnelCard()...)
	}
	header := false
	for _, k := range cards {
		if k.network == "" {
			continue
		}
		if !header {
			line("networks:")
			header = true
		}
		switch {
		case k.outside:
			line("  %s: {cidr: %s, gateway: %s}", k.network, k.address.Masked(), b.gateway)
		case k.network == "vpn":
			line("  %s: {cidr: %s}", k.network, k.address.Masked())
		default:
			line("  %s: {cidr: %s, gateway: %s}", k.network, k.address.Masked(), k.address.Addr())
		}
	}
	if !header {
		return
	}
	line("nodes:")
	line("  %s:", quote(b.name()))
	line("    role: router")
	line("    platform: %s # look at `show version` on the router", b.platform())
	line("    interfaces:")
	for _, k := range b.cards {
		if k.network == "" {
			continue
		}
		text := ""
		if k.description != "" {
			text = ", description: " + quote(k.description)
		}
		line("      %s: {network: %s, address: %s%s}", quote(k.name), k.network, k.address.Addr(), text)
	}
}

func (b *builder) yamlAccounts(line func(string, ...any)) {
	header := false
	for _, a := range b.accounts {
		var keys []string
		for _, id := range a.ids {
			if k := a.keys[id]; k[0] != "" && k[1] != "" {
				keys = append(keys, k[0]+" "+k[1])
			}
		}
		if len(keys) == 0 {
			continue
		}
		if !header {
			line("accounts:")
			header = true
		}
		line("  %s: {sudo: true, ssh_keys: [%s]}", quote(a.name), quoteAll(keys))
	}
}

// quote quotes what is no plain word, so that nothing in a configuration can become structure.
func quote(s string) string {
	plain := s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./") == "" && s[0] != '-'
	if plain {
		return s
	}
	return strconv.Quote(s)
}

func quoteAll(list []string) string {
	var out []string
	for _, s := range list {
		out = append(out, quote(s))
	}
	return strings.Join(out, ", ")
}
