package rollout

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// lookAgain is how often a watcher looks at the store for what another server did.
const lookAgain = time.Second

// topic is one rollout that somebody watches.
type topic struct {
	subs map[*subscriber]struct{}
}

// subscriber is one watcher. Its fields are guarded by Rollouts.mu.
type subscriber struct {
	changed  chan struct{}
	operator bool
	// requests are for the operator, by commit.
	requests map[string]*v1.WitnessRequest
}

func (s *subscriber) poke() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// publish tells the watchers of a rollout that it changed.
func (r *Rollouts) publish(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.topics[id]; t != nil {
		for s := range t.subs {
			s.poke()
		}
	}
}

// operatorPresent reports whether somebody who may take a witness's place watches the rollout.
func (r *Rollouts) operatorPresent(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.topics[id]; t != nil {
		for s := range t.subs {
			if s.operator {
				return true
			}
		}
	}
	return false
}

// askOperator asks those who watch the rollout to take a witness's place.
func (r *Rollouts) askOperator(id string, req *v1.WitnessRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.topics[id]; t != nil {
		for s := range t.subs {
			if s.operator {
				s.requests[req.GetCommitId()] = req
				s.poke()
			}
		}
	}
}

func (r *Rollouts) subscribe(id string, operator bool) (s *subscriber, leave func()) {
	s = &subscriber{changed: make(chan struct{}, 1), operator: operator, requests: map[string]*v1.WitnessRequest{}}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.topics[id]
	if t == nil {
		t = &topic{subs: map[*subscriber]struct{}{}}
		r.topics[id] = t
	}
	t.subs[s] = struct{}{}
	return s, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(t.subs, s)
		if len(t.subs) == 0 && r.topics[id] == t {
			delete(r.topics, id)
		}
	}
}

// WatchRequest says what to watch.
type WatchRequest struct {
	// ID is the rollout, empty for the newest.
	ID string
	// Operator says that the watcher may take a witness's place, and is asked to.
	Operator bool
}

// Watch sends the rollout at once and after each change, with what an operator is asked for, until it has ended. Changes in
// quick succession are sent as one. It returns send's error as it is.
func (r *Rollouts) Watch(ctx context.Context, req WatchRequest, send func(*v1.WatchRolloutResponse) error) error {
	h, err := r.header(ctx, req.ID)
	if err != nil {
		return err
	}
	sub, leave := r.subscribe(h.ID, req.Operator)
	defer leave()
	r.nudge() // a commit may have waited for an operator to come
	var last *v1.Rollout
	for {
		now, err := r.Get(ctx, h.ID)
		if err != nil {
			return err
		}
		asks := r.takeRequests(sub)
		if !proto.Equal(now, last) && len(asks) == 0 {
			asks = append(asks, nil)
		}
		for _, ask := range asks {
			if err := send(&v1.WatchRolloutResponse{Rollout: now, WitnessRequest: ask}); err != nil {
				return err
			}
		}
		last = now
		if Ended(now.GetState()) {
			return nil
		}
		if !pause(ctx, r.times.Coalesce) {
			return ctx.Err()
		}
		again := time.NewTimer(lookAgain)
		select {
		case <-ctx.Done():
		case <-sub.changed:
		case <-again.C:
		}
		again.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (r *Rollouts) takeRequests(s *subscriber) []*v1.WitnessRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*v1.WitnessRequest
	for id, req := range s.requests {
		out = append(out, req)
		delete(s.requests, id)
	}
	return out
}
