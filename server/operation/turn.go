package operation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// errMoved says that a record is not any more what a turn was given for: it is looked at again.
var errMoved = errors.New("the operation was changed meanwhile")

// turn makes one move of an operation. Errors are of the store: the step's own are written down.
func (e *Engine) turn(ctx context.Context, rec record) error {
	i := rec.next()
	// A step that a former server began is brought to its end before anything else happens.
	rests := i < 0 || !rec.Steps[i].Active
	switch {
	case rec.CancelBy != "" && !rec.Undoing && rests:
		_, err := e.change(ctx, &rec, (*record).turnRound)
		return err
	case rec.PausedBy != "" && !rec.Undoing && rests && i >= 0:
		_, err := e.change(ctx, &rec, func(r *record) { r.State, r.Message = paused, "paused by "+r.PausedBy })
		return err
	case i < 0:
		return e.end(ctx, &rec)
	}
	steps, err := e.steps(&rec)
	if err != nil {
		message := err.Error()
		_, err := e.change(ctx, &rec, func(r *record) {
			r.stand(stuck, message, "run the infractl-server that began it, then: infractl operation retry "+r.ID)
		})
		return err
	}
	return e.step(ctx, &rec, i, &steps[i])
}

// change writes one move down, and into rec, unless somebody steered the operation since rec was read.
func (e *Engine) change(ctx context.Context, rec *record, move func(*record)) (moved bool, err error) {
	now, err := e.update(ctx, rec.ID, func(r *record) error {
		if r.State != rec.State || r.Undoing != rec.Undoing || r.PausedBy != rec.PausedBy || r.CancelBy != rec.CancelBy {
			return errMoved
		}
		move(r)
		return nil
	})
	if errors.Is(err, errMoved) {
		return false, nil
	}
	if err == nil {
		*rec = now
	}
	return err == nil, err
}

// step runs a step forwards or backwards, and writes down what came of it.
func (e *Engine) step(ctx context.Context, rec *record, i int, def *Step) error {
	back := rec.Undoing
	began, err := e.change(ctx, rec, func(r *record) {
		s := &r.Steps[i]
		if !s.Active { // one that a former server began is the same attempt
			s.Active, s.Started, s.Ended, s.Message = true, e.now(), time.Time{}, ""
			if back {
				s.Undos++
			} else {
				s.Attempts++
				s.Begun = true
			}
		}
		s.State, r.RetryAt = stepRunning, time.Time{}
	})
	if err != nil || !began {
		return err
	}
	run := newRun(e, rec, i, back)
	err = run.call(ctx, def)
	if ctx.Err() != nil {
		return ctx.Err() // this server stops; the attempt goes on with the next one
	}
	_, uerr := e.update(ctx, rec.ID, func(r *record) error {
		s := &r.Steps[i]
		s.Active, s.Ended, s.Message, s.Tasks = false, e.now(), run.last(), run.open()
		r.settle(i, def, err, e.now())
		return nil
	})
	return uerr
}

// settle takes in what a run of a step came to.
func (r *record) settle(i int, def *Step, err error, now time.Time) {
	s := &r.Steps[i]
	if err != nil {
		s.Message = clip(err.Error())
	}
	switch {
	case err == nil && r.Undoing:
		s.State, s.Waits, s.Tasks = stepUndone, 0, nil
	case err == nil:
		s.State, s.Waits = stepDone, 0
	case transient(err) && (r.Undoing || def.Retry.Attempts == 0 || int(s.Waits)+1 < def.Retry.Attempts):
		s.State, s.Message = stepQueued, "waits: "+s.Message
		r.RetryAt = now.Add(def.Retry.pause(s.Waits))
		s.Waits++
	case r.Undoing:
		s.State = stepFailed
		r.stand(stuck, "step "+s.Name+" could not be undone: "+s.Message,
			"mend the cause, then: infractl operation retry "+r.ID+"; infractl operation cancel "+r.ID+" leaves it as it is")
	case def.OnFailure == Stop:
		s.State = stepFailed
		hint := "infractl operation retry " + r.ID + ", or infractl operation cancel " + r.ID + " to undo it"
		if h := errs.HintOf(err); h != "" {
			hint = h + "; then: " + hint
		}
		r.stand(halted, "step "+s.Name+" failed: "+s.Message, hint)
	default:
		s.State = stepFailed
		r.Message, r.Hint = "step "+s.Name+" failed: "+s.Message, errs.HintOf(err)
		r.turnRound()
	}
}

// turnRound makes the operation go backwards.
func (r *record) turnRound() {
	r.State, r.Undoing, r.PausedBy, r.RetryAt = undoing, true, "", time.Time{}
	for i := range r.Steps {
		r.Steps[i].Waits = 0
	}
}

// stand makes the operation wait for a person.
func (r *record) stand(state v1.OperationState, message, hint string) {
	r.State, r.Message, r.Hint, r.RetryAt = state, message, hint, time.Time{}
}

// end ends an operation that has no step before it, and frees its target in the same write.
func (e *Engine) end(ctx context.Context, rec *record) error {
	for {
		it, err := e.records.Get(ctx, rec.ID)
		if err != nil {
			return errs.Wrap("end operation", err)
		}
		r := it.Value
		if r.next() >= 0 || r.State != running && r.State != undoing {
			return nil
		}
		switch {
		case !r.Undoing:
			r.State, r.Message, r.Hint = succeeded, "", ""
		case r.CancelBy != "":
			r.State = canceled
			if r.Message == "" {
				r.Message = "canceled by " + r.CancelBy + "; what was done is undone"
			}
		default:
			r.State = failed
		}
		for i := range r.Steps {
			if r.Undoing && r.Steps[i].State == stepQueued {
				r.Steps[i].State = stepSkipped
			}
		}
		r.Ended, r.Updated = e.now(), e.now()
		put, err := e.records.PutOp(r.ID, r, it.Revision)
		if err != nil {
			return err
		}
		_, err = e.cfg.Store.Write(ctx, put, store.Delete{Kind: KindTarget, Name: r.Target, Expect: store.Any})
		if errs.Is(err, errs.Conflict) {
			continue
		}
		if err != nil {
			return errs.Wrap("end operation", err)
		}
		result := "ok"
		if r.State == failed {
			result = string(errs.RolledBack)
		}
		e.audit(ctx, "system", "operation.end", r.ID, result, strings.TrimSuffix(word(r.State)+": "+r.Message, ": "))
		e.cfg.Log.Info("operation ended", "operation", r.ID, "kind", r.Kind, "target", r.Target, "state", word(r.State))
		e.publish(r.ID)
		return nil
	}
}

// transient reports whether an error says that the other side is away or busy, which is no failure.
func transient(err error) bool {
	switch errs.CodeOf(err) {
	case errs.Unavailable, errs.Timeout, errs.Exhausted, errs.Canceled:
		return true
	}
	return false
}

func (r Retry) pause(waits uint32) time.Duration {
	least, most := r.Min, r.Max
	if least == 0 {
		least = time.Second
	}
	if most == 0 {
		most = max(time.Minute, least)
	}
	return min(most, least<<min(waits, 16))
}

func (e *Engine) now() time.Time { return e.cfg.Clock.Now().UTC() }

// word is a state in words, for people.
func word(s v1.OperationState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "OPERATION_STATE_"))
}

// clip bounds a text that a peer may have sent.
func clip(s string) string {
	const most = 500
	s = strings.ToValidUTF8(s, "?")
	if len(s) > most {
		s = fmt.Sprintf("%s...", strings.ToValidUTF8(s[:most], ""))
	}
	return s
}
