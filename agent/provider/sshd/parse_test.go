package sshd

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
)

// The output of a real sshd (Debian 12, OpenSSH 9.2, no configuration of anybody) gives these files.
func TestRealServersAnswerGivesGolden(t *testing.T) {
	now := parseEffective([]byte(read(t, "testdata/sshd-T-9.2.txt")))
	before, err := parseListeners(now["listenaddress"])
	must(t, err)
	wanted, err := check(spec(202, "10.0.10.4", "fd00::4"))
	must(t, err)
	in := inputs{spec: spec(202, "10.0.10.4", "fd00::4"), now: now, listeners: wanted, known: wantedAlgorithms(),
		hostKeys: []string{"/etc/ssh/ssh_host_ed25519_key"}, oldKeys: now["hostkey"]}
	golden(t, "real-narrowed.conf", string(build(in).text()))
	in.widening, in.listeners, in.old = true, combine(wanted, before), without(combine(wanted, before), wanted)
	golden(t, "real-widened.conf", string(build(in).text()))
}

func TestSocketsAreReadAsTheKernelWritesThem(t *testing.T) {
	text := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 040A000A:00CA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 100 0 0 10 0
   2: 040A000A:00CA 0B0A000A:B2C4 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000000000000000 100 0 0 10 0
   3: 000000FD000000000000000004000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4714 1
   4: nonsense
`
	var got []string
	for _, s := range parseSockets(text) {
		got = append(got, s.String()+" "+s.inode)
	}
	want := []string{"127.0.0.1:22 4711", "10.0.10.4:202 4712", "[fd00::4]:22 4714"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestListenersOfASocketUnit(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"both families": {"ActiveState=active\nListen=[::]:22 (Stream)\nBindIPv6Only=default\n", "0.0.0.0:22 [::]:22"},
		"IPv6 only":     {"ActiveState=active\nBindIPv6Only=ipv6-only\nListen=[::]:22 (Stream)\n", "[::]:22"},
		"two of them":   {"ActiveState=active\nListen=0.0.0.0:2222 (Stream)\nListen=[::]:2222 (Stream)\n", "0.0.0.0:2222 [::]:2222"},
		"not active":    {"ActiveState=inactive\nListen=[::]:22 (Stream)\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := parseSocketUnit(c.text)
			must(t, err)
			var got []string
			for _, l := range list {
				got = append(got, l.String())
			}
			if d := cmp.Diff(c.want, strings.Join(got, " ")); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestMainFileGetsTheIncludeFirst(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"as shipped":    {"# note\nInclude /etc/ssh/sshd_config.d/*.conf\nPort 22\n", "# note\nInclude /etc/ssh/sshd_config.d/*.conf\n" + takenOver + "Port 22\n"},
		"no include":    {"UsePAM yes\n", includeNote + includeLine + "\nUsePAM yes\n"},
		"include last":  {"UsePAM yes\nInclude sshd_config.d/*.conf\n", includeNote + includeLine + "\nUsePAM yes\n" + takenOver + "Include sshd_config.d/*.conf\n"},
		"odd spellings": {"\tPORT=22\n listenaddress  ::\nAllowUsers\ta b\n", includeNote + includeLine + "\n" + takenOver + "\tPORT=22\n" + takenOver + " listenaddress  ::\n" + takenOver + "AllowUsers\ta b\n"},
		"match block":   {includeLine + "\nMatch User x\nAllowUsers x\n", includeLine + "\nMatch User x\nAllowUsers x\n"},
	} {
		t.Run(name, func(t *testing.T) {
			once := managed(c.text)
			if d := cmp.Diff(c.want, once); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if d := cmp.Diff(once, managed(once)); d != "" {
				t.Errorf("not stable (-once +twice):\n%s", d)
			}
		})
	}
}

func FuzzManagedFileIsStable(f *testing.F) {
	for _, seed := range []string{distribution, "Match all\nPort 2\n", "Include\n", "=\n", "port", "Include sshd_config.d/*.conf\nPort 1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		once := managed(text)
		if twice := managed(once); twice != once {
			t.Errorf("once  %q\ntwice %q", once, twice)
		}
	})
}

func TestFactsNameTheListenersOfSshdAlone(t *testing.T) {
	m := newMachine(t, false, distribution)
	applied(t, m.provider(&providertest.Faults{}), at(provider.Narrowing, spec(202, "10.0.10.4")))
	process := func(pid, name, parent, inode string) {
		dir := m.root + "/proc/" + pid
		must(t, os.MkdirAll(dir+"/fd", 0o755))
		write(t, dir+"/stat", pid+" ("+name+") S "+parent+" 1 1 0\n")
		must(t, os.Symlink("socket:["+inode+"]", filepath.Join(dir, "fd", "3")))
	}
	write(t, m.root+"/proc/net/tcp", read(t, m.root+"/proc/net/tcp")+
		"   1: 0100007F:177A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4800 1\n"+
		"   2: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4900 1\n")
	process("100", "sshd", "1", "4711")
	process("200", "sshd", "100", "4800") // a session with X11
	process("300", "caddy", "1", "4900")
	gotPorts, addresses, keys, err := m.provider(&providertest.Faults{}).Facts(context.Background())
	must(t, err)
	if !cmp.Equal(gotPorts, []uint32{202}) || !cmp.Equal(addresses, []string{"10.0.10.4"}) {
		t.Errorf("ports %v addresses %v", gotPorts, addresses)
	}
	if want := []string{strings.TrimSuffix(ed25519Public, " root@host\n")}; !cmp.Equal(keys, want) {
		t.Errorf("keys %v", keys)
	}
}

func TestCombineLeavesOutWhatTheKernelWouldRefuse(t *testing.T) {
	parse := func(list ...string) (result []listener) {
		for _, l := range list {
			result = append(result, netip.MustParseAddrPort(l))
		}
		return result
	}
	got := combine(parse("10.0.10.4:22", "10.0.10.4:202"), parse("0.0.0.0:22", "[::]:22", "[fd00::1]:202"))
	if d := cmp.Diff(parse("0.0.0.0:22", "10.0.10.4:202", "[::]:22", "[fd00::1]:202"), got, cmp.Comparer(func(a, b listener) bool { return a == b })); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
