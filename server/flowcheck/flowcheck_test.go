package flowcheck_test

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/flowcheck"
	"github.com/infractl/infractl/server/session"
)

// world is a fleet of agents in which a packet passes exactly as the matrix says, apart from planted faults.
type world struct {
	site    *site.Site
	offline map[string]bool
	mute    map[string]bool // does not answer probe tasks
	busyUDP map[string]uint16
	// faults turn the matrix round for a way "from to port/proto".
	faults map[string]bool

	mu        sync.Mutex
	listening map[string]bool
	through   int // probes that the router sent on
	early     int // probes that were sent before their target listened
}

func example(t *testing.T) *site.Site {
	t.Helper()
	content, err := os.ReadFile("../../examples/projetpro/site.yaml")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := os.ReadFile("../../examples/projetpro/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, findings := site.Load(site.Source{File: "site.yaml", Content: content, OverlayFile: "lab.yaml", OverlayContent: overlay, WithoutFiles: true})
	if s == nil {
		t.Fatalf("the example is refused: %v", findings)
	}
	return s
}

func newWorld(t *testing.T) *world {
	return &world{site: example(t), offline: map[string]bool{}, mute: map[string]bool{}, busyUDP: map[string]uint16{}, faults: map[string]bool{}, listening: map[string]bool{}}
}

func (w *world) address(name string) netip.Addr {
	if n, ok := w.site.Node(name); ok {
		return n.MainAddress()
	}
	p, _ := w.site.Probe(name)
	return p.Address
}

// owner is whose agent listens on an address: the internet stands for unmanaged hosts.
func (w *world) owner(a netip.Addr) string {
	for i := range w.site.Nodes {
		if w.site.Nodes[i].MainAddress() == a {
			return w.site.Nodes[i].Name
		}
	}
	for i := range w.site.Probes {
		if w.site.Probes[i].Address == a {
			return w.site.Probes[i].Name
		}
	}
	if a == outside {
		return "vrouter"
	}
	return "internet"
}

// outside is the router's address in the network that leads out.
var outside = netip.MustParseAddr("192.168.8.30")

func (w *world) Live(name string) (session.LiveSession, bool) {
	return session.LiveSession{}, !w.offline[name]
}

func (w *world) Node(_ context.Context, name string) (fleet.Node, error) {
	n := fleet.Node{Name: name}
	if name == "internet" {
		n.Facts.M = &v1.HostFacts{Addresses: []string{"192.168.8.1/24", "203.0.113.4/32", "203.0.113.5/32"}}
	}
	return n, nil
}

func (w *world) Do(ctx context.Context, name string, task *v1.Task, progress func(*v1.TaskProgress)) (*v1.TaskResult, error) {
	if l := task.GetListen(); l != nil {
		w.mu.Lock()
		w.listening[name] = true
		w.mu.Unlock()
		progress(&v1.TaskProgress{Message: "listening"})
		time.Sleep(20 * time.Millisecond)
		res := &v1.ListenResult{TcpPorts: l.GetTcpPorts()}
		for _, p := range l.GetUdpPorts() {
			if uint16(p) != w.busyUDP[name] {
				res.UdpPorts = append(res.UdpPorts, p)
			}
		}
		return &v1.TaskResult{Outcome: &v1.TaskResult_Listen{Listen: res}}, nil
	}
	if w.mute[name] {
		return nil, errs.New(errs.Timeout, "no answer")
	}
	res := &v1.ProbeResult{}
	for _, p := range task.GetProbe().GetProbes() {
		proto := "tcp"
		if p.GetKind() == v1.ProbeKind_PROBE_KIND_UDP {
			proto = "udp"
		}
		to := netip.MustParseAddr(p.GetAddress())
		port := uint16(p.GetPort())
		if target, ok := w.site.Published(proto, port); ok && to == outside {
			to = target
			w.mu.Lock()
			w.through++
			w.mu.Unlock()
		}
		_, open := w.site.Allowed(w.address(name), to, proto, port)
		o := &v1.ProbeObservation{Id: p.GetId(), Outcome: v1.ProbeOutcome_PROBE_OUTCOME_DROPPED}
		key := name + " " + w.owner(to) + " " + site.Port{Proto: proto, First: uint16(p.GetPort()), Last: uint16(p.GetPort())}.String()
		if open != w.faults[key] {
			o.Outcome = v1.ProbeOutcome_PROBE_OUTCOME_OPEN
			if proto == "udp" && w.busyUDP[w.owner(to)] == uint16(p.GetPort()) {
				o.Outcome = v1.ProbeOutcome_PROBE_OUTCOME_DROPPED
			}
		}
		w.mu.Lock()
		if !w.listening[w.owner(to)] {
			w.early++
		}
		w.mu.Unlock()
		res.Observations = append(res.Observations, o)
	}
	return &v1.TaskResult{Outcome: &v1.TaskResult_Probe{Probe: res}}, nil
}

func (w *world) check(t *testing.T, nodes ...string) *v1.FlowCheck {
	t.Helper()
	c := flowcheck.New(flowcheck.Config{Hub: w, Nodes: w, Clock: clock.System{}, Log: hclog.NewNullLogger()})
	var done, total uint32
	res, err := c.Check(context.Background(), flowcheck.MatrixOf(w.site), nodes, func(d, of uint32) { done, total = d, of })
	if err != nil {
		t.Fatal(err)
	}
	if done != total {
		t.Errorf("progress ended at %d of %d", done, total)
	}
	if w.early > 0 {
		t.Errorf("%d probes before their target listened", w.early)
	}
	return res
}

func TestMatrixHolds(t *testing.T) {
	w := newWorld(t)
	res := w.check(t)
	if w.through != 2 { // 80 and 443
		t.Errorf("%d probes went through the router's outside address, want 2", w.through)
	}
	if len(res.GetViolations())+len(res.GetUnseen()) != 0 || res.GetOpenAsWanted() == 0 || res.GetClosedAsWanted() == 0 {
		t.Errorf("open %d, closed %d, violations %v, unseen %v", res.GetOpenAsWanted(), res.GetClosedAsWanted(), res.GetViolations(), res.GetUnseen())
	}
	if !strings.Contains(strings.Join(res.GetNotes(), "\n"), "plain route") {
		t.Errorf("notes %q do not name the stand-ins", res.GetNotes())
	}
}

func TestAPortThatTheRouterDoesNotPassOnIsAViolation(t *testing.T) {
	w := newWorld(t)
	w.faults["internet srv-dhcp-dns 443/tcp"] = true // on both ways there: directly and by the outside address
	res := w.check(t)
	var to []string
	for _, v := range res.GetViolations() {
		to = append(to, v.GetFrom()+" "+v.GetTo()+" "+v.GetAddress())
	}
	if got, want := strings.Join(to, ", "), "internet srv-dhcp-dns 10.0.10.10, internet vrouter outside 192.168.8.30"; got != want {
		t.Errorf("violations %s, want %s", got, want)
	}
}

func TestViolationsBothWaysAreNamed(t *testing.T) {
	w := newWorld(t)
	w.faults["client-relay srv-prod 202/tcp"] = true // allowed, and closed
	w.faults["internet srv-prod 22/tcp"] = true      // not allowed, and open
	res := w.check(t)
	if len(res.GetViolations()) != 2 {
		t.Fatalf("violations %v, want two", res.GetViolations())
	}
	closed, open := res.GetViolations()[0], res.GetViolations()[1]
	if closed.GetFrom() != "client-relay" || !closed.GetWanted() || closed.GetSeen() != v1.ProbeOutcome_PROBE_OUTCOME_DROPPED {
		t.Errorf("got %v", closed)
	}
	if open.GetFrom() != "internet" || open.GetTo() != "srv-prod" || open.GetPort() != "22/tcp" || open.GetWanted() {
		t.Errorf("got %v", open)
	}
}

func TestWhatCannotBeSeenIsSaid(t *testing.T) {
	t.Run("Offline", func(t *testing.T) {
		w := newWorld(t)
		w.offline["srv-prod"] = true
		res := w.check(t)
		if len(res.GetUnseen()) != 1 || res.GetUnseen()[0].GetFrom() != "srv-prod" || len(res.GetViolations()) != 0 {
			t.Errorf("unseen %v, violations %v", res.GetUnseen(), res.GetViolations())
		}
	})
	t.Run("NoAnswer", func(t *testing.T) {
		w := newWorld(t)
		w.mute["srv-prod"] = true
		res := w.check(t)
		if len(res.GetUnseen()) == 0 || len(res.GetViolations()) != 0 {
			t.Errorf("unseen %v, violations %v", res.GetUnseen(), res.GetViolations())
		}
	})
	t.Run("BusyUDP", func(t *testing.T) {
		w := newWorld(t)
		w.busyUDP["srv-dhcp-dns"] = 53
		res := w.check(t)
		if len(res.GetUnseen()) == 0 || len(res.GetViolations()) != 0 {
			t.Errorf("unseen %v, violations %v", res.GetUnseen(), res.GetViolations())
		}
		for _, o := range res.GetUnseen() {
			if o.GetTo() != "srv-dhcp-dns" || o.GetPort() != "53/udp" {
				t.Errorf("unseen %v", o)
			}
		}
	})
}

func TestLimitedCheckLooksAtThoseNodesOnly(t *testing.T) {
	w := newWorld(t)
	all, some := w.check(t), w.check(t, "srv-prod")
	if a, b := all.GetOpenAsWanted()+all.GetClosedAsWanted(), some.GetOpenAsWanted()+some.GetClosedAsWanted(); b == 0 || b >= a {
		t.Errorf("%d ways of %d", b, a)
	}
	c := flowcheck.New(flowcheck.Config{Hub: w, Nodes: w, Clock: clock.System{}, Log: hclog.NewNullLogger()})
	if _, err := c.Check(context.Background(), flowcheck.MatrixOf(w.site), []string{"nobody"}, nil); !errs.Is(err, errs.Invalid) {
		t.Errorf("unknown node: %v", err)
	}
}
