package firewall

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables"
	"github.com/infractl/infractl/agent/iptables/nstest"
)

// The tests run real iptables in network namespaces of their own: one that is the host, one that owns the addresses of
// everybody else, one that is a container. They need root.

// restoreText feeds iptables-restore in a namespace.
func restoreText(t testing.TB, ns, program, text string) {
	t.Helper()
	if _, err := nstest.Command([]byte(text), nstest.Inside(ns, program, "-w", "5", "--noflush")...); err != nil {
		t.Fatal(err)
	}
}

// saved returns all tables, without times and counters.
func saved(r nstest.Runner) (string, error) {
	var b strings.Builder
	for _, f := range []family{v4, v6} {
		out, err := r.Save(f.Save())
		if err != nil {
			return "", err
		}
		b.WriteString(f.String() + "\n" + out)
	}
	return b.String(), nil
}

// foreign is what saved says without what is ours.
func foreign(r nstest.Runner) (string, error) {
	all, err := saved(r)
	var b strings.Builder
	for line := range strings.Lines(all) {
		// DOCKER-USER may be made by us; its foreign rules still count.
		if !strings.Contains(line, iptables.Prefix) && !strings.HasPrefix(line, ":"+dockerUser+" ") {
			b.WriteString(line)
		}
	}
	return b.String(), err
}

// listen answers on TCP ports of a namespace, in both families: what comes in goes back.
func listen(t testing.TB, ns string, ports ...uint16) {
	t.Helper()
	for _, port := range ports {
		var l net.Listener
		err := nstest.Within(ns, func() (err error) {
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
	err = nstest.Within(ns, func() (err error) {
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
	w := &world{host: nstest.New(t, "host"), peer: nstest.New(t, "peer")}
	nstest.MustRun(t, "ip", "link", "add", "eth0", "netns", w.host, "type", "veth", "peer", "name", "eth0", "netns", w.peer)
	for ns, list := range map[string][][2]netip.Addr{w.host: {hostAddr}, w.peer: {relayAddr, otherAddr, thirdAddr}} {
		for _, a := range list {
			nstest.MustRun(t, "ip", "-n", ns, "addr", "add", a[0].String()+"/24", "dev", "eth0")
			nstest.MustRun(t, "ip", "-n", ns, "addr", "add", a[1].String()+"/64", "dev", "eth0", "nodad")
		}
		nstest.MustRun(t, "ip", "-n", ns, "link", "set", "eth0", "up")
	}
	nstest.MustRun(t, "ip", "-n", w.peer, "addr", "add", outerAddr[0].String()+"/32", "dev", "eth0")
	nstest.MustRun(t, "ip", "-n", w.peer, "addr", "add", outerAddr[1].String()+"/128", "dev", "eth0", "nodad")
	nstest.MustRun(t, "ip", "-n", w.host, "route", "add", "default", "via", relayAddr[0].String())
	nstest.MustRun(t, "ip", "-n", w.host, "-6", "route", "add", "default", "via", relayAddr[1].String())
	return w
}

// provider returns a provider on the world's host with an empty root.
func (w *world) provider(t testing.TB, flaw faults) *Provider {
	t.Helper()
	p := New(Config{Host: host.New(host.Config{Root: t.TempDir(), Runner: nstest.Runner{NS: w.host}})})
	p.flaw = flaw
	return p
}
