package vyos

import (
	"os"
	"strings"
	"testing"
)

const (
	someKey  = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	commonOK = `
set system host-name 'vRouter'
set system domain-name 'projetpro.lab'
set system time-zone 'Europe/Paris'
set interfaces ethernet eth0 description 'WAN'
set interfaces ethernet eth0 address '192.168.8.30/24'
set interfaces ethernet eth0 hw-id '00:0c:29:4d:ef:e0'
set interfaces ethernet eth1 description 'LAN'
set interfaces ethernet eth1 address '10.0.10.1/24'
set interfaces ethernet eth1 hw-id '00:0c:29:4d:ef:ea'
set nat source rule 100 description 'NAT-LAN-TO-WAN'
set nat source rule 100 source address '10.0.10.0/24'
set nat source rule 100 translation address 'masquerade'
set nat destination rule 80 protocol 'tcp'
set nat destination rule 80 destination port '80'
set nat destination rule 80 translation address '10.0.10.10'
set nat destination rule 443 protocol 'tcp'
set nat destination rule 443 destination port '443'
set nat destination rule 443 translation address '10.0.10.10'
set protocols static route 0.0.0.0/0 next-hop 192.168.8.1
set system config-management commit-revisions '100'
set system login user vyos authentication public-keys ops type 'ssh-ed25519'
set system login user vyos authentication public-keys ops key 'AAAAC3NzaC1lZDI1NTE5AAAAIO9QDrqAzMuTQRjqNMTgL/tfdiWp0SM7NcpVt6tSUKIU'
set service ssh port '22'
set service ssh listen-address '10.0.10.1'
set service ssh listen-address '10.0.20.1'
set service ssh disable-password-authentication
set interfaces wireguard wg0 address '10.0.20.1/24'
set interfaces wireguard wg0 port '51820'
set interfaces wireguard wg0 peer nbidel-01 allowed-ips '10.0.20.2/32'
`
	rules13 = `
set firewall name OUTSIDE-IN default-action 'drop'
set firewall name OUTSIDE-IN rule 10 action 'accept'
set firewall name OUTSIDE-IN rule 10 state established 'enable'
set firewall name OUTSIDE-IN rule 10 state related 'enable'
set firewall name OUTSIDE-IN rule 20 action 'accept'
set firewall name OUTSIDE-IN rule 20 protocol 'tcp'
set firewall name OUTSIDE-IN rule 20 destination port '80'
set firewall name OUTSIDE-IN rule 20 state new 'enable'
set firewall name OUTSIDE-LOCAL default-action 'drop'
set firewall name OUTSIDE-LOCAL rule 20 action 'accept'
set firewall name OUTSIDE-LOCAL rule 20 protocol 'icmp'
set firewall name OUTSIDE-LOCAL rule 20 icmp type-name 'echo-request'
set firewall name OUTSIDE-LOCAL rule 50 action 'accept'
set firewall name OUTSIDE-LOCAL rule 50 protocol 'udp'
set firewall name OUTSIDE-LOCAL rule 50 destination port '51820'
`
	switches = `
set firewall all-ping 'enable'
set firewall broadcast-ping 'disable'
set firewall receive-redirects 'disable'
set firewall send-redirects 'disable'
set firewall source-validation 'loose'
set firewall syn-cookies 'enable'
set firewall twa-hazards-protection 'enable'
`
	only13 = switches + rules13 + `
set nat source rule 100 outbound-interface 'eth0'
set nat destination rule 80 inbound-interface 'eth0'
set nat destination rule 443 inbound-interface 'eth0'
set system syslog global facility all level 'info'
set system ntp server '0.pool.ntp.org'
set interfaces ethernet eth0 firewall in name 'OUTSIDE-IN'
set interfaces ethernet eth0 firewall local name 'OUTSIDE-LOCAL'
set interfaces wireguard wg0 private-key 'default'
set interfaces wireguard wg0 peer nbidel-01 pubkey '` + someKey + `'
`
	later = `
set nat source rule 100 outbound-interface name 'eth0'
set nat destination rule 80 inbound-interface name 'eth0'
set nat destination rule 443 inbound-interface name 'eth0'
set service ntp server '0.pool.ntp.org'
set service ntp allow-client address '10.0.10.0/24'
set firewall ipv4 forward filter rule 10 action 'jump'
set firewall ipv4 forward filter rule 10 jump-target 'OUTSIDE-IN'
set firewall ipv4 forward filter rule 10 inbound-interface name 'eth0'
set firewall ipv4 input filter rule 10 action 'jump'
set firewall ipv4 input filter rule 10 jump-target 'OUTSIDE-LOCAL'
set firewall ipv4 input filter rule 10 inbound-interface name 'eth0'
set interfaces wireguard wg0 private-key '` + someKey + `'
set interfaces wireguard wg0 peer nbidel-01 public-key '` + someKey + `'
`
)

// corrected is what the original configuration should have been, for a release.
func corrected(v Version) string {
	if v == V13 {
		return commonOK + only13
	}
	r := strings.NewReplacer("firewall name", "firewall ipv4 name", " established 'enable'", " 'established'", " related 'enable'", " 'related'",
		" new 'enable'", " 'new'")
	text := commonOK + strings.ReplaceAll(switches, "set firewall", "set firewall global-options") + r.Replace(rules13) + later
	if v == V14 {
		return text + "set system syslog global facility all level 'info'\n"
	}
	return text + "set system syslog local facility all level 'info'\n"
}

