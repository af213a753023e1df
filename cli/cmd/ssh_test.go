package cmd

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBuildSSH(t *testing.T) {
	addr := netip.MustParseAddrPort
	options := func(known string) []string {
		return []string{"-F", "none", "-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes",
			"-o", "UpdateHostKeys=no", "-o", "ConnectTimeout=10", "-l", "operator"}
	}
	join := func(parts ...[]string) []string {
		all := []string{"ssh"}
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	tests := map[string]struct {
		places  []netip.AddrPort
		known   string
		command []string
		o       sshOptions
		pass    *sshPass
		want    []string
	}{
		"RelayDirectly": {
			places: []netip.AddrPort{addr("10.0.10.4:202")}, known: "/c/known", o: sshOptions{user: "operator"},
			want: join(options(`"/c/known"`), []string{"-p", "202", "10.0.10.4"}),
		},
		"ThroughTheRelay": {
			places: []netip.AddrPort{addr("10.0.10.4:202"), addr("10.0.10.20:22")}, known: "/c/known", o: sshOptions{user: "operator"},
			want: join(options(`"/c/known"`), []string{"-o", `ProxyCommand='ssh' '-F' 'none' '-o' 'UserKnownHostsFile="/c/known"' ` +
				`'-o' 'GlobalKnownHostsFile=none' '-o' 'StrictHostKeyChecking=yes' '-o' 'UpdateHostKeys=no' '-o' 'ConnectTimeout=10' '-l' 'operator' ` +
				`'-p' '202' '-W' '10.0.10.20:22' '10.0.10.4'`, "-p", "22", "10.0.10.20"}),
		},
		"IPv6CommandAndKey": {
			places: []netip.AddrPort{addr("[fd00::4]:202")}, known: "/c/known", command: []string{"uptime", "-p"},
			o:    sshOptions{user: "operator", identity: "/k"},
			want: join(options(`"/c/known"`), []string{"-o", `IdentityFile="/k"`, "-o", "IdentitiesOnly=yes", "-p", "202", "fd00::4", "--", "uptime", "-p"}),
		},
		"CertificatesOfTheirOwn": {
			places: []netip.AddrPort{addr("10.0.10.4:202"), addr("10.0.10.20:22")}, known: "/c/known",
			o:    sshOptions{user: "operator", identity: "/my/own"},
			pass: &sshPass{key: "/t/key", certificates: []string{"/t/relay", "/t/node"}},
			want: join(options(`"/c/known"`), []string{"-o", `IdentityFile="/t/key"`, "-o", `CertificateFile="/t/node"`, "-o", "IdentitiesOnly=yes",
				"-o", "IdentityAgent=none", "-o", `ProxyCommand='ssh' '-F' 'none' '-o' 'UserKnownHostsFile="/c/known"' ` +
					`'-o' 'GlobalKnownHostsFile=none' '-o' 'StrictHostKeyChecking=yes' '-o' 'UpdateHostKeys=no' '-o' 'ConnectTimeout=10' '-l' 'operator' ` +
					`'-o' 'IdentityFile="/t/key"' '-o' 'CertificateFile="/t/relay"' '-o' 'IdentitiesOnly=yes' '-o' 'IdentityAgent=none' ` +
					`'-p' '202' '-W' '10.0.10.20:22' '10.0.10.4'`, "-p", "22", "10.0.10.20"}),
		},
		"HardPath": {
			places: []netip.AddrPort{addr("10.0.10.4:202")}, known: "/my conf/100%/it's", o: sshOptions{user: "operator"},
			want: join(options(`"/my conf/100%%/it's"`), []string{"-p", "202", "10.0.10.4"}),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, buildSSH(tt.places, tt.known, tt.command, tt.o, tt.pass)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestQuoteAll(t *testing.T) {
	got := quoteAll([]string{"ssh", "it's", "100%", "a b", "$HOME"})
	if want := `'ssh' 'it'\''s' '100%%' 'a b' '$HOME'`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAccountName(t *testing.T) {
	users := []string{"operator", "anna"}
	for name, tt := range map[string]struct {
		wanted, operator, local string
		users                   []string
		want                    string
	}{
		"Named":           {"root", "", "anna", users, "root"},
		"OwnNameFirst":    {"", "anna", "operator", users, "anna"},
		"LocalIfAllowed":  {"", "carla", "anna", users, "anna"},
		"FirstOtherwise":  {"", "carla", "bob", users, "operator"},
		"LocalWithoutAny": {"", "carla", "bob", nil, "bob"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := accountName(tt.wanted, tt.operator, tt.local, tt.users); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestKnownHosts(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO9QDrqAzMuTQRjqNMTgL/tfdiWp0SM7NcpVt6tSUKIU"
	for name, tt := range map[string]struct{ place, want string }{
		"StandardPort": {"10.0.10.4:22", "10.0.10.4 " + key + "\n"},
		"OtherPort":    {"10.0.10.4:202", "[10.0.10.4]:202 " + key + "\n"},
		"IPv6":         {"[fd00::4]:202", "[fd00::4]:202 " + key + "\n"},
		"IPv6Standard": {"[fd00::4]:22", "fd00::4 " + key + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := knownHosts(netip.MustParseAddrPort(tt.place), []string{key + " root@host"})
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
	t.Run("NothingButAKey", func(t *testing.T) {
		if got, err := knownHosts(netip.MustParseAddrPort("10.0.10.4:22"), []string{"* cert-authority"}); err == nil {
			t.Errorf("got %q", got)
		}
		got, err := knownHosts(netip.MustParseAddrPort("10.0.10.4:22"), []string{key + " x\n* " + key})
		if err != nil || strings.Count(got, "\n") != 1 || strings.Contains(got, "*") {
			t.Errorf("got %q, %v", got, err)
		}
	})
}
