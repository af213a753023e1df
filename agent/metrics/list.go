package metrics

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/docker"
)

// Bounds of what one page says about containers.
const (
	maxContainers = 250
	maxInterfaces = 8
	maxDevices    = 8
)

const (
	// listEvery is how old the list of containers may be.
	listEvery = 10 * time.Second
	// listWait is how long a scrape waits for a new list; what is known meanwhile is good enough then.
	listWait = 300 * time.Millisecond
	// specEvery is how old limits of containers may be.
	specEvery = time.Minute
	// listLimit bounds one listing.
	listLimit = 8 * time.Second
)

// Engine is what the page asks of the container engine: *docker.Engine is one.
type Engine interface {
	Containers(ctx context.Context, labels ...string) ([]docker.Container, error)
	Inspect(ctx context.Context, id string) (docker.Detail, error)
}

// known is a running container.
type known struct {
	docker.Container
	pid         int
	groups      groups
	started     time.Time
	hostNetwork bool
	spec        spec
	specRead    time.Time
}

// list keeps the running containers.
type list struct {
	engine Engine
	reader *reader
	log    hclog.Logger

	mu      sync.Mutex
	running []known
	omitted int
	read    time.Time
	busy    chan struct{} // closed when the reading under way has ended
	failed  bool
}

func newList(engine Engine, r *reader, log hclog.Logger) *list {
	return &list{engine: engine, reader: r, log: log}
}

// get returns the running containers and how many were left out. It asks the engine when what is known is too old, and does
// not wait long for the answer.
func (l *list) get(ctx context.Context, wait time.Duration) ([]known, int) {
	if l.engine == nil {
		return nil, 0
	}
	l.mu.Lock()
	if l.busy == nil && time.Since(l.read) > listEvery {
		l.busy = make(chan struct{})
		go l.refresh(l.busy, l.running)
	}
	busy := l.busy
	l.mu.Unlock()
	if busy != nil {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-busy:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running, l.omitted
}

func (l *list) refresh(done chan struct{}, before []known) {
	ctx, cancel := context.WithTimeout(context.Background(), listLimit)
	defer cancel()
	running, omitted, err := l.ask(ctx, before)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && !l.failed {
		l.log.Debug("containers not listed", "error", err)
	}
	l.failed = err != nil
	l.running, l.omitted, l.read, l.busy = running, omitted, time.Now(), nil
	close(done)
}

// ask lists running containers. One that is known already, and whose process still is its own, is not looked at again.
func (l *list) ask(ctx context.Context, before []known) (running []known, omitted int, err error) {
	all, err := l.engine.Containers(ctx)
	if err != nil {
		return nil, 0, err
	}
	byID := make(map[string]known, len(before))
	for _, k := range before {
		byID[k.ID] = k
	}
	for _, c := range all {
		if c.State != "running" && c.State != "paused" {
			continue
		}
		if len(running) >= maxContainers {
			omitted++
			continue
		}
		k, ok := byID[c.ID]
		if ok {
			_, ok = l.reader.groupsOf(k.pid, c.ID)
		}
		if !ok {
			detail, ierr := l.engine.Inspect(ctx, c.ID)
			if ierr != nil {
				err = ierr // it may just have ended; the rest counts
				continue
			}
			g, found := l.reader.groupsOf(detail.Pid, c.ID)
			if detail.Pid <= 0 || !found {
				continue
			}
			k = known{pid: detail.Pid, groups: g, started: detail.Started, hostNetwork: l.reader.hostNetwork(detail.Pid)}
			if k.started.IsZero() {
				k.started = l.reader.started(detail.Pid)
			}
		}
		if time.Since(k.specRead) > specEvery {
			k.spec, k.specRead = l.reader.spec(k.groups), time.Now()
		}
		k.Container = c
		running = append(running, k)
	}
	return running, omitted, err
}
