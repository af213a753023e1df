package store

import (
	"context"
	"slices"
	"sync"
)

// maxPending is how many events wait for one watcher before those of a kind become one "any of this kind".
const maxPending = 1024

// Hub distributes events to watchers; implementations of Store share it. A publisher is never held up by a watcher.
type Hub struct {
	mu     sync.Mutex
	subs   map[*subscriber]struct{}
	done   chan struct{}
	closed bool
}

// NewHub returns a hub without watchers.
func NewHub() *Hub {
	return &Hub{subs: make(map[*subscriber]struct{}), done: make(chan struct{})}
}

// Watch is Watcher.Watch.
func (h *Hub) Watch(ctx context.Context, kinds ...Kind) (<-chan Event, error) {
	if err := CheckWatch(kinds); err != nil {
		return nil, err
	}
	s := &subscriber{
		kinds:   slices.Clone(kinds),
		pending: make(map[eventKey]Revision),
		wake:    make(chan struct{}, 1),
		out:     make(chan Event),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, Closed()
	}
	h.subs[s] = struct{}{}
	go func() {
		defer close(s.out)
		defer h.remove(s)
		s.deliver(ctx, h.done)
	}()
	return s.out, nil
}

// Publish tells the watchers of changes that are durable, in the order of their revisions.
func (h *Hub) Publish(events ...Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		s.add(events)
	}
}

// Close ends all watches.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		close(h.done)
	}
}

func (h *Hub) remove(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, s)
}

type eventKey struct {
	kind Kind
	name string
}

// subscriber holds what one watcher has not received yet: at most one event per record.
type subscriber struct {
	kinds []Kind
	wake  chan struct{} // holds one token while something is pending
	out   chan Event

	mu      sync.Mutex
	order   []eventKey
	pending map[eventKey]Revision
}

func (s *subscriber) add(events []Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range events {
		if slices.Contains(s.kinds, e.Kind) {
			s.put(eventKey{e.Kind, e.Name}, e.Revision)
		}
	}
	if len(s.order) > 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (s *subscriber) put(key eventKey, rev Revision) {
	all := eventKey{kind: key.kind}
	if _, ok := s.pending[all]; ok {
		key = all
	}
	if _, ok := s.pending[key]; !ok {
		if len(s.order) >= maxPending {
			s.order = slices.DeleteFunc(s.order, func(k eventKey) bool {
				if k.kind != key.kind {
					return false
				}
				delete(s.pending, k)
				return true
			})
			key = all
		}
		s.order = append(s.order, key)
	}
	s.pending[key] = rev
}

func (s *subscriber) next() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.order) == 0 {
		return Event{}, false
	}
	key := s.order[0]
	s.order = s.order[1:]
	rev := s.pending[key]
	delete(s.pending, key)
	return Event{Kind: key.kind, Name: key.name, Revision: rev}, true
}

func (s *subscriber) deliver(ctx context.Context, done <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-done:
			return
		case <-s.wake:
		}
		for e, ok := s.next(); ok; e, ok = s.next() {
			select {
			case s.out <- e:
			case <-ctx.Done():
				return
			case <-done:
				return
			}
		}
	}
}
