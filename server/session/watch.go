package session

import (
	"context"
	"sync"
)

// watchers hands node events to any number of receivers; a slow one gets fewer, merged events.
type watchers struct {
	mu  sync.Mutex
	all map[*watcher]struct{}
}

type watcher struct {
	pending map[string]NodeEvent
	order   []string
	wake    chan struct{}
}

func (w *watchers) watch(ctx context.Context) <-chan NodeEvent {
	one := &watcher{pending: make(map[string]NodeEvent), wake: make(chan struct{}, 1)}
	w.mu.Lock()
	if w.all == nil {
		w.all = make(map[*watcher]struct{})
	}
	w.all[one] = struct{}{}
	w.mu.Unlock()

	out := make(chan NodeEvent)
	go func() {
		defer close(out)
		defer func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			delete(w.all, one)
		}()
		for {
			ev, ok := w.take(one)
			if !ok {
				select {
				case <-one.wake:
					continue
				case <-ctx.Done():
					return
				}
			}
			select {
			case out <- ev:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func (w *watchers) take(one *watcher) (NodeEvent, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(one.order) == 0 {
		return NodeEvent{}, false
	}
	node := one.order[0]
	one.order = one.order[1:]
	ev := one.pending[node]
	delete(one.pending, node)
	return ev, true
}

func (w *watchers) publish(ev NodeEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		p, waiting := one.pending[ev.Node]
		if !waiting {
			one.order = append(one.order, ev.Node)
		}
		one.pending[ev.Node] = NodeEvent{
			Node:         ev.Node,
			Connected:    p.Connected || ev.Connected,
			Disconnected: p.Disconnected || ev.Disconnected,
			Reported:     p.Reported || ev.Reported,
		}
		select {
		case one.wake <- struct{}{}:
		default:
		}
	}
}
