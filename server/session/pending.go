package session

import (
	"context"
	"maps"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

const (
	// maxWaiting is how many machines may wait for approval.
	maxWaiting = 100
	// gone is how long a waiting machine may be silent before its place goes to another.
	gone = time.Hour
	// pollWrite is how often the last sight of a waiting machine is written.
	pollWrite = 10 * time.Minute
)

// wait puts a machine into the pending lane, or leaves it there.
func (e *Enrolment) wait(ctx context.Context, req *request, known store.Item[fleet.Enrolment], tok *store.Item[fleet.Token], name, note string) (*v1.EnrolResponse, error) {
	now := e.cfg.Clock.Now()
	if known.Value.ID != "" && known.Value.Note == note && now.Sub(known.Value.LastSeen) < pollWrite {
		e.polled(req.GetEnrolmentId(), now)
		return pendingAnswer(tok != nil), nil
	}
	if known.Value.ID == "" {
		if err := e.makeRoom(ctx, now); err != nil {
			return nil, retryLater(e.refusal(ctx, access.ReasonRate, name, err), retryFull)
		}
	}
	en := e.record(req, known.Value)
	en.Node, en.Note = name, note
	op, err := e.cfg.Fleet.Enrolments.PutOp(en.ID, en, known.Revision)
	if err != nil {
		return nil, err
	}
	ops := []store.Op{op}
	if tok != nil && tok.Value.Enrolment == "" { // the token is this machine's from now on
		t := tok.Value
		t.Enrolment, t.KeyHash = en.ID, req.keyHash
		if op, err = e.cfg.Fleet.Tokens.PutOp(t.ID, t, tok.Revision); err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	if err := e.cfg.Fleet.Write(ctx, ops...); err != nil {
		return nil, err
	}
	e.polled(en.ID, now)
	if known.Value.ID == "" || known.Value.Note != note {
		e.cfg.Log.Info("a machine waits for approval", "enrolment", en.ID, "asked", en.Asked, "address", en.Address, "note", note)
		e.cfg.Recorder.Write(ctx, auditEntry(access.CallerFrom(ctx), v1.EnrolmentService_Enrol_FullMethodName, name,
			"pending", "enrolment "+en.ID+" waits: "+note))
	}
	return pendingAnswer(tok != nil), nil
}

// polled notes that a machine with a place in the lane asked; one without a place takes no memory.
func (e *Enrolment) polled(enrolment string, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.polls[enrolment] = now
}

// LastPoll returns when a waiting machine last asked, as far as this process knows; the zero time if never.
func (e *Enrolment) LastPoll(enrolment string) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.polls[enrolment]
}

// makeRoom returns Exhausted when the lane is full of machines that still ask; those that went away lose their place.
func (e *Enrolment) makeRoom(ctx context.Context, now time.Time) error {
	items, err := e.cfg.Fleet.Enrolments.List(ctx, store.ListOptions{})
	if err != nil {
		return err
	}
	waiting := 0
	var oldest *store.Item[fleet.Enrolment]
	seen := func(it *store.Item[fleet.Enrolment]) time.Time {
		if t := e.LastPoll(it.Value.ID); t.After(it.Value.LastSeen) {
			return t
		}
		return it.Value.LastSeen
	}
	for i := range items {
		it := &items[i]
		if it.Value.State == fleet.EnrolmentIssued {
			continue
		}
		waiting++
		if oldest == nil || seen(it).Before(seen(oldest)) {
			oldest = it
		}
	}
	if waiting < maxWaiting {
		return nil
	}
	if now.Sub(seen(oldest)) < gone {
		return errs.New(errs.Exhausted, "%d machines wait for approval already", waiting).
			WithHint("infractl node list; then approve or forget those that wait")
	}
	e.mu.Lock()
	delete(e.polls, oldest.Value.ID)
	e.mu.Unlock()
	return e.cfg.Fleet.Enrolments.Delete(ctx, oldest.Name, oldest.Revision)
}

// Prune forgets issued enrolments and tokens that nobody can use any more.
func (e *Enrolment) Prune(ctx context.Context) error {
	now := e.cfg.Clock.Now()
	enrolments, err := e.cfg.Fleet.Enrolments.List(ctx, store.ListOptions{})
	if err != nil {
		return err
	}
	tokens, err := e.cfg.Fleet.Tokens.List(ctx, store.ListOptions{})
	if err != nil {
		return err
	}
	var ops []store.Op
	waiting := make(map[string]bool)
	for _, it := range enrolments {
		waiting[it.Name] = it.Value.State != fleet.EnrolmentIssued
		if it.Value.State == fleet.EnrolmentIssued && now.Sub(it.Value.Created) > 2*fleet.MaxTokenLife {
			ops = append(ops, store.Delete{Kind: fleet.KindEnrolment, Name: it.Name, Expect: it.Revision})
		}
	}
	for _, it := range tokens {
		if now.Sub(it.Value.Expires) > 2*fleet.MaxTokenLife {
			ops = append(ops, store.Delete{Kind: fleet.KindToken, Name: it.Name, Expect: it.Revision})
		}
	}
	e.mu.Lock()
	maps.DeleteFunc(e.polls, func(id string, _ time.Time) bool { return !waiting[id] })
	e.mu.Unlock()
	if len(ops) == 0 {
		return nil
	}
	return e.cfg.Fleet.Write(ctx, ops[:min(len(ops), store.MaxOps)]...)
}
