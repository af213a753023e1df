package firewall

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables/nstest"
	"github.com/infractl/infractl/agent/provider"
)

// expect runs probes for both families and fails with those that came out differently.
func expect(t *testing.T, wants ...want) {
	t.Helper()
	if err := check(wants); err != nil {
		t.Error(err)
	}
}

// bothFamilies makes a probe from a namespace for IPv4 and IPv6.
func bothFamilies(ns string, from, to [2]netip.Addr, port uint16, outcome, why string) []want {
	return []want{{ns, from[0], to[0], port, outcome, why}, {ns, from[1], to[1], port, outcome, why}}
}

func TestOnlyFlowsPassAndAClosedPortAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	listen(t, w.host, 202, 80, 443)
	listen(t, w.peer, 443, 53)
	kept(t, w.provider(t, faults{}), wishFor(spec(
		tcp(in, "bastion", 202, addrs("10.99.0.4", "fd99::4"), anyone()),
		tcp(in, "closed", 203, addrs("10.99.0.4", "fd99::4"), anyone()),
		tcp(in, "web", 80, internet(), anyone()),
		tcp(out, "updates", 443, anyone(), internet()),
		tcp(out, "dns", 53, anyone(), addrs("10.99.0.5", "fd99::5")),
	), provider.Narrowing))
	var wants []want
	add := func(ns string, from, to [2]netip.Addr, port uint16, outcome, why string) {
		wants = append(wants, bothFamilies(ns, from, to, port, outcome, why)...)
	}
	add(w.peer, relayAddr, hostAddr, 202, open, "the relay's flow")
	add(w.peer, relayAddr, hostAddr, 203, refused, "allowed, nobody listens")
	add(w.peer, otherAddr, hostAddr, 202, silent, "not from there")
	add(w.peer, relayAddr, hostAddr, 443, silent, "in no flow")
	add(w.peer, outerAddr, hostAddr, 80, open, "from the internet")
	add(w.peer, otherAddr, hostAddr, 80, silent, "inside is not the internet")
	add(w.host, hostAddr, outerAddr, 443, open, "to the internet")
	add(w.host, hostAddr, otherAddr, 443, silent, "inside is not the internet")
	add(w.host, hostAddr, otherAddr, 53, open, "the resolver")
	add(w.host, hostAddr, relayAddr, 53, silent, "not the resolver")
	add(w.host, both("127.0.0.1", "::1"), both("127.0.0.1", "::1"), 80, open, "loopback")
	expect(t, wants...)
	ping(t, w.peer, otherAddr[0], hostAddr[0])
	ping(t, w.host, hostAddr[1], otherAddr[1])
}

func TestIPv6WithoutASiteNetworkIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	listen(t, w.host, 80)
	listen(t, w.peer, 80)
	s := spec(tcp(in, "any", 80, anyone(), anyone()), tcp(out, "net", 80, anyone(), internet()))
	s.InsidePrefixes = []string{"10.99.0.0/24"}
	kept(t, w.provider(t, faults{}), wishFor(s, provider.Narrowing))
	expect(t,
		want{w.peer, relayAddr[0], hostAddr[0], 80, open, "IPv4"},
		want{w.peer, relayAddr[1], hostAddr[1], 80, silent, "no IPv6 in the site"},
		want{w.host, hostAddr[0], outerAddr[0], 80, open, "IPv4"},
		want{w.host, hostAddr[1], outerAddr[1], 80, silent, "no IPv6 in the site"})
	ping(t, w.peer, relayAddr[1], hostAddr[1])
}

func TestWideningLeavesWhatWasOpenAndNarrowingClosesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	listen(t, w.host, 22, 202, 80)
	p := w.provider(t, faults{})
	first := spec(tcp(in, "bastion", 22, addrs("10.99.0.4", "fd99::4"), anyone(), "relay"))
	second := spec(tcp(in, "bastion", 202, addrs("10.99.0.4", "fd99::4"), anyone(), "relay"))
	see := func(port uint16, from [2]netip.Addr, outcome, why string) {
		t.Helper()
		expect(t, bothFamilies(w.peer, from, hostAddr, port, outcome, why)...)
	}

	kept(t, p, wishFor(first, provider.Widening))
	see(80, otherAddr, open, "nothing was closed before: the first widening closes nothing")

	kept(t, p, wishFor(first, provider.Narrowing, "relay"))
	see(80, relayAddr, open, "the relay has not kept the widening")
	see(80, otherAddr, silent, "only the relay is exempt")
	if got := p.Widened(context.Background()); len(got) != 3 || !strings.Contains(strings.Join(got, "\n"), "relay") {
		t.Errorf("Widened = %q, want a line per hook that names the relay", got)
	}

	kept(t, p, wishFor(first, provider.Narrowing))
	see(80, relayAddr, silent, "in no flow")
	see(22, relayAddr, open, "first revision")
	if got := p.Widened(context.Background()); len(got) != 0 {
		t.Errorf("Widened = %q, want nothing", got)
	}
	running, err := dial(w.peer, relayAddr[0], hostAddr[0], 22, passWait)
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()

	kept(t, p, wishFor(second, provider.Widening))
	see(22, relayAddr, open, "old")
	see(202, relayAddr, open, "new")
	see(80, relayAddr, silent, "neither")

	kept(t, p, wishFor(second, provider.Narrowing, "relay"))
	see(22, relayAddr, open, "the relay lags behind")

	kept(t, p, wishFor(second, provider.Narrowing))
	see(22, relayAddr, silent, "old and closed")
	see(202, relayAddr, open, "new")
	echo(t, running)
}