func parseAll(t testing.TB, text string) []Line {
	t.Helper()
	var lines []Line
	for s := range strings.Lines(text) {
		l, err := ParseLine(strings.TrimSpace(s))
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if l != nil {
			lines = append(lines, l)
		}
	}
	return lines
}

func TestCorrectedLinesPass(t *testing.T) {
	for _, v := range Versions() {
		lines := parseAll(t, corrected(v))
		if len(lines) < 60 {
			t.Fatalf("%d lines only", len(lines))
		}
		for _, fault := range NewChecker(v).Config(lines) {
			t.Errorf("%s: %v", v, fault)
		}
	}
}

// freeWords are words whose letters nothing checks, so that one less is no fault of the line: names, texts, and numbers and
// addresses that are others when a digit is gone.
func freeWord(l Line, at int) bool {
	if at > 0 && l[at-1] == "rule" || l[len(l)-1] == l[at] && strings.Trim(l[at], "0123456789./:") == "" {
		return true
	}
	switch l[max(at-1, 0)] {
	case "description", "host-name", "domain-name", "server", "user", "public-keys", "peer", "name", "ipv6-name", "jump-target", "private-key",
		"outbound-interface", "inbound-interface", "ethernet", "wireguard", "address", "port", "key", "route", "next-hop":
		return true
	}
	return false
}

func TestALetterLessIsSeen(t *testing.T) {
	for _, v := range Versions() {
		c := NewChecker(v)
		tried := 0
		for _, l := range parseAll(t, corrected(v)) {
			for at, w := range l {
				if freeWord(l, at) {
					continue
				}
				for i := range w {
					bad := append(Line{}, l...)
					bad[at] = w[:i] + w[i+1:]
					tried++
					if err := c.Line(bad); err == nil {
						t.Errorf("%s takes %q for %q", v, bad, l)
					}
				}
			}
		}
		if tried < 1000 {
			t.Errorf("%s: only %d slips were tried", v, tried)
		}
	}
}

// originalLines are the set lines of the original configuration. A password on a line of its own belongs to no command.
func originalLines(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, name := range []string{"annex3.txt", "annex4.txt"} {
		content, err := os.ReadFile("testdata/original/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for s := range strings.Lines(string(content)) {
			if s = strings.TrimSpace(s); strings.HasPrefix(s, "set ") {
				out = append(out, s)
			}
		}
	}
	return out
}

func accepted(v Version, text string) bool {
	l, err := ParseLine(text)
	return err == nil && NewChecker(v).Line(l) == nil
}

func TestOriginalLinesFailAsKnown(t *testing.T) {
	fails13 := []string{
		"set protocols static route 10.0.10.0/24 description 'LAN'", "set system login user vyos level 'admin'",
		"set system login user vyos authentication encrypted-password", "set firewall name OUTSIDE-LOCAL rule 30 protocol 'tcp",
		"set firewall name OUTSIDE-LOCAL rule 31 protocol 'tcp", "set interfaces wireguard wg0 peer nbidel_ID_01 pubkey 'Public key'",
	}
	lines := originalLines(t)
	if len(lines) != 75 {
		t.Errorf("%d lines, want 75", len(lines))
	}
	var failed []string
	for _, l := range lines {
		if !accepted(V13, l) {
			failed = append(failed, l)
		}
	}
	if strings.Join(failed, "\n") != strings.Join(fails13, "\n") {
		t.Errorf("1.3 refuses\n%s\nwant\n%s", strings.Join(failed, "\n"), strings.Join(fails13, "\n"))
	}
	// 1.5 moved syslog from global to local in January 2025; before that it took 20 as well.
	for v, want := range map[Version]int{V14: 20, V15: 19} {
		got := 0
		for _, l := range lines {
			if accepted(v, l) {
				got++
			}
		}
		if got != want {
			t.Errorf("%s takes %d lines, want %d", v, got, want)
		}
	}
	for line, want := range map[string][3]bool{
		"set nat source rule 100 outbound-interface 'eth0'":                         {true, false, false},
		"set protocols static route 10.0.10.0/24 description 'LAN'":                 {false, true, true},
		"set system login user vyos level 'admin'":                                  {false, false, false},
		"set system syslog global facility all level 'info'":                        {true, true, false},
		"set system syslog global facility protocols level 'debug'":                 {true, false, false},
		"set system ntp server '0.pool.ntp.org'":                                    {true, false, false},
		"set firewall all-ping 'enable'":                                            {true, false, false},
		"set firewall name OUTSIDE-IN default-action 'drop'":                        {true, false, false},
		"set firewall name OUTSIDE-IN rule 10 state established 'enable'":           {true, false, false},
		"set firewall name OUTSIDE-LOCAL rule 30 recent time '60'":                  {true, false, false},
		"set firewall ipv4 name OUTSIDE-LOCAL rule 30 recent time 'minute'":         {false, true, true},
		"set interfaces ethernet eth0 firewall in name 'OUTSIDE-IN'":                {true, false, false},
		"set interfaces wireguard wg0 port 51820":                                   {true, true, true},
		"set interfaces wireguard wg0 peer nbidel_ID_01 allowed-ips '10.0.10.3/32'": {true, true, true},
	} {
		for i, v := range Versions() {
			if got := accepted(v, line); got != want[i] {
				t.Errorf("%s takes %q: %t, want %t", v, line, got, want[i])
			}
		}
	}
}
