package firewall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables"
)

// The tests run real iptables in network namespaces of their own: one that is the host, one that owns the addresses of
// everybody else, one that is a container. They need root.

var namespaces atomic.Int64 // unique names in one test binary

// newNamespace makes a network namespace with a unique name and removes it at the end of the test.
func newNamespace(t testing.TB, kind string) string {
	t.Helper()
	name := fmt.Sprintf("ifw%d-%d-%s", os.Getpid(), namespaces.Add(1), kind)
	mustRun(t, "ip", "netns", "add", name)
	t.Cleanup(func() { mustRun(t, "ip", "netns", "del", name) })
	mustRun(t, "ip", "-n", name, "link", "set", "lo", "up")
	return name
}

func mustRun(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := command(nil, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func command(stdin []byte, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Stdin = strings.NewReader(string(stdin))
	c.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr strings.Builder
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

func inside(ns string, argv ...string) []string {
	return append([]string{"nsenter", "--net=/run/netns/" + ns}, argv...)
}

// nsRunner runs a provider's commands in a namespace, with the legacy backend of iptables where told so.
type nsRunner struct {
	ns     string
	legacy bool
}

// Run implements host.Runner.
func (r nsRunner) Run(ctx context.Context, cmd host.Cmd) (host.Output, error) {
	argv := make([]string, 0, len(cmd.Argv))
	for _, word := range cmd.Argv {
		argv = append(argv, r.program(word))
	}
	cmd.Argv = inside(r.ns, argv...)
	return host.New(host.Config{}).RunCmd(ctx, cmd)
}

func (r nsRunner) program(name string) string {
	if r.legacy && (strings.HasSuffix(name, "tables-save") || strings.HasSuffix(name, "tables-restore")) {
		return strings.Replace(name, "tables-", "tables-legacy-", 1)
	}
	return name
}

// restoreText feeds iptables-restore in a namespace.
func restoreText(t testing.TB, ns, program, text string) {
	t.Helper()
	if _, err := command([]byte(text), inside(ns, program, "-w", "5", "--noflush")...); err != nil {
		t.Fatal(err)
	}
}

var noise = regexp.MustCompile(`(?m)^#.*\n| \[\d+:\d+\]`)

// saved returns all tables, without times and counters.
func (r nsRunner) saved() (string, error) {
	var b strings.Builder
	for _, f := range []family{v4, v6} {
		out, err := command(nil, inside(r.ns, r.program(f.Save()))...)
		if err != nil {
			return "", err
		}
		b.WriteString(f.String() + "\n" + noise.ReplaceAllString(out, ""))
	}
	return b.String(), nil
}

// foreign is what saved says without what is ours.
func (r nsRunner) foreign() (string, error) {
	all, err := r.saved()
	var b strings.Builder
	for line := range strings.Lines(all) {
		// DOCKER-USER may be made by us; its foreign rules still count.
		if !strings.Contains(line, iptables.Prefix) && !strings.HasPrefix(line, ":"+dockerUser+" ") {
			b.WriteString(line)
		}
	}
	return b.String(), err
}

// within runs fn on a thread that is in the namespace. Sockets that fn makes stay there.
func within(ns string, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, so that no other code runs in there
		fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// listen answers on TCP ports of a namespace, in both families: what comes in goes back.
func listen(t testing.TB, ns string, ports ...uint16) {
	t.Helper()
	for _, port := range ports {
		var l net.Listener
		err := within(ns, func() (err error) {
			l, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
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
				go func() {
					defer c.Close()
					io.Copy(c, c) // the other side closes
				}()
			}
		}()
	}
}

// Outcomes of a probe.
const (
	open    = "open"
	refused = "refused"
	silent  = "dropped"
)

// dropWait is how long a probe that should be dropped waits; one that should pass has passWait, so that a busy machine makes no
// test fail.
const (
	dropWait = 150 * time.Millisecond
	passWait = 5 * time.Second
)

// dial opens a TCP connection from an address in a namespace.
func dial(ns string, from, to netip.Addr, port uint16, wait time.Duration) (c net.Conn, err error) {
	err = within(ns, func() (err error) {
		d := net.Dialer{Timeout: wait, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		c, err = d.Dial("tcp", netip.AddrPortFrom(to, port).String())
		return err
	})
	return c, err
}

// probe reports what became of a connection attempt. want only chooses how long to wait.
func probe(ns string, from, to netip.Addr, port uint16, want string) (string, error) {
	wait := passWait
	if want == silent {
		wait = dropWait
	}
	c, err := dial(ns, from, to, port, wait)
	var timeout net.Error
	switch {
	case err == nil:
		c.Close()
		return open, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused, nil
	case errors.As(err, &timeout) && timeout.Timeout():
		return silent, nil
	case errors.Is(err, syscall.EPERM): // an own packet that OUTPUT drops
		return silent, nil
	}
	return "", err
}

// want is one probe with its expected outcome.
type want struct {
	ns       string
	from, to netip.Addr
	port     uint16
	outcome  string
	why      string
}

// check runs probes at once and returns those that came out differently.
func check(wants []want) error {
	errs := make([]error, len(wants))
	var wg sync.WaitGroup
	for i, w := range wants {
		wg.Add(1)
		go func() {
			defer wg.Done()
			got, err := probe(w.ns, w.from, w.to, w.port, w.outcome)
			switch {
			case err != nil:
				errs[i] = fmt.Errorf("%s to %s port %d: %w", w.from, w.to, w.port, err)
			case got != w.outcome:
				errs[i] = fmt.Errorf("%s to %s port %d: %s, want %s (%s)", w.from, w.to, w.port, got, w.outcome, w.why)
			}
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

// world is a host and everybody else, on one wire.
type world struct {
	host, peer string // namespaces
}

// Addresses of the world. Both families; the outside ones are documentation addresses.
var (
	hostAddr  = both("10.99.0.1", "fd99::1")
	relayAddr = both("10.99.0.4", "fd99::4")
	otherAddr = both("10.99.0.5", "fd99::5")
	thirdAddr = both("10.99.0.6", "fd99::6")
	outerAddr = both("203.0.113.7", "2001:db8::7")
	allInside = []string{"10.99.0.0/24", "fd99::/64"}
)

func both(ipv4, ipv6 string) [2]netip.Addr {
	return [2]netip.Addr{netip.MustParseAddr(ipv4), netip.MustParseAddr(ipv6)}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{host: newNamespace(t, "host"), peer: newNamespace(t, "peer")}
	mustRun(t, "ip", "link", "add", "eth0", "netns", w.host, "type", "veth", "peer", "name", "eth0", "netns", w.peer)
	for ns, list := range map[string][][2]netip.Addr{w.host: {hostAddr}, w.peer: {relayAddr, otherAddr, thirdAddr}} {
		for _, a := range list {
			mustRun(t, "ip", "-n", ns, "addr", "add", a[0].String()+"/24", "dev", "eth0")
			mustRun(t, "ip", "-n", ns, "addr", "add", a[1].String()+"/64", "dev", "eth0", "nodad")
		}
		mustRun(t, "ip", "-n", ns, "link", "set", "eth0", "up")
	}
	mustRun(t, "ip", "-n", w.peer, "addr", "add", outerAddr[0].String()+"/32", "dev", "eth0")
	mustRun(t, "ip", "-n", w.peer, "addr", "add", outerAddr[1].String()+"/128", "dev", "eth0", "nodad")
	mustRun(t, "ip", "-n", w.host, "route", "add", "default", "via", relayAddr[0].String())
	mustRun(t, "ip", "-n", w.host, "-6", "route", "add", "default", "via", relayAddr[1].String())
	return w
}

// provider returns a provider on the world's host with an empty root.
func (w *world) provider(t testing.TB, flaw faults) *Provider {
	t.Helper()
	p := New(Config{Host: host.New(host.Config{Root: t.TempDir(), Runner: nsRunner{ns: w.host}})})
	p.flaw = flaw
	return p
}
