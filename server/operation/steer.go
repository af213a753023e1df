package operation

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Pause lets an operation stop before its next step. Precondition unless it is at work and not being undone.
func (e *Engine) Pause(ctx context.Context, id, operator string) (*v1.Operation, error) {
	return e.steer(ctx, id, operator, "pause", func(r *record) error {
		if r.State != running || r.PausedBy != "" {
			return refuse(r, "paused")
		}
		r.PausedBy = operator
		return nil
	})
}

// Resume lets a paused operation go on. Precondition unless it is paused.
func (e *Engine) Resume(ctx context.Context, id, operator string) (*v1.Operation, error) {
	return e.steer(ctx, id, operator, "resume", func(r *record) error {
		if r.PausedBy == "" || r.State != running && r.State != paused {
			return refuse(r, "resumed")
		}
		r.State, r.PausedBy, r.RetryAt = running, "", time.Time{}
		return nil
	})
}

// Cancel stops an operation when the step at work has ended, and undoes what was done. One that is stuck is given up as it
// is: its target is free, and nothing more is undone. One that is being undone and waits for somebody stands still instead,
// so that it can be given up. Precondition for one that has ended or is being undone without a wait.
func (e *Engine) Cancel(ctx context.Context, id, operator string) (*v1.Operation, error) {
	return e.steer(ctx, id, operator, "cancel", func(r *record) error {
		switch r.State {
		case running, paused, halted:
			r.CancelBy, r.PausedBy, r.RetryAt = operator, "", time.Time{}
			r.State = running // the engine turns round before the next step
		case stuck:
			r.CancelBy, r.RetryAt = operator, time.Time{}
			r.State, r.Undoing = undoing, true
			for i := range r.Steps {
				if s := &r.Steps[i]; s.Begun && s.State != stepUndone {
					s.State, s.Begun, s.Active = stepFailed, false, false
				}
			}
			r.Message, r.Hint = "given up by "+operator+" without being undone: "+r.Message, ""
		case undoing:
			if i := r.next(); i < 0 || r.Steps[i].Active || r.Steps[i].Waits == 0 {
				return refuse(r, "canceled")
			}
			r.stand(stuck, operator+" stopped the undoing",
				"infractl operation retry "+r.ID+"; infractl operation cancel "+r.ID+" leaves it as it is")
		default:
			return refuse(r, "canceled")
		}
		return nil
	})
}

// Retry tries again what failed: the step of an operation that halted, or the undoing of one that is stuck. Precondition for
// any other.
func (e *Engine) Retry(ctx context.Context, id, operator string) (*v1.Operation, error) {
	return e.steer(ctx, id, operator, "retry", func(r *record) error {
		if r.State != halted && r.State != stuck {
			return refuse(r, "retried")
		}
		r.State = running
		if r.Undoing {
			r.State = undoing
		}
		for i := range r.Steps {
			s := &r.Steps[i]
			s.Waits = 0
			if s.State == stepFailed && !r.Undoing {
				s.State = stepQueued
			}
		}
		r.Message, r.Hint, r.RetryAt = "", "", time.Time{}
		return nil
	})
}

func refuse(r *record, what string) error {
	err := errs.New(errs.Precondition, "operation %s cannot be %s: it is %s", r.ID, what, word(r.State))
	if r.State == running && r.PausedBy != "" {
		err = errs.New(errs.Precondition, "operation %s is about to pause for %s already", r.ID, r.PausedBy)
	}
	return err.WithHint("infractl operation show %s", r.ID)
}

func (e *Engine) steer(ctx context.Context, id, operator, verb string, change func(*record) error) (*v1.Operation, error) {
	found, err := e.find(ctx, id)
	if err != nil {
		return nil, err
	}
	rec, err := e.update(ctx, found.ID, change)
	if err != nil {
		return nil, err
	}
	e.cfg.Log.Info("operation steered", "operation", rec.ID, "verb", verb, "operator", operator)
	return e.describe(&rec), nil
}

// update changes a record and tells those that wait for it.
func (e *Engine) update(ctx context.Context, id string, change func(*record) error) (record, error) {
	it, err := e.records.Update(ctx, id, func(r *record) error {
		r.Updated = e.cfg.Clock.Now().UTC()
		return change(r)
	})
	if err != nil {
		return record{}, err
	}
	e.publish(id)
	e.nudge()
	return it.Value, nil
}

// lookAgain is how often a watcher looks for what another server did; coalesce the least time between two messages to it.
const (
	lookAgain = time.Second
	coalesce  = 50 * time.Millisecond
)

// Watch sends an operation at once and after each change, until it moves no further by itself. It returns send's error as it
// is.
func (e *Engine) Watch(ctx context.Context, id string, send func(*v1.Operation) error) error {
	found, err := e.find(ctx, id)
	if err != nil {
		return err
	}
	changed, leave := e.subscribe(found.ID)
	defer leave()
	var last *v1.Operation
	for {
		now, err := e.Get(ctx, found.ID)
		if err != nil {
			return err
		}
		if !proto.Equal(now, last) {
			if err := send(now); err != nil {
				return err
			}
		}
		last = now
		if Still(now.GetState()) {
			return nil
		}
		if !pause(ctx, coalesce) {
			return ctx.Err()
		}
		again := time.NewTimer(lookAgain)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-again.C:
		}
		again.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (e *Engine) subscribe(id string) (changed chan struct{}, leave func()) {
	changed = make(chan struct{}, 1)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.watches[id] == nil {
		e.watches[id] = map[chan struct{}]struct{}{}
	}
	e.watches[id][changed] = struct{}{}
	return changed, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watches[id], changed)
		if len(e.watches[id]) == 0 {
			delete(e.watches, id)
		}
	}
}

func (e *Engine) publish(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for ch := range e.watches[id] {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
