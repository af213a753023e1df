// Package flowcheck proves the matrix of who may talk to whom: agents and probes open real connections to each other, and
// what happened is compared with what the matrix says, both ways.
package flowcheck

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/session"
)

const (
	// probeTimeout is how long a packet may take before it counts as dropped.
	probeTimeout = 1200 * time.Millisecond
	// agentParallel is how many probes an agent has open at once.
	agentParallel = 128
	// maxProbes is the largest number of probes of one task.
	maxProbes = 4096
	// listenReady is how long to wait for all to listen; who does not by then is looked at all the same.
	listenReady = 1500 * time.Millisecond
	// maxListen is the longest that an agent may listen.
	maxListen = 120 * time.Second
	// atOnce is how many agents work at once.
	atOnce = 64
	// listening is the progress message by which an agent says that its ports are open.
	listening = "listening"
)

// Hub reaches the agents; *session.Hub is it.
type Hub interface {
	Live(node string) (session.LiveSession, bool)
	Do(ctx context.Context, node string, task *v1.Task, progress func(*v1.TaskProgress)) (*v1.TaskResult, error)
}

// Nodes knows what agents reported; *fleet.Fleet is it.
type Nodes interface {
	Node(ctx context.Context, name string) (fleet.Node, error)
}

// Config is what a Checker needs.
type Config struct {
	Hub   Hub
	Nodes Nodes
	Clock clock.Clock
	Log   hclog.Logger
}

// Checker checks matrices, one at a time: agents listen on the same ports for each.
type Checker struct {
	cfg  Config
	turn chan struct{}
}

// New returns a Checker.
func New(cfg Config) *Checker { return &Checker{cfg: cfg, turn: make(chan struct{}, 1)} }

// way is one connection to look at.
type way struct {
	from, to *End
	proto    string
	port     uint16
	wanted   bool
	flow     string
}

func (w *way) observation(seen v1.ProbeOutcome, detail string) *v1.FlowObservation {
	return &v1.FlowObservation{
		From: w.from.Name, To: w.to.Name, Address: w.to.Address.String(), Port: fmt.Sprintf("%d/%s", w.port, w.proto),
		Wanted: w.wanted, Seen: seen, Detail: detail,
	}
}

// check is one check under way.
type check struct {
	*Checker
	matrix   Matrix
	result   *v1.FlowCheck
	progress func(done, total uint32)

	mu    sync.Mutex
	done  uint32
	total uint32
	// udp says which UDP ports an agent listened on; an agent that is missing listened on none.
	udp map[string]map[uint16]bool
	// seen are observations that wait for what the listeners say.
	seen []seen
}

type seen struct {
	way     *way
	outcome v1.ProbeOutcome
	detail  string
}

// Check looks at all ways of a matrix, or at those from and to the given nodes. progress may be nil. It is Conflict while
// another check runs; everything that could not be looked at is in the result.
func (c *Checker) Check(ctx context.Context, matrix Matrix, nodes []string, progress func(done, total uint32)) (*v1.FlowCheck, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	default:
		return nil, errs.New(errs.Conflict, "another check of the flows is running").WithHint("wait some seconds and try again")
	}
	k := &check{Checker: c, matrix: matrix, result: &v1.FlowCheck{Notes: matrix.Notes}, progress: progress, udp: map[string]map[uint16]bool{}}
	if k.progress == nil {
		k.progress = func(uint32, uint32) {}
	}
	if err := k.resolve(ctx, nodes); err != nil {
		return nil, err
	}
	plan := k.ways(nodes)
	for _, list := range plan {
		k.total += uint32(len(list))
	}
	k.progress(0, k.total)
	wait := k.listen(ctx, plan)
	k.look(ctx, plan)
	wait()
	if err := ctx.Err(); err != nil {
		return nil, errs.Wrap("check flows", err)
	}
	k.judge()
	return k.result, nil
}

// resolve finds out who is there: an unmanaged host can be looked at where a probe has its address.
func (k *check) resolve(ctx context.Context, nodes []string) error {
	for _, n := range nodes {
		if !k.matrix.has(n) {
			return errs.New(errs.Invalid, "the site has no node or probe %q", n).WithHint("infractl node list")
		}
	}
	behind := map[netip.Addr]string{}
	for i := range k.matrix.Ends {
		e := &k.matrix.Ends[i]
		if !e.Probe {
			continue
		}
		n, err := k.cfg.Nodes.Node(ctx, e.Name)
		if err != nil {
			continue // a probe that never enrolled stands for nobody
		}
		for _, a := range n.Facts.M.GetAddresses() {
			if p, err := netip.ParsePrefix(a); err == nil {
				behind[p.Addr()] = e.Name
			}
		}
	}
	kept := k.matrix.Ends[:0:0]
	left := 0
	for _, e := range k.matrix.Ends {
		if e.Host {
			if e.Agent = behind[e.Address]; e.Agent == "" {
				left++
				continue
			}
		}
		kept = append(kept, e)
	}
	k.matrix.Ends = kept
	if left > 0 {
		k.result.Notes = append(k.result.Notes, fmt.Sprintf("%d unmanaged hosts were not looked at: nobody of ours listens there", left))
	}
	return nil
}

