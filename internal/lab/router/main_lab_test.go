//go:build lab

package router

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
)

const services = "srv-dhcp-dns"

// siteFile is a site of three machines: router, relay, and the one that customers reach.
const siteFile = `site: projetpro
domain: projetpro.lab
ntp: [203.0.113.3]
networks:
  wan: {cidr: 192.168.8.0/24, gateway: 192.168.8.1}
  lan: {cidr: 10.0.10.0/24, gateway: 10.0.10.1}
  vpn: {cidr: 10.0.20.0/24}
nodes:
  vrouter:
    role: router
    platform: linux
    interfaces:
      eth0: {network: wan, address: 192.168.8.30}
      eth1: {network: lan, address: 10.0.10.1}
  client-relay: {role: relay,    address: 10.0.10.4}
  srv-dhcp-dns: {role: services, address: 10.0.10.10}
server: {nodes: [client-relay], port: 7443, enrol_port: 7444}
flows:
  - {name: web,     from: internet,     to: srv-dhcp-dns, ports: [80/tcp, 443/tcp]}
  - {name: vpn,     from: internet,     to: vrouter,      ports: [51820/udp]}
  - {name: admin,   from: vpn,          to: client-relay, ports: [ssh]}
  - {name: bastion, from: client-relay, to: all,          ports: [ssh]}
dns: {primary: srv-dhcp-dns, forwarders: [203.0.113.1]}
vpn: {interface: wg0, address: 10.0.20.1, port: 51820}
ssh: {port: 202, users: [operator], max_auth_tries: 4}
accounts:
  operator: {name: Operator, sudo: true, ssh_keys: [%q]}
`

const overlay = `nodes:
  vrouter:
    interfaces:
      eth2: {network: vpn, address: 10.0.20.1, description: stands for the tunnel}
probes:
  internet: {network: outside, address: 192.168.8.1}
  operator: {network: vpn, address: 10.0.20.10}
`

// site is the one lab of this package.
var site *demo.Site

func TestMain(m *testing.M) {
	os.Exit(demo.Suite{
		Name: "router", Limit: 5 * time.Minute,
		Change:  func(o *demo.Options) { o.Customize = machines },
		Prepare: func(context.Context, *demo.Site) error { return writeSite("") },
	}.Run(&site, m.Run))
}

func machines(cfg *lab.Config) {
	cfg.VMs = slices.DeleteFunc(cfg.VMs, func(vm lab.VMSpec) bool {
		return !slices.Contains([]string{demo.Relay, demo.Router, services, demo.Internet}, vm.Name)
	})
	for i := range cfg.VMs {
		cfg.VMs[i].NestedDocker = false
	}
}

// writeSite writes the site file without the lines that hold a text.
func writeSite(without string) error {
	data, err := os.ReadFile(site.SSHKey())
	if err != nil {
		return err
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return err
	}
	text := fmt.Sprintf(siteFile, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))))
	if without != "" {
		var kept strings.Builder
		for line := range strings.Lines(text) {
			if !strings.Contains(line, without) {
				kept.WriteString(line)
			}
		}
		text = kept.String()
	}
	if err := os.WriteFile(site.Overlay, []byte(overlay), 0o600); err != nil {
		return err
	}
	return site.WriteSite(text)
}
