package rollouttest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/session"
)

// Act is what a scripted agent does with a commit.
type Act int

// The acts.
const (
	Keep         Act = iota // apply, confirm, keep
	Fail                    // its own apply or verify fails
	FillDisk                // its own disk is full
	LockApt                 // its additions fail: dpkg is in somebody else's hands
	HangApt                 // its additions fail: apt does not end in time
	CloseWay                // witnesses find it closed while the commit stands
	StayClosed              // the same, and still after the revert
	CutServer               // it cannot reach the server on a new connection
	Die                     // the agent dies and comes back; the revert was done outside of it
	Degrade                 // kept, but services fail
	Vanish                  // its session ends with the task under way and does not come back by itself
	RefuseTask              // it cannot read the spec
	LoseServices            // it dies after the commit was kept and before its services
)

// Observer is told when a commit begins and ends on an agent; tests look at what stands together.
type Observer interface {
	Began(node string, task *v1.ApplyTask)
	Ended(node string, outcome v1.PhaseOutcome)
}

// Hub is a fleet of scripted agents. It outlives the Rollouts that use it, as agents outlive a restart of the server.
type Hub struct {
	fleet    *fleet.Fleet
	observer Observer
	// Slow is how long an apply takes.
	Slow time.Duration

	mu       sync.Mutex
	confirm  session.Confirmer
	agents   map[string]*agent
	tasks    map[string]*task
	watchers map[chan session.NodeEvent]struct{}
	counts   map[string]int
}

type agent struct {
	name, address string
	session       int
	online        bool
	script        []Act
	drift         bool
	closed        bool // no witness gets in
	busy          sync.Mutex
	state         *v1.HostState
	hold          chan struct{}
}

type task struct {
	node string
	done chan struct{}
	res  *v1.TaskResult
}

// NewHub returns a hub without agents. The agents' identities are kept in f.
func NewHub(f *fleet.Fleet, o Observer) *Hub {
	return &Hub{
		fleet: f, observer: o, agents: map[string]*agent{}, tasks: map[string]*task{},
		watchers: map[chan session.NodeEvent]struct{}{}, counts: map[string]int{},
	}
}

// Serve makes the agents confirm with c from now on.
func (h *Hub) Serve(c session.Confirmer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.confirm = c
}

// Enrol adds an agent, offline, with an identity.
func (h *Hub) Enrol(name, address string) {
	h.mu.Lock()
	h.agents[name] = &agent{name: name, address: address, state: &v1.HostState{}}
	h.mu.Unlock()
	_, err := h.fleet.NodeTable.Put(context.Background(), name, fleet.Node{
		Name: name, WitnessKey: "ssh-ed25519 " + name,
		Facts: fleet.Msg[*v1.HostFacts]{M: &v1.HostFacts{SshPorts: []uint32{OldPort}, SshHostKeys: []string{"ssh-ed25519 host-" + name}}},
		State: fleet.Msg[*v1.HostState]{M: &v1.HostState{}},
	}, 0)
	if err != nil {
		panic(err) // the store is in memory
	}
}

// Connect gives an agent a new session.
func (h *Hub) Connect(name string) {
	h.mu.Lock()
	a := h.agents[name]
	a.online, a.session = true, a.session+1
	h.mu.Unlock()
	h.publish(session.NodeEvent{Node: name, Connected: true})
}

// Disconnect ends an agent's session.
func (h *Hub) Disconnect(name string) {
	h.mu.Lock()
	h.agents[name].online = false
	h.mu.Unlock()
	h.publish(session.NodeEvent{Node: name, Disconnected: true})
}

// Script says what an agent does with its next commits; afterwards it keeps them.
func (h *Hub) Script(name string, acts ...Act) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.agents[name].script = acts
}

// Drift changes something on a host by hand.
func (h *Hub) Drift(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.agents[name].drift = true
}

// Degrade makes a service of a host fail by itself, and the agent report it.
func (h *Hub) Degrade(name string) {
	h.mu.Lock()
	a := h.agents[name]
	a.state.Degraded = []string{"a container does not stay up"}
	state := proto.Clone(a.state).(*v1.HostState)
	h.mu.Unlock()
	_, err := h.fleet.UpdateNode(context.Background(), name, func(n *fleet.Node) error {
		n.State.M = state
		return nil
	})
	if err != nil {
		panic(err) // the store is in memory
	}
	h.publish(session.NodeEvent{Node: name})
}

