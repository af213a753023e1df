package facts_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/infractl/infractl/agent/facts"
	"github.com/infractl/infractl/agent/host"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const release = `PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
ID=debian
# a comment=x
`

// Copied from a Debian 12 machine: sshd on 0.0.0.0:22 and [::]:22, another service on 127.0.0.1:25, one open connection.
const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1 0000000000000000 100 0 0 10 0
   1: 0100007F:0019 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1235 1 0000000000000000 100 0 0 10 0
   2: 0A0BA8C0:0016 0200A8C0:D2F0 01 00000000:00000000 02:000AF1A2 00000000     0        0 1236 2 0000000000000000 20 4 30 10 -1
   3: 0A0BA8C0:08AE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1238 1 0000000000000000 100 0 0 10 0
`
const tcp6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1237 1 0000000000000000 100 0 0 10 0
`
const (
	hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGG2T4mGgWz1tTzCq0Rf7cQ7m4V6Fm7r3rQ4cYyZzHhB"
)

func TestRead(t *testing.T) {
	root := t.TempDir()
	h := host.New(host.Config{Root: root})
	for path, text := range map[string]string{
		"/etc/os-release": release, "/proc/sys/kernel/osrelease": "6.1.0-18-amd64\n", "/proc/sys/kernel/hostname": "Web1.example.org\n",
		"/proc/net/tcp": tcp, "/proc/net/tcp6": tcp6, "/proc/77/comm": "sshd\n", "/proc/78/comm": "master\n",
		"/etc/ssh/ssh_host_ed25519_key.pub": hostKey + " root@web1\n", "/etc/ssh/ssh_host_ed25519_key": "-",
		"/etc/ssh/ssh_host_rsa_key.pub": "broken\n",
	} {
		if _, err := h.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"77/fd/3": "socket:[1234]", "77/fd/4": "socket:[1237]", "77/fd/5": "socket:[1238]",
		"77/fd/0": "/dev/null", "78/fd/3": "socket:[1235]"} {
		path := filepath.Join(root, "proc", link)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	address := func(text string) net.Addr {
		ip, network, err := net.ParseCIDR(text)
		if err != nil {
			t.Fatal(err)
		}
		network.IP = ip
		return network
	}
	got := facts.New(facts.Config{Host: h,
		Warnings: func(context.Context) []string { return []string{"ufw is active"} },
		Addresses: func() ([]net.Addr, error) {
			return []net.Addr{address("127.0.0.1/8"), address("192.168.11.10/24"), address("fe80::1/64"), address("2001:db8::10/64")}, nil
		}}).Read(t.Context())
	want := &v1.HostFacts{Hostname: "Web1.example.org", Os: "Debian GNU/Linux 12 (bookworm)", OsId: "debian", OsVersion: "12",
		Kernel: "6.1.0-18-amd64", Addresses: []string{"192.168.11.10/24", "2001:db8::10/64"}, SshHostKeys: []string{hostKey},
		SshPorts: []uint32{22, 2222}, SshAddresses: []string{"0.0.0.0", "192.168.11.10", "::"}, Warnings: []string{"ufw is active"}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if got := facts.Hostname(h); got != "web1" {
		t.Errorf("got node name %q, want web1", got)
	}
}

func TestDockerVersion(t *testing.T) {
	for name, tt := range map[string]struct {
		ask  func(context.Context) (string, error)
		want string
	}{
		"answers":       {func(context.Context) (string, error) { return "28.5.2", nil }, "28.5.2"},
		"is away":       {func(context.Context) (string, error) { return "", errors.New("connection refused") }, ""},
		"hangs":         {func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }, ""},
		"nobody to ask": {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			reader := facts.New(facts.Config{Host: host.New(host.Config{Root: t.TempDir()}), DockerVersion: tt.ask})
			if got := reader.Read(t.Context()).GetDockerVersion(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestRealHost(t *testing.T) {
	f := facts.New(facts.Config{Host: host.New(host.Config{})}).Read(t.Context())
	if f.GetKernel() == "" || f.GetHostname() == "" || f.GetOs() == "" {
		t.Errorf("got %v, want kernel, host name and system", f)
	}
	if facts.BootID(host.New(host.Config{})) == "" {
		t.Error("no boot id")
	}
}