func echo(t testing.TB, c net.Conn) {
	t.Helper()
	if err := echoed(c); err != nil {
		t.Errorf("a running connection was cut: %v", err)
	}
}

func echoed(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("still there?")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 12))
	return err
}

// failing fails one program once armed.
type failing struct {
	host.Runner
	program string
}

func (f *failing) Run(ctx context.Context, cmd host.Cmd) (host.Output, error) {
	if f.program != "" && cmd.Argv[0] == f.program {
		return host.Output{Code: 4}, &host.ExitError{Argv: cmd.Argv, Code: 4, Stderr: "no"}
	}
	return f.Runner.Run(ctx, cmd)
}

func TestSecondFamilyFailingPutsTheFirstBack(t *testing.T) {
	t.Parallel()
	run := nstest.Runner{NS: nstest.New(t, "host")}
	fail := &failing{Runner: run}
	p := New(Config{Host: host.New(host.Config{Root: t.TempDir(), Runner: fail})})
	kept(t, p, wishFor(firstSpec(), provider.Narrowing))
	before, err := saved(run)
	if err != nil {
		t.Fatal(err)
	}
	fail.program = "ip6tables-restore"
	plan, err := p.Plan(context.Background(), wishFor(secondSpec(), provider.Widening))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(context.Background(), plan); err == nil {
		t.Fatal("Apply gave no error")
	}
	after, err := saved(run)
	if err != nil {
		t.Fatal(err)
	}
	if before != after {
		t.Errorf("rules after the failure:\n%s\nwant those before:\n%s", after, before)
	}
}

func TestANoOpPlanCostsTwoProcesses(t *testing.T) {
	t.Parallel()
	count := &counting{Runner: nstest.Runner{NS: nstest.New(t, "host")}}
	p := New(Config{Host: host.New(host.Config{Root: t.TempDir(), Runner: count})})
	kept(t, p, wishFor(firstSpec(), provider.Narrowing))
	count.n = 0
	plan, err := p.Plan(context.Background(), wishFor(firstSpec(), provider.Narrowing))
	if err != nil || len(plan.Changes) != 0 {
		t.Fatalf("plan: %v, %v", plan.Changes, err)
	}
	if count.n != 2 {
		t.Errorf("the plan started %d processes, want 2", count.n)
	}
}

type counting struct {
	host.Runner
	n int
}

func (c *counting) Run(ctx context.Context, cmd host.Cmd) (host.Output, error) {
	c.n++
	return c.Runner.Run(ctx, cmd)
}

// ping sends an ICMP echo request from a namespace and waits for the reply.
func ping(t *testing.T, ns string, from, to netip.Addr) {
	t.Helper()
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	err := nstest.Within(ns, func() error {
		c, err := net.ListenPacket(network, from.String())
		if err != nil {
			return err
		}
		defer c.Close()
		message := []byte{request, 0, 0, 0, 0x12, 0x34, 0, 1}
		if to.Is4() {
			sum := ^(uint16(request)<<8 + 0x1234 + 1) // the kernel writes the checksum of ICMPv6 only
			message[2], message[3] = byte(sum>>8), byte(sum)
		}
		if err := c.SetDeadline(time.Now().Add(passWait)); err != nil {
			return err
		}
		if _, err := c.WriteTo(message, &net.IPAddr{IP: to.AsSlice()}); err != nil {
			return err
		}
		for {
			answer := make([]byte, 128)
			n, _, err := c.ReadFrom(answer)
			if err != nil {
				return err
			}
			if n >= 8 && answer[0] == reply && answer[4] == 0x12 {
				return nil
			}
		}
	})
	if err != nil {
		t.Errorf("ping from %s to %s: %v", from, to, err)
	}
}