// Hold makes an agent stop in its next apply until the returned function is called.
func (h *Hub) Hold(name string) (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ch := make(chan struct{})
	h.agents[name].hold = ch
	return sync.OnceFunc(func() { close(ch) })
}

// State returns what a host has reached.
func (h *Hub) State(name string) *v1.HostState {
	h.mu.Lock()
	defer h.mu.Unlock()
	return proto.Clone(h.agents[name].state).(*v1.HostState)
}

// Count returns how many tasks of a kind ("apply", "plan", "probe") an agent got; an empty name counts all.
func (h *Hub) Count(name, kind string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if name != "" {
		return h.counts[name+" "+kind]
	}
	sum := 0
	for n := range h.agents {
		sum += h.counts[n+" "+kind]
	}
	return sum
}

func (h *Hub) publish(e session.NodeEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.watchers {
		select {
		case ch <- e:
		default: // the watcher has one waiting, and looks at everything when it gets it
		}
	}
}

// Watch implements rollout.Hub.
func (h *Hub) Watch(ctx context.Context) <-chan session.NodeEvent {
	ch := make(chan session.NodeEvent, 1)
	out := make(chan session.NodeEvent)
	h.mu.Lock()
	h.watchers[ch] = struct{}{}
	h.mu.Unlock()
	go func() {
		defer close(out)
		defer func() {
			h.mu.Lock()
			delete(h.watchers, ch)
			h.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-ch:
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

// Live implements rollout.Hub.
func (h *Hub) Live(name string) (session.LiveSession, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.agents[name]
	if a == nil || !a.online {
		return session.LiveSession{}, false
	}
	return session.LiveSession{ID: fmt.Sprintf("%s-%d", name, a.session), Node: name, Address: a.address}, true
}

// Do implements rollout.Hub.
func (h *Hub) Do(ctx context.Context, name string, msg *v1.Task, progress func(*v1.TaskProgress)) (*v1.TaskResult, error) {
	h.mu.Lock()
	a := h.agents[name]
	if a == nil || !a.online {
		h.mu.Unlock()
		return nil, errs.New(errs.Unavailable, "the node is away").At("node " + name)
	}
	if h.tasks[msg.GetId()] != nil || len(msg.GetId()) > 64 {
		h.mu.Unlock()
		return nil, errs.New(errs.Exists, "task %s exists", msg.GetId())
	}
	t := &task{node: name, done: make(chan struct{})}
	h.tasks[msg.GetId()] = t
	h.counts[name+" "+kindOf(msg)]++
	h.mu.Unlock()
	go func() {
		res := h.work(a, msg)
		if res == nil {
			return // the agent vanished; Finish ends the task
		}
		h.finish(a, msg.GetId(), res)
	}()
	if progress != nil && msg.GetApply() != nil {
		progress(&v1.TaskProgress{TaskId: msg.GetId(), Phase: v1.Phase_PHASE_WIDENING, Message: "at work"})
	}
	return h.wait(ctx, t)
}

func kindOf(msg *v1.Task) string {
	switch {
	case msg.GetApply() != nil:
		return "apply"
	case msg.GetPlan() != nil:
		return "plan"
	case msg.GetProbe() != nil:
		return "probe"
	}
	return "listen"
}

// Resume implements rollout.Hub.
func (h *Hub) Resume(ctx context.Context, id string, _ func(*v1.TaskProgress)) (*v1.TaskResult, error) {
	h.mu.Lock()
	t := h.tasks[id]
	h.mu.Unlock()
	if t == nil {
		return nil, errs.New(errs.NotFound, "there is no task %s", id)
	}
	return h.wait(ctx, t)
}

func (h *Hub) wait(ctx context.Context, t *task) (*v1.TaskResult, error) {
	select {
	case <-t.done:
		return t.res, nil
	case <-ctx.Done():
		return nil, errs.Wrap("wait for task", ctx.Err())
	}
}

// finish stores a task's result and the state that comes with it.
func (h *Hub) finish(a *agent, id string, res *v1.TaskResult) {
	res.TaskId = id
	if s := res.GetApply().GetState(); s != nil {
		_, err := h.fleet.UpdateNode(context.Background(), a.name, func(n *fleet.Node) error {
			n.State.M = proto.Clone(s).(*v1.HostState)
			return nil
		})
		if err != nil && !errs.Is(err, errs.NotFound) {
			panic(err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.tasks[id]; t.res == nil {
		t.res = res
		close(t.done)
	}
}
