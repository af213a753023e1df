package sshd

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider/providertest"
)

// fakeMachine does to a folder what systemd and sshd do to a machine: sshd -T by sshd's own rules, links for enabled units,
// /proc/net/tcp for sockets.
type fakeMachine struct {
	root string
	mu   sync.Mutex
	// socket and service are the units' states.
	socket, service bool
	// running is what sshd read when it last read its files.
	running string
	// units is what systemd read of ssh.service's drop-in.
	units string
	// boot is what is-system-running answers.
	boot string
}

func (m *fakeMachine) Run(_ context.Context, cmd host.Cmd) (host.Output, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	argv := cmd.Argv
	switch argv[0] {
	case "/usr/sbin/sshd":
		file, user := mainFile, ""
		for i, arg := range argv {
			switch arg {
			case "-f":
				file = argv[i+1]
			case "-C":
				user = strings.TrimPrefix(strings.Split(argv[i+1], ",")[0], "user=")
			}
		}
		if file == "/dev/stdin" {
			file = "/proc/stdin"
			if err := os.WriteFile(m.root+file, cmd.Stdin, 0o644); err != nil {
				return host.Output{}, err
			}
			defer os.Remove(m.root + file)
		}
		out, err := m.evaluate(file, user)
		return host.Output{Stdout: []byte(out)}, err
	case "ssh":
		all := append(wantedAlgorithms()[map[string]string{"KexAlgorithms": "KexAlgorithms", "Ciphers": "Ciphers", "MACs": "MACs",
			"HostKeyAlgorithms": "HostKeyAlgorithms"}[argv[2]]][1:], "old-one")
		return host.Output{Stdout: []byte(strings.Join(all, "\n"))}, nil
	case "sysctl":
		key, value, _ := strings.Cut(argv[3], "=")
		return host.Output{}, os.WriteFile(m.root+sysctlPath(key), []byte(value+"\n"), 0o644)
	case "systemctl":
		out, err := m.systemctl(slices.DeleteFunc(slices.Clone(argv[1:]), func(a string) bool { return a == "--no-block" }))
		return host.Output{Stdout: []byte(out)}, err
	}
	return host.Output{Code: 127}, fmt.Errorf("no such program: %s", argv[0])
}

func (m *fakeMachine) systemctl(args []string) (string, error) {
	unit := args[len(args)-1]
	is := map[bool]string{true: "active", false: "inactive"}
	switch args[0] {
	case "is-system-running":
		return m.boot, nil
	case "is-active":
		return is[map[string]bool{service: m.service, socketU: m.socket}[unit]], nil
	case "daemon-reload":
		data, _ := os.ReadFile(m.root + unitDropIn)
		m.units = string(data)
	case "show":
		return "ActiveState=" + is[m.socket] + "\nListen=[::]:22 (Stream)\nBindIPv6Only=default\n", nil
	case "stop":
		if unit == socketU {
			m.socket = false
		} else {
			m.service, m.running = false, ""
		}
	case "start", "restart", "reload":
		if unit == socketU {
			m.socket = true
			break
		}
		if args[0] == "reload" && !m.service {
			return "", errors.New("ssh.service is not active")
		}
		running, err := m.evaluate(mainFile, "")
		if err != nil {
			m.service = args[0] == "reload"
			return "", err
		}
		m.service, m.running = true, running
	}
	return "", m.writeSockets()
}

func (m *fakeMachine) state() (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprintf("socket %v service %v\n%s\n%s", m.socket, m.service, m.units, m.running), nil
}

// writeSockets makes /proc/net/tcp and tcp6.
func (m *fakeMachine) writeSockets() error {
	text := map[bool]string{true: "  sl  local_address\n", false: "  sl  local_address\n"}
	add := func(l listener) {
		raw := l.Addr().AsSlice()
		for i := 0; i < len(raw); i += 4 {
			slices.Reverse(raw[i : i+4])
		}
		text[l.Addr().Is6()] += fmt.Sprintf("   0: %s:%04X 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n",
			strings.ToUpper(hex.EncodeToString(raw)), l.Port())
	}
	if m.socket {
		add(netip.MustParseAddrPort("[::]:22"))
	} else if m.service {
		list, err := parseListeners(parseEffective([]byte(m.running))["listenaddress"])
		if err != nil {
			return err
		}
		for _, l := range list {
			add(l)
		}
	}
	return errors.Join(os.WriteFile(m.root+"/proc/net/tcp", []byte(text[false]), 0o644),
		os.WriteFile(m.root+"/proc/net/tcp6", []byte(text[true]), 0o644))
}

// defaults are what sshd does when nobody says anything.
func defaults() map[string][]string {
	return map[string][]string{
		"addressfamily": {"any"}, "pubkeyauthentication": {"yes"}, "authorizedkeysfile": {".ssh/authorized_keys .ssh/authorized_keys2"},
		"authenticationmethods": {"any"}, "permitrootlogin": {"without-password"}, "passwordauthentication": {"yes"},
		"kbdinteractiveauthentication": {"yes"}, "hostbasedauthentication": {"no"}, "permitemptypasswords": {"no"},
		"authorizedkeyscommand": {"none"}, "trustedusercakeys": {"none"}, "authorizedprincipalsfile": {"none"},
		"authorizedprincipalscommand": {"none"}, "usepam": {"no"}, "maxauthtries": {"6"},
		"maxsessions": {"10"}, "logingracetime": {"120"}, "maxstartups": {"10:30:100"}, "clientaliveinterval": {"0"},
		"clientalivecountmax": {"3"}, "allowtcpforwarding": {"yes"}, "allowagentforwarding": {"yes"},
		"allowstreamlocalforwarding": {"yes"}, "gatewayports": {"no"}, "permittunnel": {"no"}, "permituserenvironment": {"no"},
		"x11forwarding": {"no"}, "kexalgorithms": {"old-one"}, "ciphers": {"old-one"}, "macs": {"old-one"},
		"hostkeyalgorithms": {"ssh-ed25519,old-one"}, "requiredrsasize": {"1024"}, "loglevel": {"INFO"},
		"hostkey": {"/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_ecdsa_key", "/etc/ssh/ssh_host_ed25519_key"},
	}
}

