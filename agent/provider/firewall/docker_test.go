package firewall

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables/nstest"
	"github.com/infractl/infractl/agent/provider"
)

var (
	gateway1, container1 = netip.MustParseAddr("172.17.0.1"), netip.MustParseAddr("172.17.0.2")
	gateway2, container2 = netip.MustParseAddr("172.18.0.1"), netip.MustParseAddr("172.18.0.2")
	neighbour2           = netip.MustParseAddr("172.18.0.3")
)

// container makes a namespace that hangs on a bridge of the host, as Docker does.
func (w *world) container(t testing.TB, bridge string, gateway, addr netip.Addr) string {
	t.Helper()
	ns := nstest.New(t, "ctr")
	if _, err := nstest.Command(nil, "ip", "-n", w.host, "link", "show", bridge); err != nil {
		nstest.MustRun(t, "ip", "-n", w.host, "link", "add", bridge, "type", "bridge")
		nstest.MustRun(t, "ip", "-n", w.host, "addr", "add", gateway.String()+"/16", "dev", bridge)
		nstest.MustRun(t, "ip", "-n", w.host, "link", "set", bridge, "up")
	}
	_, last, _ := strings.Cut(addr.String(), ".")
	veth := "v" + strings.ReplaceAll(last, ".", "")
	nstest.MustRun(t, "ip", "link", "add", "eth0", "netns", ns, "type", "veth", "peer", "name", veth, "netns", w.host)
	nstest.MustRun(t, "ip", "-n", w.host, "link", "set", veth, "master", bridge, "up")
	nstest.MustRun(t, "ip", "-n", ns, "addr", "add", addr.String()+"/16", "dev", "eth0")
	nstest.MustRun(t, "ip", "-n", ns, "link", "set", "eth0", "up")
	nstest.MustRun(t, "ip", "-n", ns, "route", "add", "default", "via", gateway.String())
	return ns
}

func TestContainersReachAndAreReachedOnlyByTheirFlows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c1 := w.container(t, "docker0", gateway1, container1)
	c2 := w.container(t, "br-app", gateway2, container2)
	n2 := w.container(t, "br-app", gateway2, neighbour2)
	for _, name := range []string{"net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"} {
		nstest.MustRun(t, nstest.Inside(w.host, "sysctl", "-q", "-w", name)...)
	}
	listen(t, c1, 80)
	listen(t, n2, 3306)
	listen(t, w.host, 22, 8000, 9100)
	listen(t, w.peer, 443, 587, 8443)
	restoreText(t, w.host, "iptables-restore", dockerRules)
	restoreText(t, w.host, "iptables-restore", `*nat
-A POSTROUTING -s 172.18.0.0/16 ! -o br-app -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
-A FORWARD -o br-app -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i br-app ! -o br-app -j ACCEPT
-A FORWARD -i br-app -o br-app -j ACCEPT
-P FORWARD DROP
COMMIT
`)
	p := w.provider(t, faults{})
	s := dockerSpec(
		containers(tcp(in, "web", 8080, internet(), anyone())),
		tcp(in, "host-only", 8081, addrs("10.99.0.5"), anyone()),
		tcp(in, "front", 8000, internet(), anyone()),
		tcp(in, "metrics", 9100, addrs(hostAddr[0].String()), addrs(hostAddr[0].String())),
		containers(tcp(out, "updates", 443, anyone(), internet())),
		containers(tcp(out, "mail", 587, anyone(), addrs("10.99.0.6"))),
		tcp(out, "host-net", 8443, anyone(), internet()),
		tcp(fwd, "stack-x", 8443, addrs("172.18.0.2"), addrs("10.99.0.5")),
	)
	h, relay, other, third, outer := hostAddr[0], relayAddr[0], otherAddr[0], thirdAddr[0], outerAddr[0]
	_ = relay
	always := []want{
		{w.peer, outer, h, 8080, open, "published, from the internet"},
		{w.host, gateway1, container1, 80, open, "host to container"},
		{c2, container2, neighbour2, 3306, open, "same bridge"},
		{c1, container1, outer, 443, open, "container to the internet"},
		{c1, container1, third, 587, open, "container to mail"},
		{c2, container2, other, 8443, open, "the stack's own flow"},
		{c2, container2, h, 9100, open, "container to its own host, by a flow between machines"},
	}
	closed := []want{
		{w.peer, other, h, 8080, silent, "published, inside is not the internet"},
		{w.peer, other, h, 8081, silent, "published, but the flow is for the host alone"},
		{c1, container1, gateway1, 22, silent, "container to host"},
		{c1, container1, gateway1, 9100, silent, "container to another address of its host"},
		{w.peer, other, h, 9100, silent, "what is for the host's own containers"},
		{c1, container1, gateway1, 8000, silent, "a container is not the internet"},
		{c1, container1, other, 443, silent, "container to the site"},
		{c1, container1, outer, 8443, silent, "the flow is for the host alone"},
		{c1, container1, other, 8443, silent, "another stack's flow"},
	}

	kept(t, p, wishFor(s, provider.Widening))
	opened := append([]want{}, always...)
	for _, c := range closed {
		c.outcome = open
		opened = append(opened, c)
	}
	expect(t, opened...)

	kept(t, p, wishFor(s, provider.Narrowing))
	expect(t, append(always, closed...)...)

	t.Run("also after a restart of Docker, at once and after repair", func(t *testing.T) {
		restoreText(t, w.host, "iptables-restore", "*filter\n-D FORWARD -j DOCKER-USER\n-I FORWARD 1 -j DOCKER-USER\nCOMMIT\n")
		expect(t, append(always, closed...)...)
		done, err := p.Repair(context.Background())
		if err != nil || len(done) != 1 {
			t.Errorf("Repair = %q, %v; want the jump in FORWARD", done, err)
		}
		if err := p.Verify(context.Background(), wishFor(s, provider.Narrowing)); err != nil {
			t.Error(err)
		}
		if done, err = p.Repair(context.Background()); err != nil || len(done) != 0 {
			t.Errorf("second Repair = %q, %v; want nothing", done, err)
		}
	})
	t.Run("also after a flush of everything and repair", func(t *testing.T) {
		nstest.MustRun(t, nstest.Inside(w.host, "iptables", "-F", chainIn)...)
		nstest.MustRun(t, nstest.Inside(w.host, "ip6tables", "-F")...)
		nstest.MustRun(t, nstest.Inside(w.host, "ip6tables", "-X")...)
		if done, err := p.Repair(context.Background()); err != nil || len(done) == 0 {
			t.Errorf("Repair = %q, %v", done, err)
		}
		if err := p.Verify(context.Background(), wishFor(s, provider.Narrowing)); err != nil {
			t.Error(err)
		}
		expect(t, append(always, closed...)...)
	})
}

