package site

import (
	"fmt"
	"strings"
	"testing"
)

// badEdits turn the example site into one that must be refused: each pair replaces the first text by the second.
var badEdits = []struct {
	name  string
	edits []string
}{
	{"empty file", []string{"*", ""}},
	{"only a comment", []string{"*", "# nothing\n"}},
	{"a list", []string{"*", "- site\n"}},
	{"a word", []string{"*", "site\n"}},
	{"everything missing", []string{"*", "site: x\n"}},
	{"yaml error", []string{"ntp: [0.pool.ntp.org, 1.pool.ntp.org]", "ntp: [0.pool.ntp.org, 1.pool.ntp.org"}},
	{"unknown key", []string{"timezone:", "time_zone:"}},
	{"unknown key with a slip", []string{"    platform: vyos-1.4", "    platfrom: vyos-1.4"}}, //nolint:misspell // the slip is the test
	{"unknown key like none", []string{"server: {nodes: [client-relay],", "server: {nodes: [client-relay], colour: red,"}},
	{"duplicate key", []string{"domain: projetpro.lab ", "site: other\ndomain: projetpro.lab "}},
	{"key without value", []string{"timezone: Europe/Paris", "timezone:"}},
	{"list instead of value", []string{"domain: projetpro.lab", "domain: [projetpro.lab]"}},
	{"value instead of list", []string{"users: [operator, developer]", "users: operator"}},
	{"account name of 32 bytes", []string{"  developer: {", "  " + strings.Repeat("d", 32) + ": {"}},
	{"site name in capitals", []string{"site: projetpro", "site: ProjetPro"}},
	{"name too long", []string{"srv-prod:        {", strings.Repeat("x", 64) + ": {"}},
	{"domain of one label", []string{"domain: projetpro.lab", "domain: lab"}},
	{"unknown time zone", []string{"Europe/Paris\nntp", "Europe/Pariss\nntp"}},
	{"local time zone", []string{"Europe/Paris\nntp", "Local\nntp"}},
	{"bad time server", []string{"0.pool.ntp.org", "0.pool_ntp.org"}},
	{"time server twice", []string{"1.pool.ntp.org", "0.pool.ntp.org"}},
	{"bad cidr", []string{"10.0.10.0/24", "10.0.10.0/33"}},
	{"host bits", []string{"10.0.10.0/24", "10.0.10.7/24"}},
	{"cidr of the wrong family", []string{"cidr: 10.0.20.0/24", "cidr: fd00:20::/64"}},
	{"cidr too large", []string{"cidr: 10.0.20.0/24", "cidr: 16.0.0.0/4"}},
	{"loopback network", []string{"cidr: 10.0.20.0/24", "cidr: 127.0.20.0/24"}},
	{"overlapping networks", []string{"cidr: 10.0.20.0/24", "cidr: 10.0.0.0/16"}},
	{"gateway outside its network", []string{"gateway: 192.168.8.1}", "gateway: 192.168.9.1}"}},
	{"gateway that is no router", []string{"gateway: 10.0.10.1}", "gateway: 10.0.10.20}"}},
	{"gateway with a slip", []string{"gateway: 10.0.10.1}", "gateway: 10.0.10.2}"}},
	{"reserved network name", []string{"  lan: {cidr", "  internet: {cidr"}},
	{"host named like a node", []string{"  smtp:   {", "  srv-prod:   {"}},
	{"host named like a role", []string{"  smtp:   {", "  supervision:   {"}},
	{"a port from the internet with two targets", []string{"  - {name: vpn,        from: internet,", "  - {name: web2, from: internet, to: srv-prod, ports: [443/tcp]}\n  - {name: vpn,        from: internet,"}},
	{"bad address", []string{"address: 10.0.10.20}", "address: 10.0.10.300}"}},
	{"address with a length", []string{"address: 10.0.10.20}", "address: 10.0.10.20/24}"}},
	{"address in no network", []string{"address: 10.0.10.20}", "address: 10.0.11.20}"}},
	{"broadcast address", []string{"address: 10.0.10.20}", "address: 10.0.10.255}"}},
	{"duplicate address", []string{"address: 10.0.10.20}", "address: 10.0.10.21}"}},
	{"duplicate address of a host", []string{"smtp:   {address: 10.0.10.31}", "smtp:   {address: 10.0.10.4}"}},
	{"host on loopback", []string{"smtp:   {address: 10.0.10.31}", "smtp:   {address: 127.0.0.1}"}},
	{"ipv6 without ipv4", []string{"{role: prod,        address: 10.0.10.20}", "{role: prod, address6: fd00::1}"}},
	{"ipv6 in no network", []string{"{role: prod,        address: 10.0.10.20}", "{role: prod, address: 10.0.10.20, address6: fd00::1}"}},
	{"no address", []string{"{role: prod,        address: 10.0.10.20}", "{role: prod}"}},
	{"address and interfaces", []string{"{role: prod,        address: 10.0.10.20}", "{role: prod, address: 10.0.10.20, interfaces: {eth0: {network: lan, address: 10.0.10.22}}}"}},
	{"interface in an unknown network", []string{"{network: lan, address: 10.0.10.1", "{network: lann, address: 10.0.10.1"}},
	{"two interfaces in a network", []string{"eth0: {network: wan, address: 192.168.8.30", "eth0: {network: lan, address: 10.0.10.2"}},
	{"interface name", []string{"eth1: {", "Ethernet Card 1: {"}},
	{"unknown role", []string{"role: preprod", "role: pre-prod"}},
	{"platform on a server", []string{"{role: prod, ", "{role: prod, platform: vyos-1.4, "}},
	{"unknown platform", []string{"vyos-1.4 ", "vyos-2.0 "}},
	{"two relays", []string{"role: prod,", "role: relay,"}},
	{"no relay", []string{"role: relay,", "role: prod,"}},
	{"no router", []string{"role: router", "role: prod"}},
	{"node outside only", []string{"{role: prod,        address: 10.0.10.20}", "{role: prod, address: 192.168.8.40}"}},
	{"two servers", []string{"nodes: [client-relay], port", "nodes: [client-relay, srv-prod], port"}},
	{"unknown server", []string{"nodes: [client-relay], port", "nodes: [client-rely], port"}},
	{"server on vyos", []string{"nodes: [client-relay], port", "nodes: [vrouter], port"}},
	{"server ports equal", []string{"enrol_port: 7444", "enrol_port: 7443"}},
	{"port out of range", []string{"port: 7443", "port: 74430"}},
	{"port zero", []string{"port: 7443", "port: 0"}},
	{"unknown node in a flow", []string{"to: srv-dhcp-dns,    ports: [80", "to: srv-dhcp-dsn,    ports: [80"}},
	{"unknown principal like none", []string{"from: internet,     to: srv-dhcp", "from: everybody-else,     to: srv-dhcp"}},
	{"unknown stack", []string{"from: internet,     to: srv-dhcp", "from: stack:shop,     to: srv-dhcp"}},
	{"internet to internet", []string{"to: srv-dhcp-dns,    ports: [80", "to: internet,    ports: [80"}},
	{"flow to itself", []string{"from: srv-supervision, to: smtp", "from: srv-supervision, to: srv-supervision"}},
	{"flow without protocol", []string{"[80/tcp, 443/tcp]", "[80, 443/tcp]"}},
	{"flow port out of range", []string{"[80/tcp, 443/tcp]", "[80/tcp, 70000/tcp]"}},
	{"flow range turned round", []string{"[80/tcp, 443/tcp]", "[443-80/tcp]"}},
	{"flow port twice", []string{"[80/tcp, 443/tcp]", "[80/tcp, 70-90/tcp]"}},
	{"flow without ports", []string{"[80/tcp, 443/tcp]", "[]"}},
	{"flow lacks keys", []string{"  - {name: web,        from: internet,", "  - {name: web,"}},
	{"flow name twice", []string{"name: vpn, ", "name: web, "}},
	{"relay cannot log in", []string{"  - {name: bastion,    from: client-relay, to: all,             ports: [ssh]}\n", ""}},
	{"relay cannot log in on one", []string{"to: all,             ports: [ssh]}", "to: lan,             ports: [22/tcp]}"}},
	{"nobody gets in on the relay", []string{"  - {name: admin,      from: vpn,          to: client-relay,    ports: [ssh]}\n", ""}},
	{"ssh port taken", []string{"port: 202", "port: 7443"}},
	{"ssh tries", []string{"max_auth_tries: 4", "max_auth_tries: 1"}},
	{"ssh interval", []string{"client_alive_interval: 30s", "client_alive_interval: 1s"}},
	{"ssh interval without unit", []string{"client_alive_interval: 30s", "client_alive_interval: 30"}},
	{"user without account", []string{"users: [operator, developer]", "users: [operator, developr]"}},
	{"user twice", []string{"users: [operator, developer]", "users: [operator, operator]"}},
	{"no user", []string{"users: [operator, developer]", "users: []"}},
	{"user without key", []string{`ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOSdCr9KPhnIv7pCdzoSyGflHW2bMORsoA9kYj66mdOd developer@example"]`, "ssh_keys: []"}},
	{"broken key", []string{"AAAAC3NzaC1lZDI1NTE5AAAAIOSdCr9", "AAAAC3NzaC1lZDI1NTE5AAAAIOSdC"}},
	{"key with options", []string{`["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOSd`, `["no-pty ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOSd`}},
	{"key of another", []string{"AAAAC3NzaC1lZDI1NTE5AAAAIOSdCr9KPhnIv7pCdzoSyGflHW2bMORsoA9kYj66mdOd", "AAAAC3NzaC1lZDI1NTE5AAAAIO9QDrqAzMuTQRjqNMTgL/tfdiWp0SM7NcpVt6tSUKIU"}},
	{"no sudo", []string{"sudo: true", "sudo: false", "sudo: true", "sudo: false"}},
	{"sudo maybe", []string{"sudo: true", "sudo: yes"}},
	{"root as a person", []string{"  developer: {", "  root: {"}},
	{"login name", []string{"  developer: {", "  Developer: {"}},
	{"gecos", []string{"name: Developer,", `name: "Dev:eloper",`}},
	{"vpn address outside", []string{"  address: 10.0.20.1", "  address: 192.168.8.99"}},
	{"dns node unknown", []string{"primary: srv-dhcp-dns", "primary: srv-dns"}},
	{"forwarder inside", []string{"[1.1.1.1, 9.9.9.9]", "[10.0.10.99]"}},
	{"alias to nobody", []string{"grafana: srv-dhcp-dns", "grafana: srv-web"}},
	{"alias of a node", []string{"    grafana: srv-dhcp-dns", "    srv-prod: srv-dhcp-dns"}},
	{"stack on the relay", []string{"{node: srv-dhcp-dns,    compose", "{node: client-relay,    compose"}},
	{"stack above the folder", []string{"stacks/services.yml", "../services.yml"}},
	{"proxy driver", []string{"driver: npm ", "driver: nginx "}},
	{"proxy target", []string{`{to: "srv-supervision:3000"`, `{to: "srv-supervison:3000"`}}, //nolint:misspell // the slip is the test
	{"proxy target without port", []string{`{to: "srv-supervision:3000"`, `{to: "srv-supervision"`}},
	{"proxy allows nobody", []string{"portainer.projetpro.lab:  {to: \"srv-dhcp-dns:9443\", scheme: https, allow: [vpn]}", "portainer.projetpro.lab:  {to: \"srv-dhcp-dns:9443\", scheme: https, allow: [vnp]}"}},
	{"receiver unknown", []string{"receiver: email,", "receiver: mail,"}},
	{"instances on supervision", []string{"prod: [srv-prod]", "prod: [srv-supervision]"}},
	{"instances on a node twice", []string{"prod: [srv-prod]", "prod: [srv-prod, srv-prod]"}},
	{"pool of instances overlaps a network", []string{"prod: [srv-prod]", "pool: 10.0.0.0/16\n  prod: [srv-prod]"}},
	{"pool of instances too small", []string{"prod: [srv-prod]", "pool: 10.210.0.0/27\n  prod: [srv-prod]"}},
	{"pool of instances of IPv6", []string{"prod: [srv-prod]", "pool: \"fd00::/64\"\n  prod: [srv-prod]"}},
	{"pool of instances holds a host", []string{"prod: [srv-prod]", "pool: 10.0.30.0/24\n  prod: [srv-prod]", "smtp:   {address: 10.0.10.31}", "smtp:   {address: 10.0.30.31}"}},
	{"pool of instances overlaps by default", []string{"networks:\n", "networks:\n  extra: {cidr: 10.210.5.0/24}\n"}},
	{"defaults of instances", []string{"defaults: {version: 19.0.4, timezone: Europe/Paris, memory: 512M}",
		"defaults: {version: 19, timezone: Europe/Lutece, memory: 1M, cpus: many, pids: 3, disk: 1M, language: de}"}},
	{"images of instances", []string{"prod: [srv-prod]", "images: {app: \"dolibarr/dolibarr:latest\", db: mariadb, front: \"a b:1\"}\n  prod: [srv-prod]"}},
	{"backup schedule", []string{"daily at 02:00", "every night"}},
	{"backup to nobody", []string{"backup@backup:/backups", "backup@bakup:/backups"}},
	{"backup place", []string{"s3.example.net/projetpro", "s3.example.net"}},
	{"patch window", []string{"Sun 02:00-05:00", "Sunday night"}},
	{"patch node twice", []string{"- {nodes: [srv-prod]}", "- {nodes: [srv-pre-prod]}"}},
	{"logs kept too short", []string{"keep: 365d", "keep: 1h"}},
	{"rollout", []string{"logs: {keep: 365d}", "rollout: {max_unavailable: 0, window: 1h}\nlogs: {keep: 365d}"}},
	{"soak and budgets", []string{"logs: {keep: 365d}", "rollout: {soak: 8d, halt_after: 0, budgets: {pro: 1, prod: 0}}\nlogs: {keep: 365d}"}},
	{"many faults at once", []string{"10.0.10.0/24", "10.0.10.0/33", "role: preprod", "role: pre", "port: 202", "port: x", "to: smtp", "to: smpt", "daily at 02:00", "daily"}},
}