// evaluate follows sshd_config(5): the first value wins, some keywords add up, Match blocks override.
func (m *fakeMachine) evaluate(file, user string) (string, error) {
	values, matched := map[string][]string{}, map[string][]string{}
	if err := m.read(file, user, values, matched); err != nil {
		return "", err
	}
	result := defaults()
	maps.Copy(result, values)
	maps.Copy(result, matched)
	if result["port"] == nil {
		result["port"] = []string{"22"}
	}
	addresses := result["listenaddress"]
	if addresses == nil {
		addresses = []string{"[::]", "0.0.0.0"}
	}
	result["listenaddress"] = nil
	for _, a := range addresses {
		if _, err := netip.ParseAddrPort(a); err == nil {
			result["listenaddress"] = append(result["listenaddress"], a)
			continue
		}
		for _, port := range result["port"] {
			result["listenaddress"] = append(result["listenaddress"], a+":"+port)
		}
	}
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(result)) {
		for _, v := range result[key] {
			fmt.Fprintf(&b, "%s %s\n", key, v)
		}
	}
	return b.String(), nil
}

func (m *fakeMachine) read(file, user string, values, matched map[string][]string) error {
	data, err := os.ReadFile(m.root + file)
	if err != nil {
		return err
	}
	into := values
	for line := range strings.Lines(string(data)) {
		key, rest := keyword(line)
		rest = strings.TrimSpace(rest)
		switch {
		case key == "":
		case key == "broken":
			return errors.New("exit code 255: Bad configuration option: broken")
		case key == "match":
			into = map[string][]string{}
			if rest == "User "+user {
				into = matched
			}
		case key == "include":
			files, _ := filepath.Glob(m.root + strings.Trim(rest, `"`))
			for _, f := range files {
				if err := m.read(strings.TrimPrefix(f, m.root), user, values, matched); err != nil {
					return err
				}
			}
		case addsUp(key):
			into[key] = append(into[key], rest)
		case into[key] == nil:
			into[key] = []string{rest}
		}
	}
	return nil
}

const (
	ed25519Public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO9QDrqAzMuTQRjqNMTgL/tfdiWp0SM7NcpVt6tSUKIU root@host\n"
	distribution  = "# This is the sshd server system-wide configuration file.\n" + includeLine + "\nUsePAM yes\nX11Forwarding yes\n"
)

// folder is in memory: thousands of small writes to disk, each of them synced, would take minutes.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "infractl-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// newMachine makes a server as it comes: sshd on all addresses and port 22, cloud-init's file allowing passwords.
func newMachine(t *testing.T, socket bool, mainText string) *fakeMachine {
	t.Helper()
	m := &fakeMachine{root: folder(t), socket: socket, service: !socket, boot: "running"}
	files := map[string]string{
		mainFile: mainText, "/etc/ssh/sshd_config.d/50-cloud-init.conf": "PasswordAuthentication yes\n",
		"/etc/ssh/ssh_host_ed25519_key": "private", "/etc/ssh/ssh_host_ed25519_key.pub": ed25519Public,
		"/etc/ssh/ssh_host_ecdsa_key": "private", "/usr/sbin/sshd": "", "/usr/bin/ssh": "", "/run/sshd/x": "",
		"/proc/sys/net/ipv4/ip_nonlocal_bind": "0\n", "/proc/sys/net/ipv6/ip_nonlocal_bind": "0\n", "/proc/net/if_inet6": "lo\n",
		"/etc/group":  "root:x:0:\nadmins:x:900:carol,dave\n",
		"/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nerin:x:1001:900::/home/erin:/bin/bash\n",
	}
	for name, text := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(m.root+name), 0o755), os.WriteFile(m.root+name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	links := serviceLinks()
	if socket {
		links = socketLinks()[:2]
	}
	for _, link := range links {
		if err := errors.Join(os.MkdirAll(filepath.Dir(m.root+link), 0o755), os.Symlink("/lib/systemd/system/ssh.service", m.root+link)); err != nil {
			t.Fatal(err)
		}
	}
	if !socket {
		var err error
		if m.running, err = m.evaluate(mainFile, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.writeSockets(); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *fakeMachine) provider(faults *providertest.Faults) *Provider {
	h := host.New(host.Config{Root: m.root, Runner: faults.Runner(m), Fault: faults.Op})
	local := func() ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("10.0.10.4"), netip.MustParseAddr("192.168.8.30")}, nil
	}
	return New(Config{Host: h, Dialer: greeter{}, LocalAddresses: local, Wait: 60 * time.Millisecond})
}

// greeter answers every connection as sshd does.
type greeter struct{}

func (greeter) DialContext(context.Context, string, string) (net.Conn, error) {
	mine, theirs := net.Pipe()
	go func() {
		_, _ = theirs.Write([]byte("SSH-2.0-OpenSSH_9.2p1\r\n"))
		_ = theirs.Close()
	}()
	return mine, nil
}