// ways lists what each source has to look at. Ends without a session are reported once, not way by way.
func (k *check) ways(only []string) map[string][]*way {
	wants := func(from, to *End) bool {
		if len(only) == 0 {
			return true
		}
		for _, n := range only {
			if from.Name == n || to.Name == n {
				return true
			}
		}
		return false
	}
	live := func(e *End) bool {
		_, ok := k.cfg.Hub.Live(e.Agent)
		return ok
	}
	plan := map[string][]*way{}
	away := map[string]bool{}
	for i := range k.matrix.Ends {
		from := &k.matrix.Ends[i]
		for j := range k.matrix.Ends {
			to := &k.matrix.Ends[j]
			if !looked(from, to) || !wants(from, to) {
				continue
			}
			if !live(from) || !live(to) {
				for _, e := range []*End{from, to} {
					if !live(e) && !away[e.Name] {
						away[e.Name] = true
						k.result.Unseen = append(k.result.Unseen, &v1.FlowObservation{
							From: e.Name, To: "all", Detail: e.Name + " is offline: no way from or to it was looked at",
						})
					}
				}
				continue
			}
			for _, p := range k.matrix.Ports {
				flow, ok, listener := k.matrix.wanted(from, to, p.Proto, p.First)
				if !live(listener) {
					continue // it is reported as an end of its own
				}
				plan[from.Agent] = append(plan[from.Agent], &way{
					from: from, to: listener, proto: p.Proto, port: p.First, wanted: ok, flow: flow,
				})
			}
		}
	}
	return plan
}

// listen makes all targets listen, and returns when they do. wait waits until they have ended and said on what they listened.
func (k *check) listen(ctx context.Context, plan map[string][]*way) (wait func()) {
	ports := map[string]map[string][]uint32{}
	longest := 0
	for _, list := range plan {
		longest = max(longest, len(list))
		for _, w := range list {
			if ports[w.to.Agent] == nil {
				ports[w.to.Agent] = map[string][]uint32{}
				for _, p := range k.matrix.Ports {
					ports[w.to.Agent][p.Proto] = append(ports[w.to.Agent][p.Proto], uint32(p.First))
				}
			}
		}
	}
	rounds := time.Duration((longest+agentParallel-1)/agentParallel) * time.Duration((len(plan)+atOnce-1)/atOnce)
	duration := min(maxListen, listenReady+rounds*probeTimeout)
	ctx, cancel := context.WithTimeout(ctx, duration+3*time.Second)
	var listeners, ready sync.WaitGroup
	for agent, byProto := range ports {
		ready.Add(1)
		isReady := sync.OnceFunc(ready.Done)
		listeners.Go(func() {
			defer isReady()
			task := k.task(&v1.Task_Listen{Listen: &v1.ListenTask{
				TcpPorts: byProto["tcp"], UdpPorts: byProto["udp"], Duration: durationpb.New(duration),
			}})
			res, err := k.cfg.Hub.Do(ctx, agent, task, func(p *v1.TaskProgress) {
				if p.GetMessage() == listening {
					isReady()
				}
			})
			if err != nil {
				k.cfg.Log.Warn("an agent did not listen", "node", agent, "error", err)
				return
			}
			got := map[uint16]bool{}
			for _, p := range res.GetListen().GetUdpPorts() {
				got[uint16(p)] = true
			}
			k.mu.Lock()
			k.udp[agent] = got
			k.mu.Unlock()
		})
	}
	all := make(chan struct{})
	go func() {
		ready.Wait()
		close(all)
	}()
	timer := time.NewTimer(listenReady)
	defer timer.Stop()
	select {
	case <-all:
	case <-timer.C:
	case <-ctx.Done():
	}
	return func() {
		listeners.Wait()
		cancel()
	}
}

func (k *check) task(work any) *v1.Task {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	t := &v1.Task{Id: "flows-" + hex.EncodeToString(b), NotAfter: timestamppb.New(k.cfg.Clock.Now().Add(10 * time.Second))}
	switch w := work.(type) {
	case *v1.Task_Listen:
		t.Work = w
	case *v1.Task_Probe:
		t.Work = w
	}
	return t
}

// look makes all sources open their ways, in parallel.
func (k *check) look(ctx context.Context, plan map[string][]*way) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for agent, list := range plan {
		g.Go(func() error {
			for len(list) > 0 {
				n := min(len(list), maxProbes)
				k.lookFrom(ctx, agent, list[:n])
				list = list[n:]
			}
			return nil
		})
	}
	_ = g.Wait()
}

func (k *check) lookFrom(ctx context.Context, agent string, list []*way) {
	task := &v1.ProbeTask{}
	for i, w := range list {
		p := &v1.Probe{
			Id: fmt.Sprint(i), Kind: v1.ProbeKind_PROBE_KIND_TCP, Address: w.to.Address.String(), Port: uint32(w.port),
			Timeout: durationpb.New(probeTimeout),
		}
		if w.proto == "udp" {
			p.Kind = v1.ProbeKind_PROBE_KIND_UDP
		}
		task.Probes = append(task.Probes, p)
	}
	rounds := time.Duration((len(list) + agentParallel - 1) / agentParallel)
	ctx, cancel := context.WithTimeout(ctx, rounds*probeTimeout+10*time.Second)
	defer cancel()
	res, err := k.cfg.Hub.Do(ctx, agent, k.task(&v1.Task_Probe{Probe: task}), nil)
	why := ""
	switch {
	case err != nil:
		why = err.Error()
	case res.GetError() != nil:
		why = res.GetError().GetMessage()
	}
	byID := map[string]*v1.ProbeObservation{}
	for _, o := range res.GetProbe().GetObservations() {
		byID[o.GetId()] = o
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, w := range list {
		o := byID[fmt.Sprint(i)]
		s := seen{way: w, outcome: o.GetOutcome(), detail: o.GetDetail()}
		if o == nil {
			s.detail = "no observation: " + why
		}
		k.seen = append(k.seen, s)
	}
	k.done += uint32(len(list))
	k.progress(k.done, k.total)
}
