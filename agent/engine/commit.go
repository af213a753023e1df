package engine

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Times of the confirm loop.
const (
	confirmPause   = 150 * time.Millisecond // between two tries
	confirmTimeout = 5 * time.Second        // of one try
	// revertAhead is how long before the armed revert the agent begins its own: the timer is for a dead agent.
	revertAhead = 200 * time.Millisecond
)

// commit makes a phase that could lock somebody out, and reports whether the host now is as the phase wants it.
func (a *apply) commit(ctx context.Context, phase v1.Phase, stage provider.Stage) bool {
	started := a.clock.Now()
	failed := v1.PhaseOutcome_PHASE_OUTCOME_FAILED
	steps, err := a.plan(ctx, a.spec, stage, a.task.GetLaggards())
	if err != nil {
		a.fail(ctx, phase, failed, nil, started, err)
		return false
	}
	if len(steps) == 0 {
		a.keepAll(ctx, stage)
		a.add(phase, v1.PhaseOutcome_PHASE_OUTCOME_IN_SYNC, nil, started, nil)
		return true
	}
	if !a.task.GetWitnessed() {
		a.add(phase, v1.PhaseOutcome_PHASE_OUTCOME_WAITING, steps, started,
			errs.New(errs.Precondition, "the commit needs witnesses and has none"))
		return false
	}
	window := min(max(a.task.GetWindow().AsDuration(), minWindow), maxWindow)
	if a.task.GetWindow() == nil {
		window = DefaultWindow
	}
	a.progress(phase, "snapshot")
	if err := a.arm(ctx, stage, steps, window); err != nil {
		a.fail(ctx, phase, failed, steps, started, err)
		return false
	}
	// From here on a canceled task or a stopping agent must not leave the commit half done: it goes on to its end, and the
	// armed revert is there for a dead one.
	ctx = context.WithoutCancel(ctx)
	deadline := time.Now().Add(window - revertAhead)
	if outcome, err := a.attempt(ctx, phase, steps, window, deadline); err != nil {
		a.revert(ctx)
		a.add(phase, outcome, steps, started, err)
		return false
	}
	won, err := a.records.move(a.task.GetCommitId(), armed, kept)
	if err != nil || !won {
		if err == nil {
			err = errs.New(errs.Timeout, "the confirmation came too late; the revert had begun")
		}
		a.revert(ctx)
		a.add(phase, v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED, steps, started, err)
		return false
	}
	a.disarm()
	if err := a.finish(ctx, a.task.GetCommitId()); err != nil {
		// The host is right until its next boot, and Recover tries again then.
		a.log.Error("a kept commit could not be made durable", "commit", a.task.GetCommitId(), "error", err)
	}
	a.add(phase, v1.PhaseOutcome_PHASE_OUTCOME_KEPT, steps, started, nil)
	return true
}

// arm takes the snapshots, arms the revert outside the agent and writes the record, in this order. Nothing is applied before.
func (a *apply) arm(ctx context.Context, stage provider.Stage, steps []provider.Step, window time.Duration) error {
	rec := record{
		ID: a.task.GetCommitId(), TaskID: a.taskID, Stage: stage, SpecDigest: a.task.GetSpecDigest(), Spec: a.task.GetSpec(),
		SiteRevision: a.task.GetSiteRevision(), ResourceRevision: a.task.GetResourceRevision(),
		Laggards: a.task.GetLaggards(), Started: a.clock.Now(), Window: window,
	}
	rec.Steps = make([]stepRecord, len(steps))
	err := each(steps, func(i int, s provider.Step) error {
		snapshot, err := s.Snapshot(ctx)
		rec.Steps[i] = stepRecord{Provider: s.Name(), Snapshot: snapshot}
		return errs.Wrap("snapshot "+s.Name(), err)
	})
	if err != nil {
		return err
	}
	a.records.prune()
	// The timer first: a record that is armed then has a revert behind it whatever happens to this process, and a timer
	// without a record finds nothing to do.
	if err := a.armer.Arm(ctx, rec.ID, window); err != nil {
		return err
	}
	if err := a.records.create(rec); err != nil {
		a.disarm()
		return err
	}
	return nil
}

