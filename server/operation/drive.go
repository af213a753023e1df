package operation

import (
	"context"
	"sync"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// Run carries operations out, while this server is the leader, until ctx ends. What was under way when a server stopped goes
// on.
func (e *Engine) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var pump sync.WaitGroup
	defer pump.Wait()
	defer cancel()
	changes, err := e.cfg.Store.Watch(ctx, KindOperation)
	if err != nil {
		return errs.Wrap("watch operations", err)
	}
	pump.Go(func() {
		for range changes {
			e.nudge()
		}
	})
	store.Lead(ctx, store.LeadConfig{
		Leases: e.cfg.Store, Name: leaseName, Holder: e.cfg.Holder, Life: e.cfg.Lease, Log: e.cfg.Log,
	}, e.lead)
	return nil
}

// lead gives turns to operations until ctx ends. A turn is one step of one operation.
func (e *Engine) lead(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var turns sync.WaitGroup
	defer turns.Wait()
	defer cancel()
	failed := make(chan error, 1)
	for ctx.Err() == nil {
		next, err := e.hand(ctx, &turns, failed)
		if err != nil {
			return err
		}
		if next == 0 {
			next = time.Hour
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-e.wake:
		case <-timer.C:
		case err = <-failed:
		}
		timer.Stop()
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// hand gives a turn to every operation that may go on. It returns when to look again without an event, 0 for never.
func (e *Engine) hand(ctx context.Context, turns *sync.WaitGroup, failed chan<- error) (next time.Duration, err error) {
	open, err := e.targets.List(ctx, store.ListOptions{})
	if err != nil {
		return 0, errs.Wrap("list operations", err)
	}
	for _, it := range open {
		id := it.Value.ID
		if e.isBusy(id) {
			continue
		}
		got, err := e.records.Get(ctx, id)
		if err != nil {
			return 0, errs.Wrap("read operation", err)
		}
		rec := got.Value
		if rec.State != running && rec.State != undoing {
			continue
		}
		if wait := rec.RetryAt.Sub(e.cfg.Clock.Now()); wait > 0 && rec.PausedBy == "" && rec.CancelBy == "" {
			if next == 0 || wait < next {
				next = wait
			}
			continue
		}
		if !e.take(&rec) {
			continue
		}
		turns.Go(func() {
			err := e.turn(ctx, rec)
			e.leave(id)
			if err != nil && ctx.Err() == nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	return next, nil
}

func (e *Engine) isBusy(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.busy[id]
	return ok
}

// take counts an operation as busy, if the limits let it.
func (e *Engine) take(rec *record) bool {
	node := ""
	if i := rec.next(); i >= 0 {
		node = rec.Steps[i].Node
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	same := 0
	for _, n := range e.busy {
		if n == node {
			same++
		}
	}
	if len(e.busy) >= e.cfg.Parallel || node != "" && same >= e.cfg.PerNode {
		return false
	}
	e.busy[rec.ID] = node
	return true
}

func (e *Engine) leave(id string) {
	e.mu.Lock()
	delete(e.busy, id)
	delete(e.said, id)
	e.mu.Unlock()
	e.publish(id)
	e.nudge()
}

// next returns the step whose turn it is, -1 when there is none.
func (r *record) next() int {
	if r.Undoing {
		for i := len(r.Steps) - 1; i >= 0; i-- {
			if r.Steps[i].Begun && r.Steps[i].State != stepUndone {
				return i
			}
		}
		return -1
	}
	for i := range r.Steps {
		if s := r.Steps[i].State; s != stepDone && s != stepSkipped {
			return i
		}
	}
	return -1
}
