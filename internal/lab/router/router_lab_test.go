//go:build lab

package router

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/labtest"
	"github.com/infractl/infractl/internal/lab/laptop"
)

const outside = "192.168.8.30"

// answers tells each TCP connection the address that it comes from.
const answers = `import socketserver, sys, threading
class H(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(self.client_address[0].encode())
socketserver.ThreadingTCPServer.allow_reuse_address = True
ts = [threading.Thread(target=socketserver.ThreadingTCPServer(("0.0.0.0", int(p)), H).serve_forever) for p in sys.argv[1:]]
[t.start() for t in ts]
`

// asks prints what the other side says, or fails.
const asks = `import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3]))
print(s.recv(64).decode())
`

// remote is the machine that comes in through the tunnel; the tests go on with it.
var remote *laptop.Laptop

// TestRouter is the life of a router: each part stands on the one before it.
func TestRouter(t *testing.T) {
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"the site is applied", applied},
		{"published ports lead inside, and nothing else does", published},
		{"inside goes out under the router's address", masqueraded},
		{"the matrix holds from the internet's side too", flowsHold},
		{"a laptop's tunnel carries what the flows allow", tunnel},
		{"a reboot keeps all of it", rebooted},
		{"a peer that was removed is out at once", peerRemoved},
		{"a port that is published no more is closed", unpublished},
		{"all clocks follow the router, and the router the outside", clocks},
	} {
		if !t.Run(part.name, part.run) {
			t.Fatal("the rest stands on this")
		}
	}
}

func applied(t *testing.T) {
	if err := site.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := site.Must(t.Context(), "diff"); err != nil {
		t.Fatalf("a second look finds differences: %v %s", err, out)
	}
	for _, vm := range []string{services, demo.Internet} {
		listen(t, site.Lab.VM(vm), "80", "443", "8080")
	}
}

func listen(t *testing.T, vm *lab.VM, ports ...string) {
	t.Helper()
	if err := vm.WriteFile(t.Context(), "/root/answers.py", 0o600, []byte(answers)); err != nil {
		t.Fatal(err)
	}
	argv := append([]string{"systemd-run", "--quiet", "--collect", "python3", "/root/answers.py"}, ports...)
	if _, err := vm.Must(t.Context(), argv...); err != nil {
		t.Fatal(err)
	}
	for _, port := range ports {
		labtest.Eventually(t, 20*time.Second, "somebody listens on port "+port+" of "+vm.Name(), func() bool {
			r, err := vm.Exec(t.Context(), "python3", "-c", asks, "127.0.0.1", port, "2")
			return err == nil && r.Code == 0
		})
	}
}

// ask returns the address under which a VM is seen at the other end, "" where the port is closed.
func ask(t *testing.T, from, address string, port int, wait string) string {
	t.Helper()
	r, err := site.Lab.VM(from).Exec(t.Context(), "python3", "-c", asks, address, fmt.Sprint(port), wait)
	if err != nil {
		t.Fatal(err)
	}
	if r.Code != 0 {
		return ""
	}
	return strings.TrimSpace(r.Stdout)
}

func published(t *testing.T) {
	for _, port := range []int{80, 443} {
		if got := ask(t, demo.Internet, outside, port, "5"); got != "192.168.8.1" {
			t.Errorf("port %d of the outside address: seen as %q, want the customer's own 192.168.8.1", port, got)
		}
	}
	for _, port := range []int{22, 202, 8080, 7443, 53} {
		if got, err := site.Lab.VM(demo.Internet).Exec(t.Context(), "nc", "-z", "-w", "1", outside, fmt.Sprint(port)); err != nil || got.Code == 0 {
			t.Errorf("port %d of the outside address: open, error %v", port, err)
		}
		if got, err := site.Lab.VM(demo.Internet).Exec(t.Context(), "nc", "-z", "-w", "1", "10.0.10.10", fmt.Sprint(port)); err != nil || got.Code == 0 {
			t.Errorf("port %d of the machine behind, by a route past the translation: open, error %v", port, err)
		}
	}
}

func masqueraded(t *testing.T) {
	for _, from := range []string{services, demo.Relay} {
		if got := ask(t, from, "203.0.113.7", 80, "5"); got != outside {
			t.Errorf("%s is seen outside as %q, want %s", from, got, outside)
		}
	}
}

func flowsHold(t *testing.T) {
	c, err := site.CheckFlows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range c.Violations {
		t.Errorf("wrong: %s", v)
	}
}

func tunnel(t *testing.T) {
	var err error
	if remote, err = laptop.New(t.Context(), site.Lab.VM(demo.Internet), "eth0", "192.168.8.77/24"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "laptop.conf")
	if out, err := site.Must(t.Context(), "vpn", "peer", "add", "laptop", "-f", file); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Connect(t.Context(), string(text)); err != nil {
		t.Fatal(err)
	}
	throughTheTunnel(t)
	mode, err := site.Lab.VM(demo.Router).Must(t.Context(), "stat", "-c", "%a %U", "/var/lib/infractl/wireguard/wg0.key")
	if err != nil || strings.TrimSpace(mode) != "600 root" {
		t.Errorf("the router's key: %s, %v", mode, err)
	}
	// The bridge of the same prefix goes on beside the tunnel: the operator still reaches the server over it.
	if _, err := site.Must(t.Context(), "status"); err != nil {
		t.Errorf("status over the other network of the tunnel's prefix: %v", err)
	}
}