// attempt applies, and then verifies here and asks for the confirmation at once: both only look, and both must agree. Its error
// comes with the outcome that it means.
func (a *apply) attempt(ctx context.Context, phase v1.Phase, steps []provider.Step, window time.Duration, deadline time.Time) (v1.PhaseOutcome, error) {
	// Own work ends with the window at the latest, so that it does not work against the revert that begins then.
	own, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	failure := func(err error) (v1.PhaseOutcome, error) {
		if own.Err() != nil { // a slow host is not wrong content
			return v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED,
				errs.New(errs.RolledBack, "the change took longer than its window of %s: %w", window, err)
		}
		return v1.PhaseOutcome_PHASE_OUTCOME_FAILED, err
	}
	if err := a.applySteps(own, phase, steps); err != nil {
		return failure(err)
	}
	asking, stop := context.WithCancel(ctx)
	defer stop()
	verified := make(chan error, 1)
	go func() {
		err := each(steps, func(_ int, s provider.Step) error { return errs.Wrap("verify "+s.Name(), s.Verify(own)) })
		if err != nil {
			stop()
		}
		verified <- err
	}()
	confirmed := a.confirm(asking, phase, deadline)
	if err := <-verified; err != nil {
		return failure(err)
	}
	if confirmed != nil {
		return v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED, confirmed
	}
	return v1.PhaseOutcome_PHASE_OUTCOME_KEPT, nil
}

func (a *apply) applySteps(ctx context.Context, phase v1.Phase, steps []provider.Step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		a.progress(phase, s.Name())
		if err := s.Apply(ctx); err != nil {
			return errs.Wrap("apply "+s.Name(), err)
		}
	}
	return ctx.Err()
}

// each calls f, which only reads, for all steps at once.
func each(steps []provider.Step, f func(int, provider.Step) error) error {
	var g errgroup.Group
	for i, s := range steps {
		g.Go(func() error { return f(i, s) })
	}
	return g.Wait()
}

// confirm asks until the server decides or the window ends.
func (a *apply) confirm(ctx context.Context, phase v1.Phase, deadline time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	a.progress(phase, "verify and confirm")
	var last error
	for {
		answer, err := a.askOnce(ctx, deadline)
		switch {
		case err != nil && ctx.Err() != nil && last != nil:
			// The window's end cut this try off: what the server said before is the reason.
		case err != nil:
			last = errs.Wrap("the server does not answer on a new connection", err)
		case answer.GetDecision() == v1.ConfirmDecision_CONFIRM_DECISION_CONFIRMED:
			return nil
		case answer.GetDecision() == v1.ConfirmDecision_CONFIRM_DECISION_REFUSED:
			return errs.New(errs.Precondition, "the server refuses the commit: %s", answer.GetReason())
		default:
			last = errs.New(errs.Timeout, "no report from witness %v", answer.GetWaitingFor())
		}
		select {
		case <-ctx.Done():
			return errs.New(errs.Timeout, "not confirmed in time: %w", last)
		case <-time.After(confirmPause):
		}
	}
}

func (a *apply) askOnce(ctx context.Context, deadline time.Time) (*v1.ConfirmResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	return a.confirmer.Confirm(ctx, &v1.ConfirmRequest{
		CommitId: a.task.GetCommitId(), SpecDigest: a.task.GetSpecDigest(), Remaining: durationpb.New(time.Until(deadline)),
	})
}

// revert brings the former state back now, together with whoever else does.
func (a *apply) revert(ctx context.Context) {
	id := a.task.GetCommitId()
	before, err := a.records.state(id)
	if err == nil {
		err = a.reverter.Revert(ctx, id)
	}
	if err == nil && before != armed {
		// The armed revert began while this apply was still at work, and may have missed what was done after it looked.
		err = a.reverter.again(ctx, id)
	}
	if err != nil {
		a.log.Error("revert failed; the armed one and the next boot will try again", "error", err)
		return
	}
	a.disarm()
}

func (a *apply) disarm() {
	id := a.task.GetCommitId()
	a.background.Add(1)
	go func() {
		defer a.background.Done()
		if err := a.armer.Disarm(context.Background(), id); err != nil {
			a.log.Debug("could not disarm a revert; it will find nothing to do", "commit", id, "error", err)
		}
	}()
}

// finish makes a kept commit durable.
func (e *Engine) finish(ctx context.Context, id string) error {
	rec, err := e.records.load(id, kept)
	if err != nil {
		return err
	}
	spec, err := decodeStored(rec)
	if err != nil {
		return err
	}
	for _, s := range rec.Steps {
		p, ok := e.reverter.providers[s.Provider]
		if !ok {
			continue
		}
		if err := p.Keep(ctx, spec, rec.Stage, rec.Laggards); err != nil {
			return errs.Wrap("keep "+s.Provider, err)
		}
	}
	_, err = e.records.move(id, kept, done)
	return err
}

// keepAll makes durable what is in sync already: a host on which a commit was kept but its boot files were lost.
func (a *apply) keepAll(ctx context.Context, stage provider.Stage) {
	for _, p := range a.providers {
		if !p.At(stage) {
			continue
		}
		if err := p.Keep(ctx, a.spec, stage, a.task.GetLaggards()); err != nil {
			a.log.Error("could not make the present state durable", "provider", p.Name(), "error", err)
		}
	}
}