func TestInstancesHaveOnlyTheFlowsThatNameThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stack := w.container(t, "docker0", gateway1, container1)
	instance := w.container(t, "br-inst", gateway2, container2)
	for _, name := range []string{"net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"} {
		nstest.MustRun(t, nstest.Inside(w.host, "sysctl", "-q", "-w", name)...)
	}
	listen(t, w.host, 53, 9100)
	listen(t, w.peer, 53, 80, 443, 587)
	restoreText(t, w.host, "iptables-restore", dockerRules)
	restoreText(t, w.host, "iptables-restore", "*nat\n-A POSTROUTING -s 172.18.0.0/16 ! -o br-inst -j MASQUERADE\nCOMMIT\n*filter\n"+
		"-A FORWARD -o br-inst -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -i br-inst ! -o br-inst -j ACCEPT\n-P FORWARD DROP\nCOMMIT\n")
	h, other, outer := hostAddr[0], otherAddr[0], outerAddr[0]
	s := dockerSpec(
		containers(tcp(out, "updates", 80, anyone(), internet())),
		containers(tcp(out, "names", 53, anyone(), addrs(other.String()))),
		tcp(in, "metrics", 9100, addrs(h.String()), addrs(h.String())),
		tcp(fwd, "instances", 443, addrs("172.18.0.0/16"), internet()),
		tcp(fwd, "instances", 587, addrs("172.18.0.0/16"), internet()),
	)
	s.InstancePool = "172.18.0.0/16"
	p := w.provider(t, faults{})
	kept(t, p, wishFor(s, provider.Widening))
	kept(t, p, wishFor(s, provider.Narrowing))
	expect(t,
		want{stack, container1, outer, 80, open, "a stack's container to the internet"},
		want{stack, container1, other, 53, open, "a stack's container to the name server"},
		want{stack, container1, h, 9100, open, "a stack's container to its host, by a flow between machines"},
		want{instance, container2, outer, 443, open, "an instance to the internet"},
		want{instance, container2, outer, 587, open, "an instance's mail"},
		want{instance, container2, outer, 80, silent, "an instance, by a flow of the host"},
		want{instance, container2, other, 53, silent, "an instance to the site, by a flow of the host"},
		want{instance, container2, other, 443, silent, "an instance to the site: that is not the internet"},
		want{instance, container2, h, 9100, silent, "an instance to its host, by a flow between machines"},
		want{instance, container2, gateway2, 53, silent, "an instance to its host"},
	)
}

func TestDockersChainsStayAsTheyAre(t *testing.T) {
	t.Parallel()
	run := nstest.Runner{NS: nstest.New(t, "host")}
	restoreText(t, run.NS, "iptables-restore", dockerRules)
	restoreText(t, run.NS, "ip6tables-restore", foreignV6)
	before, err := foreign(run)
	if err != nil {
		t.Fatal(err)
	}
	h := host.New(host.Config{Root: t.TempDir(), Runner: run})
	p := New(Config{Host: h})
	for _, w := range []provider.Stage{provider.Widening, provider.Narrowing} {
		kept(t, p, wishFor(firstSpec(), w))
		kept(t, p, wishFor(secondSpec(), w))
	}
	if _, err := Boot(context.Background(), h); err != nil {
		t.Fatal(err)
	}
	after, err := foreign(run)
	if err != nil {
		t.Fatal(err)
	}
	if before != after {
		t.Errorf("foreign rules:\n%s\nwant\n%s", after, before)
	}
	list, err := p.Foreign(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(list, "\n")
	want := "IPv4: a rule of others in INPUT: -p tcp -m tcp --dport 9999 -j MINE\n" +
		"IPv4: a rule of others in DOCKER-USER: -s 192.0.2.9/32 -j DROP\n" +
		"IPv6: a rule of others in INPUT: -s 2001:db8::bad/128 -j DROP"
	if got != want {
		t.Errorf("Foreign =\n%s\nwant\n%s", got, want)
	}
}
