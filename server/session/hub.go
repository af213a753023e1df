package session

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// HubConfig is what a Hub needs.
type HubConfig struct {
	Store store.Store
	Fleet *fleet.Fleet
	Clock clock.Clock
	Log   hclog.Logger
	// Registry gets the metrics of sessions and tasks; nil leaves them out.
	Registry prometheus.Registerer
}

// Hub holds the live sessions and the tasks sent over them. Its methods may be called from many goroutines.
type Hub struct {
	cfg      HubConfig
	tasks    *store.Table[taskRecord]
	watchers watchers

	mu      sync.Mutex
	live    map[string]*conn
	seen    map[string]presence
	pending map[string]*task // by task id; those without a stored result
}

// presence is what heartbeats say; it is flushed to the node's record now and then.
type presence struct {
	at    time.Time
	skew  time.Duration
	dirty bool
}

// NewHub returns a hub that knows the unfinished tasks in the store.
func NewHub(ctx context.Context, cfg HubConfig) (*Hub, error) {
	h := &Hub{
		cfg:     cfg,
		tasks:   store.NewTable(cfg.Store, KindTask, store.JSON[taskRecord]()),
		live:    make(map[string]*conn),
		seen:    make(map[string]presence),
		pending: make(map[string]*task),
	}
	items, err := h.tasks.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, errs.Wrap("load unfinished tasks", err)
	}
	for _, it := range items {
		if len(it.Value.Result) > 0 {
			continue
		}
		t, err := it.Value.task()
		if err != nil {
			cfg.Log.Error("a stored task cannot be read and is passed over", "task", it.Name, "error", err)
			continue
		}
		h.pending[t.id] = t
	}
	h.dropLate(cfg.Clock.Now())
	if cfg.Registry != nil {
		cfg.Registry.MustRegister(
			gauge("infractl_sessions", "Live sessions of agents.", func() int { return len(h.live) }, &h.mu),
			gauge("infractl_tasks_pending", "Tasks without a result.", func() int { return len(h.pending) }, &h.mu),
		)
	}
	return h, nil
}

func gauge(name, help string, read func() int, mu *sync.Mutex) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return float64(read())
	})
}

// Live returns the live session of a node, if there is one.
func (h *Hub) Live(node string) (LiveSession, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.live[node]; c != nil {
		return c.info, true
	}
	return LiveSession{}, false
}

// LastSeen returns when a node was last heard by this process, and how far its clock was ahead; the zero time if never. It
// is ahead of the node's record, which is written only now and then.
func (h *Hub) LastSeen(node string) (time.Time, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.seen[node]
	return p.at, p.skew
}

// Watch sends an event for every node that connects, disconnects or reports, until ctx ends; then the channel is closed.
func (h *Hub) Watch(ctx context.Context) <-chan NodeEvent { return h.watchers.watch(ctx) }

// Cut ends a node's live session at once. The agent is told that the server ended it, or that it is revoked if it is.
func (h *Hub) Cut(node string) {
	h.mu.Lock()
	c := h.live[node]
	h.mu.Unlock()
	if c != nil {
		c.end(errs.New(errs.Unavailable, "the server ended the session"))
	}
}

// Touched tells watchers that a node's record was changed by somebody else than its agent.
func (h *Hub) Touched(node string) { h.watchers.publish(NodeEvent{Node: node, Reported: true}) }

// EndAll ends all live sessions because the server stops; agents come back by themselves.
func (h *Hub) EndAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.live {
		c.end(errs.New(errs.Unavailable, "the server stops"))
	}
}

// attach makes c the live session of its node. A former one is ended, and the tasks without a result are sent again.
func (h *Hub) attach(c *conn) {
	node := c.info.Node
	now := h.cfg.Clock.Now()
	h.mu.Lock()
	former := h.live[node]
	h.live[node] = c
	for _, t := range h.pending {
		if t.node == node && now.Before(t.notAfter) {
			c.sendTask(t.msg)
		}
	}
	h.mu.Unlock()
	if former != nil {
		former.end(errs.New(errs.Unavailable, "a newer session of this node took the place of this one"))
	}
	h.watchers.publish(NodeEvent{Node: node, Connected: true})
}