func TestBadFilesAreRefused(t *testing.T) {
	base := string(read(t, "site.yaml"))
	var b strings.Builder
	for _, tt := range badEdits {
		content := base
		for i := 0; i < len(tt.edits); i += 2 {
			if tt.edits[i] == "*" {
				content = tt.edits[i+1]
				continue
			}
			if !strings.Contains(content, tt.edits[i]) {
				t.Fatalf("%s: the example has no %q", tt.name, tt.edits[i])
			}
			content = strings.Replace(content, tt.edits[i], tt.edits[i+1], 1)
		}
		s, findings := Load(Source{File: "site.yaml", WithoutFiles: true, Content: []byte(content)})
		if s != nil {
			t.Errorf("%s: accepted", tt.name)
		}
		fmt.Fprintf(&b, "## %s\n%s\n", tt.name, format(errorsOnly(findings)))
	}
	golden(t, "bad.golden", b.String())
}

func TestBadOverlaysAreRefused(t *testing.T) {
	overlays := []struct{ name, content string }{
		{"yaml error", "probes: {"},
		{"unknown key", "colour: red\n"},
		{"key of the site", "ssh: {port: 22}\n"},
		{"key of a node", "nodes: {vrouter: {role: prod}}\n"},
		{"key of a flow", "flows: []\n"},
		{"unknown node", "nodes: {router: {platform: linux}}\n"},
		{"platform of a server", "nodes: {srv-prod: {platform: linux}}\n"},
		{"interface that is there", "nodes: {vrouter: {interfaces: {eth0: {network: wan, address: 192.168.8.31}}}}\n"},
		{"interface with a bad address", "nodes: {vrouter: {interfaces: {eth2: {network: vpn, address: 10.0.30.1}}}}\n"},
		{"unknown host", "hosts: {bakup: {address: 203.0.113.4}}\n"},
		{"address of a node", "hosts: {backup: {address: 10.0.10.4}}\n"},
		{"unknown account", "accounts: {admin: {ssh_keys: []}}\n"},
		{"broken key", "accounts: {operator: {ssh_keys: [ssh-ed25519 xxx]}}\n"},
		{"key of another", "accounts: {developer: {ssh_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO9QDrqAzMuTQRjqNMTgL/tfdiWp0SM7NcpVt6tSUKIU]}}\n"},
		{"probe inside called outside", "probes: {p: {network: outside, address: 10.0.20.10}}\n"},
		{"probe in no network", "probes: {p: {network: dmz, address: 10.0.20.10}}\n"},
		{"probe with a node's address", "probes: {p: {network: lan, address: 10.0.10.20}}\n"},
		{"probe named like a node", "probes: {srv-prod: {network: vpn, address: 10.0.20.10}}\n"},
		{"window too short", "rollout: {window: 1s}\n"},
		{"more nodes at once", "rollout: {max_unavailable: 9}\n"},
		{"unknown copy", "backup: {copies: {third: {to: 203.0.113.6/x}}}\n"},
		{"bad copy", "backup: {copies: {second: {to: 203.0.113.6/x}}}\n"},
		{"plain http", "proxy: {tls: {directory: \"http://203.0.113.7/dir\"}}\n"},
		{"forwarder on loopback", "dns: {forwarders: [127.0.0.53]}\n"},
	}
	var b strings.Builder
	for _, tt := range overlays {
		src := example(t, false)
		src.OverlayFile, src.OverlayContent = "lab.yaml", []byte(tt.content)
		s, findings := Load(src)
		if s != nil {
			t.Errorf("%s: accepted", tt.name)
		}
		fmt.Fprintf(&b, "## %s\n%s\n", tt.name, format(errorsOnly(findings)))
	}
	golden(t, "bad_overlay.golden", b.String())
}

func TestErrorsAreLimited(t *testing.T) {
	content := string(read(t, "site.yaml")) + "hosts2: 1\n"
	for i := range 200 {
		content += fmt.Sprintf("bad%d: 1\n", i)
	}
	_, findings := Load(Source{File: "site.yaml", WithoutFiles: true, Content: []byte(content)})
	list := errorsOnly(findings)
	if len(list) != maxErrors+1 || list[maxErrors].Message != "and 151 more errors" {
		t.Errorf("got %d errors, the last one %q", len(list), list[len(list)-1].Message)
	}
}
