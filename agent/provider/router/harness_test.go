package router

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables/nstest"
)

// The tests run real iptables and real routes in network namespaces of their own. WireGuard itself stands apart: wgRunner plays
// it and the unit that runs it, with a plain interface in its place; the lab has the real one. They need root.

// wgRunner runs a provider's commands in a namespace and plays wg, systemctl and the kernel's WireGuard.
type wgRunner struct {
	ns     string
	root   string
	legacy bool
	kernel bool // the kernel makes WireGuard's interfaces

	mu   *sync.Mutex
	conf map[string]string // what syncconf was given last, by interface
}

// Run implements host.Runner.
func (r wgRunner) Run(ctx context.Context, cmd host.Cmd) (host.Output, error) {
	argv := cmd.Argv
	line := strings.Join(argv, " ")
	switch {
	case argv[0] == "wg":
		return r.wg(argv, string(cmd.Stdin))
	case argv[0] == "systemctl":
		return host.Output{}, r.systemctl(argv[1])
	case strings.HasSuffix(line, "type wireguard"):
		if !r.kernel {
			return host.Output{}, fmt.Errorf("Error: Unknown device type")
		}
		return host.Output{}, r.link(argv[4])
	case strings.HasPrefix(line, "ip link del"):
		r.forget(argv[len(argv)-1])
	}
	return nstest.Runner{NS: r.ns, Legacy: r.legacy}.Run(ctx, cmd)
}

func (r wgRunner) forget(device string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conf, device)
}

func (r wgRunner) link(device string) error {
	_, err := nstest.Command(nil, "ip", "-n", r.ns, "link", "add", device, "type", "veth", "peer", "name", "p-"+device)
	return err
}

func (r wgRunner) systemctl(verb string) error {
	if verb == "daemon-reload" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(r.root, unitFile))
	if err != nil {
		return fmt.Errorf("Unit %s not found", unitName)
	}
	device := regexp.MustCompile(`wireguard-go -f (\S+)`).FindStringSubmatch(string(data))[1]
	_, _ = nstest.Command(nil, "ip", "-n", r.ns, "link", "del", device) // it may not be there
	r.forget(device)
	if verb == "restart" {
		return r.link(device)
	}
	return nil
}

func (r wgRunner) wg(argv []string, stdin string) (host.Output, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	device := argv[2]
	if _, err := nstest.Command(nil, "ip", "-n", r.ns, "link", "show", "dev", device); err != nil {
		return host.Output{}, fmt.Errorf("Unable to access interface: No such device")
	}
	if argv[1] == "syncconf" {
		r.conf[device] = stdin
		return host.Output{}, nil
	}
	value := func(key string) string {
		if m := regexp.MustCompile(`(?m)^` + key + ` = (.*)$`).FindStringSubmatch(r.conf[device]); m != nil {
			return m[1]
		}
		return ""
	}
	text := ""
	switch argv[3] {
	case "listen-port":
		text = value("ListenPort")
	case "public-key":
		text = "(none)"
		if value("PrivateKey") != "" {
			_, text, _ = privateKey(host.New(host.Config{Root: r.root}), device)
		}
	case "allowed-ips":
		for _, m := range regexp.MustCompile(`PublicKey = (\S+)\nAllowedIPs = (.*)`).FindAllStringSubmatch(r.conf[device], -1) {
			text += m[1] + "\t" + strings.ReplaceAll(m[2], ",", "") + "\n"
		}
	}
	return host.Output{Stdout: []byte(text + "\n")}, nil
}

