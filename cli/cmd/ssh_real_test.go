package cmd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// sshd is a real sshd with a key of its own, as a plain process on loopback.
type sshd struct {
	place   netip.AddrPort
	hostKey string
	log     *logText
}

// logText is what a server says, read while it writes.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

func newKey(t *testing.T, dir, name string) (file, public string) {
	t.Helper()
	file = filepath.Join(dir, name)
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", file)
	line, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(line))
}

// startSSHD starts a server with a file of keys, and more lines of configuration.
func startSSHD(t *testing.T, program, address, authorized string, more ...string) sshd {
	t.Helper()
	dir := t.TempDir()
	key, public := newKey(t, dir, "host")
	listener, err := net.Listen("tcp", address+":0")
	if err != nil {
		t.Fatal(err)
	}
	place := netip.MustParseAddrPort(listener.Addr().String())
	listener.Close()
	config := filepath.Join(dir, "sshd_config")
	content := fmt.Sprintf("Port %d\nListenAddress %s\nHostKey %s\nPidFile none\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\n"+
		"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n", place.Port(), address, key, authorized) +
		strings.Join(more, "\n") + "\n"
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	var log logText
	process := exec.Command(program, "-D", "-e", "-f", config)
	process.Stderr = &log
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
		if t.Failed() {
			t.Logf("sshd at %s:\n%s", place, log.String())
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", place.String())
		if err == nil {
			conn.Close()
			return sshd{place, public, &log}
		}
		if time.Now().After(deadline) {
			t.Fatalf("sshd does not listen: %v", err)
		}
	}
}

// sshdProgram returns the program of a real server, "" where none is installed.
func sshdProgram(t *testing.T) string {
	t.Helper()
	program := "/usr/sbin/sshd"
	if _, err := os.Stat(program); err != nil {
		t.Logf("openssh-server is not installed: TestBuildSSH looks at the command line alone")
		return ""
	}
	if os.Getuid() == 0 {
		// sshd as root wants its empty folder, which its package makes at boot only.
		if err := os.Mkdir("/run/sshd", 0o755); err == nil {
			t.Cleanup(func() { os.Remove("/run/sshd") })
		} else if !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
	}
	return program
}

// TestLoginThroughARealRelay logs in with the command line that infractl ssh builds: through a relay, with pinned host keys,
// and not at all when one of the two keys is another one.
func TestLoginThroughARealRelay(t *testing.T) {
	program := sshdProgram(t)
	if program == "" {
		return
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "my 100% own")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	identity, public := newKey(t, dir, "id")
	authorized := filepath.Join(t.TempDir(), "authorized_keys")
	if err := os.WriteFile(authorized, []byte(public+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	relay, node := startSSHD(t, program, "127.0.0.1", authorized), startSSHD(t, program, "127.0.0.2", authorized)

	login := func(relayKey, nodeKey string) (string, error) {
		known := filepath.Join(dir, "known hosts")
		var content string
		for _, s := range []sshd{{place: relay.place, hostKey: relayKey}, {place: node.place, hostKey: nodeKey}} {
			lines, err := knownHosts(s.place, []string{s.hostKey})
			if err != nil {
				t.Fatal(err)
			}
			content += lines
		}
		if err := os.WriteFile(known, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		argv := buildSSH([]netip.AddrPort{relay.place, node.place}, known, []string{"echo", "$SSH_CONNECTION"},
			sshOptions{user: me.Username, identity: identity}, nil)
		out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
		return string(out), err
	}

	t.Run("PinnedKeysLetIn", func(t *testing.T) {
		out, err := login(relay.hostKey, node.hostKey)
		if err != nil || !strings.Contains(out, "127.0.0.2 "+port(node.place)) {
			t.Errorf("got %q, %v", out, err)
		}
	})
	_, foreign := newKey(t, t.TempDir(), "foreign")
	t.Run("AnotherKeyOfTheNodeDoesNot", func(t *testing.T) {
		if out, err := login(relay.hostKey, foreign); err == nil || !strings.Contains(out, "Host key verification failed") {
			t.Errorf("got %q, %v", out, err)
		}
	})
	t.Run("AnotherKeyOfTheRelayDoesNot", func(t *testing.T) {
		if out, err := login(foreign, node.hostKey); err == nil || !strings.Contains(out, "Host key verification failed") {
			t.Errorf("got %q, %v", out, err)
		}
	})
}