// detach forgets c, unless a newer session is in its place already.
func (h *Hub) detach(c *conn) {
	node := c.info.Node
	h.mu.Lock()
	current := h.live[node] == c
	if current {
		delete(h.live, node)
	}
	h.mu.Unlock()
	if current {
		h.watchers.publish(NodeEvent{Node: node, Disconnected: true})
	}
}

// heard notes a sign of life.
func (h *Hub) heard(node string, skew time.Duration, hasSkew bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.seen[node]
	p.at, p.dirty = h.cfg.Clock.Now(), true
	if hasSkew {
		p.skew = skew
	}
	h.seen[node] = p
}

// How often last-seen times go to the store, and how often old tasks are looked for.
const (
	flushEvery = 10 * time.Minute
	pruneEvery = 10 * time.Minute
)

// Run writes last-seen times now and then and removes old tasks, until ctx ends; it writes once more then.
func (h *Hub) Run(ctx context.Context) error {
	flush, prune := time.NewTicker(flushEvery), time.NewTicker(pruneEvery)
	defer flush.Stop()
	defer prune.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			h.flush(last)
			return nil
		case <-flush.C:
			h.flush(ctx)
		case <-prune.C:
			if err := h.prune(ctx); err != nil {
				h.cfg.Log.Warn("old tasks not removed", "error", err)
			}
		}
	}
}

func (h *Hub) flush(ctx context.Context) {
	h.mu.Lock()
	todo := make(map[string]presence)
	for node, p := range h.seen {
		if p.dirty {
			todo[node] = p
			h.seen[node] = presence{at: p.at, skew: p.skew}
		}
	}
	h.mu.Unlock()
	for node, p := range maps.All(todo) {
		_, err := h.cfg.Fleet.UpdateNode(ctx, node, func(n *fleet.Node) error {
			// A time to come was written while the clock was wrong.
			if p.at.After(n.LastSeen) || n.LastSeen.After(h.cfg.Clock.Now().Add(time.Minute)) {
				n.LastSeen, n.Skew = p.at, p.skew
			}
			return nil
		})
		if err != nil && !errs.Is(err, errs.NotFound) {
			h.cfg.Log.Warn("last-seen time not written", "node", node, "error", err)
		}
	}
}

// conn is one live session's sending side.
type conn struct {
	info LiveSession

	mu      sync.Mutex
	control []*v1.ConnectResponse
	work    []*v1.ConnectResponse
	wake    chan struct{}

	once  sync.Once
	ended chan struct{}
	cause error
}

func newConn(info LiveSession) *conn {
	return &conn{info: info, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

// end ends the session; the first cause counts.
func (c *conn) end(cause error) {
	c.once.Do(func() {
		c.cause = cause
		close(c.ended)
	})
}

// sendControl queues a message that goes before all tasks.
func (c *conn) sendControl(m *v1.ConnectResponse) {
	c.mu.Lock()
	c.control = append(c.control, m)
	c.mu.Unlock()
	c.signal()
}

func (c *conn) sendTask(t *v1.Task) {
	c.mu.Lock()
	c.work = append(c.work, &v1.ConnectResponse{Message: &v1.ConnectResponse_Task{Task: t}})
	c.mu.Unlock()
	c.signal()
}

func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// next returns the message to send now, nil when there is none.
func (c *conn) next() *v1.ConnectResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	queue := &c.control
	if len(*queue) == 0 {
		queue = &c.work
	}
	if len(*queue) == 0 {
		return nil
	}
	m := (*queue)[0]
	(*queue)[0] = nil
	*queue = (*queue)[1:]
	return m
}