// throughTheTunnel wants a ping, names, a login to the relay, and nothing else.
func throughTheTunnel(t *testing.T) {
	t.Helper()
	labtest.Eventually(t, 20*time.Second, "a ping through the tunnel", func() bool {
		ok, err := remote.Ping(t.Context(), "10.0.10.4")
		return ok && err == nil
	})
	key, err := os.ReadFile(site.SSHKey())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := remote.Login(t.Context(), key, "operator", "10.0.10.4", 202, "hostname"); err != nil || got != demo.Relay {
		t.Errorf("login to the relay: %v %q", err, got)
	}
	for _, c := range []struct {
		question []string
		want     string
	}{{[]string{"client-relay.projetpro.lab"}, "10.0.10.4"}, {[]string{"-x", "10.0.10.10"}, services + ".projetpro.lab."},
		{[]string{"+tcp", "vrouter.projetpro.lab"}, "10.0.10.1"}} {
		if got, err := remote.Dig(t.Context(), c.question...); err != nil || got != c.want {
			t.Errorf("dig %v through the tunnel: %q, %v, want %s", c.question, got, err, c.want)
		}
	}
	// The web ports of the services machine are open to the internet, at the outside address: not to the tunnel.
	for address, ports := range map[string][]int{"10.0.10.10": {202, 80, 443, 8080}, "10.0.10.1": {202, 53, 22}, "10.0.20.1": {202},
		"10.0.10.4": {22, 53}} {
		for _, port := range ports {
			if open, err := remote.Open(t.Context(), address, port); open || err != nil {
				t.Errorf("port %d of %s is open to the tunnel, error %v", port, address, err)
			}
		}
	}
}

func rebooted(t *testing.T) {
	router := site.Lab.VM(demo.Router)
	if err := router.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := router.WaitBooted(t.Context()); err != nil {
		t.Fatal(err)
	}
	labtest.Eventually(t, 20*time.Second, "port 80 leads inside again", func() bool {
		return ask(t, demo.Internet, outside, 80, "2") == "192.168.8.1"
	})
	published(t)
	masqueraded(t)
	throughTheTunnel(t)
	if err := site.WaitOnline(t.Context(), 60*time.Second, demo.Router); err != nil {
		t.Fatal(err)
	}
	if out, err := site.Must(t.Context(), "diff"); err != nil {
		t.Errorf("after the reboot: %v %s", err, out)
	}
}

func peerRemoved(t *testing.T) {
	if out, err := site.Must(t.Context(), "vpn", "peer", "list"); err != nil || !strings.Contains(out, "laptop") {
		t.Errorf("peers: %v %s", err, out)
	}
	if out, err := site.Must(t.Context(), "vpn", "peer", "remove", "laptop", "--yes"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	// The command does not wait for the router, which hears of it by a rollout of its own.
	labtest.Eventually(t, 20*time.Second, "the removed peer is out", func() bool {
		ok, err := remote.Ping(t.Context(), "10.0.10.4")
		return !ok && err == nil
	})
	labtest.Eventually(t, 20*time.Second, "the rollout is over", func() bool {
		_, err := site.Must(t.Context(), "diff")
		return err == nil
	})
}

func unpublished(t *testing.T) {
	if err := writeSite("name: web"); err != nil {
		t.Fatal(err)
	}
	if err := site.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{outside, "10.0.10.10"} {
		if got := ask(t, demo.Internet, address, 80, "1"); got != "" {
			t.Errorf("port 80 of %s still answers", address)
		}
	}
	if out, err := site.Lab.VM(demo.Router).Must(t.Context(), "iptables-save", "-t", "nat"); err != nil || strings.Contains(out, "DNAT") {
		t.Errorf("translations: %v\n%s", err, out)
	}
}

func clocks(t *testing.T) {
	for node, source := range map[string]string{demo.Router: "203.0.113.3", demo.Relay: "10.0.10.1", services: "10.0.10.1"} {
		labtest.Eventually(t, 2*time.Minute, node+" reports that its clock follows "+source, func() bool {
			out, err := site.Must(t.Context(), "node", "show", node, "-o", "json")
			if err != nil {
				t.Fatal(err)
			}
			var shown struct {
				Node struct {
					Clock struct {
						Synchronised bool   `json:"synchronised"`
						Source       string `json:"source"`
					} `json:"clock"`
				} `json:"node"`
			}
			if err := json.Unmarshal([]byte(out), &shown); err != nil {
				t.Fatal(err)
			}
			return shown.Node.Clock.Synchronised && shown.Node.Clock.Source == source
		})
	}
}