// state is the nat table, addresses, routes and what WireGuard was told, without the key.
func (r wgRunner) state() (string, error) {
	text, err := nstest.Runner{NS: r.ns, Legacy: r.legacy}.Save("iptables-save")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(text)
	for _, argv := range [][]string{{"ip", "-4", "-o", "address"}, {"ip", "-4", "route"}} {
		out, err := nstest.Command(nil, nstest.Inside(r.ns, argv...)...)
		if err != nil {
			return "", err
		}
		b.WriteString(regexp.MustCompile(`(?m)^\d+: `).ReplaceAllString(out, ""))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for device, conf := range r.conf {
		b.WriteString(device + "\n" + regexp.MustCompile(`PrivateKey = \S+`).ReplaceAllString(conf, "PrivateKey") + "\n")
	}
	return b.String(), nil
}

// foreign is the nat table without what is ours, and routes without our mark.
func (r wgRunner) foreign() (string, error) {
	all, err := r.state()
	var b strings.Builder
	for line := range strings.Lines(all) {
		if strings.HasPrefix(line, "-A ") && !strings.Contains(line, "INFRACTL-") || strings.HasPrefix(line, ":DOCKER") ||
			strings.Contains(line, " via ") && !strings.Contains(line, "proto "+ourRoutes) {
			b.WriteString(line)
		}
	}
	return b.String(), err
}

// world is a router between the outside and a LAN of two machines.
type world struct{ router, outside, services, prod string }

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{router: nstest.New(t, "r"), outside: nstest.New(t, "o"), services: nstest.New(t, "s"), prod: nstest.New(t, "p")}
	nstest.MustRun(t, "ip", "link", "add", "eth0", "netns", w.router, "type", "veth", "peer", "name", "eth0", "netns", w.outside)
	nstest.MustRun(t, "ip", "-n", w.router, "link", "add", "eth1", "type", "bridge")
	for i, ns := range []string{w.services, w.prod} {
		nstest.MustRun(t, "ip", "link", "add", "eth0", "netns", ns, "type", "veth", "peer", "name", fmt.Sprintf("port%d", i), "netns", w.router)
		nstest.MustRun(t, "ip", "-n", w.router, "link", "set", fmt.Sprintf("port%d", i), "master", "eth1", "up")
	}
	for _, a := range [][]string{{w.router, "eth0", "192.168.8.30/24"}, {w.router, "eth1", "10.0.10.1/24"},
		{w.outside, "eth0", "192.168.8.1/24"}, {w.services, "eth0", "10.0.10.10/24"}, {w.prod, "eth0", "10.0.10.20/24"}} {
		nstest.MustRun(t, "ip", "-n", a[0], "address", "add", a[2], "dev", a[1])
		nstest.MustRun(t, "ip", "-n", a[0], "link", "set", a[1], "up")
	}
	nstest.MustRun(t, "ip", "-n", w.outside, "address", "add", "203.0.113.7/32", "dev", "eth0")
	for _, ns := range []string{w.services, w.prod} {
		nstest.MustRun(t, "ip", "-n", ns, "route", "add", "default", "via", "10.0.10.1")
	}
	nstest.MustRun(t, nstest.Inside(w.router, "sysctl", "-qw", "net.ipv4.ip_forward=1")...)
	return w
}

// newRouter is a router with nobody around it: interfaces and addresses are all that a conformance run needs.
func newRouter(t testing.TB) *world {
	t.Helper()
	w := &world{router: nstest.New(t, "c")}
	batch := "link add eth0 type bridge\nlink add eth1 type bridge\naddress add 192.168.8.30/24 dev eth0\n" +
		"address add 10.0.10.1/24 dev eth1\nlink set eth0 up\nlink set eth1 up\n"
	file := filepath.Join(t.TempDir(), "links")
	if err := os.WriteFile(file, []byte(batch), 0o600); err != nil {
		t.Fatal(err)
	}
	nstest.MustRun(t, "ip", "-n", w.router, "-batch", file)
	return w
}

// tellPeer answers each TCP connection to a port of a namespace with the address that it came from.
func tellPeer(t testing.TB, ns string, port int) {
	t.Helper()
	var l net.Listener
	err := nstest.Within(ns, func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintln(c, host)
			c.Close()
		}
	}()
}

// ask connects from a namespace and returns the source address that the other side saw, or "closed".
func ask(t testing.TB, ns, address string, wait time.Duration) string {
	t.Helper()
	var c net.Conn
	err := nstest.Within(ns, func() (err error) {
		c, err = net.DialTimeout("tcp4", address, wait)
		return err
	})
	if err != nil {
		return "closed"
	}
	defer c.Close()
	var seen string
	if _, err := fmt.Fscanln(c, &seen); err != nil {
		t.Fatal(err)
	}
	return seen
}
