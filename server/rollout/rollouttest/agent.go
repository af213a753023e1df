package rollouttest

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// work is what an agent does with a task; nil when it vanished.
func (h *Hub) work(a *agent, msg *v1.Task) *v1.TaskResult {
	switch w := msg.GetWork().(type) {
	case *v1.Task_Probe:
		return h.look(w.Probe)
	case *v1.Task_Plan:
		h.mu.Lock()
		defer h.mu.Unlock()
		var changes []*v1.Change
		if a.drift {
			changes = append(changes, &v1.Change{Provider: "timesync", Subject: "chrony", Risk: v1.Risk_RISK_RESTART})
		}
		if a.state.GetNarrowedDigest() != w.Plan.GetSpecDigest() {
			changes = append(changes, &v1.Change{Provider: "firewall", Subject: "rules", Risk: v1.Risk_RISK_LOCKOUT})
		}
		return &v1.TaskResult{Outcome: &v1.TaskResult_Plan{Plan: &v1.PlanResult{Changes: changes}}}
	case *v1.Task_Apply:
		a.busy.Lock()
		defer a.busy.Unlock()
		return h.apply(a, w.Apply)
	}
	return &v1.TaskResult{Outcome: &v1.TaskResult_Listen{Listen: &v1.ListenResult{}}}
}

// look answers a witness: a login gets in unless the target is closed.
func (h *Hub) look(probe *v1.ProbeTask) *v1.TaskResult {
	h.mu.Lock()
	defer h.mu.Unlock()
	res := &v1.ProbeResult{}
	for _, p := range probe.GetProbes() {
		o := &v1.ProbeObservation{Id: p.GetId(), Outcome: v1.ProbeOutcome_PROBE_OUTCOME_OPEN}
		for _, a := range h.agents {
			if a.closed && (a.address == p.GetAddress() || p.GetAddress() == "" && a.name == "relay") {
				o.Outcome = v1.ProbeOutcome_PROBE_OUTCOME_DROPPED
			}
		}
		res.Observations = append(res.Observations, o)
	}
	return &v1.TaskResult{Outcome: &v1.TaskResult_Probe{Probe: res}}
}

func (h *Hub) apply(a *agent, t *v1.ApplyTask) *v1.TaskResult {
	phase := v1.Phase_PHASE_WIDENING
	if t.GetPass() == v1.Pass_PASS_NARROW {
		phase = v1.Phase_PHASE_NARROWING
	}
	h.mu.Lock()
	hold, inSync := a.hold, !a.drift && a.state.GetWidenedDigest() == t.GetSpecDigest()
	if phase == v1.Phase_PHASE_NARROWING {
		inSync = !a.drift && a.state.GetNarrowedDigest() == t.GetSpecDigest()
	}
	act := Keep
	if len(a.script) > 0 && (!inSync && t.GetWitnessed() || a.script[0] == RefuseTask) {
		act, a.script = a.script[0], a.script[1:]
	}
	h.mu.Unlock()
	if act == RefuseTask {
		return &v1.TaskResult{Error: &v1.TaskError{Code: string(errs.Invalid), Message: "host spec has a field that this version does not know"}}
	}
	res := &v1.ApplyResult{}
	add := func(p v1.Phase, o v1.PhaseOutcome, e *v1.TaskError) {
		r := &v1.PhaseResult{Phase: p, Outcome: o, Error: e}
		if o == v1.PhaseOutcome_PHASE_OUTCOME_KEPT || o == v1.PhaseOutcome_PHASE_OUTCOME_APPLIED {
			r.Changes = []*v1.Change{{Provider: "firewall", Subject: "rules"}}
		}
		res.Phases = append(res.Phases, r)
	}
	if e := unprepared(act); e != nil && phase == v1.Phase_PHASE_WIDENING {
		add(v1.Phase_PHASE_ADDITIONS, v1.PhaseOutcome_PHASE_OUTCOME_FAILED, e)
		return &v1.TaskResult{Outcome: &v1.TaskResult_Apply{Apply: res}}
	}
	if phase == v1.Phase_PHASE_WIDENING {
		add(v1.Phase_PHASE_ADDITIONS, v1.PhaseOutcome_PHASE_OUTCOME_IN_SYNC, nil)
	}
	outcome := v1.PhaseOutcome_PHASE_OUTCOME_IN_SYNC
	var failure *v1.TaskError
	switch {
	case inSync:
	case !t.GetWitnessed():
		outcome = v1.PhaseOutcome_PHASE_OUTCOME_WAITING
	default:
		h.observer.Began(a.name, t)
		if hold != nil {
			<-hold
		}
		time.Sleep(h.Slow)
		outcome, failure = h.commit(a, t, act)
		h.observer.Ended(a.name, outcome)
		if act == Vanish {
			return nil
		}
	}
	add(phase, outcome, failure)
	good := outcome == v1.PhaseOutcome_PHASE_OUTCOME_IN_SYNC || outcome == v1.PhaseOutcome_PHASE_OUTCOME_KEPT
	h.mu.Lock()
	defer h.mu.Unlock()
	a.state.SpecDigest, a.state.SiteRevision = t.GetSpecDigest(), t.GetSiteRevision()
	switch {
	case !good:
	case phase == v1.Phase_PHASE_WIDENING:
		a.state.WidenedDigest = t.GetSpecDigest()
		switch act {
		case Degrade:
			add(v1.Phase_PHASE_SERVICES, v1.PhaseOutcome_PHASE_OUTCOME_DEGRADED, &v1.TaskError{Message: "a container does not start"})
		case LoseServices:
		default:
			add(v1.Phase_PHASE_SERVICES, v1.PhaseOutcome_PHASE_OUTCOME_IN_SYNC, nil)
		}
	default:
		a.drift = false
		a.state.Widened = nil
		if len(t.GetLaggards()) == 0 {
			a.state.NarrowedDigest = t.GetSpecDigest()
		} else {
			a.state.Widened = []string{"old rules towards laggards"}
		}
	}
	res.State = proto.Clone(a.state).(*v1.HostState)
	return &v1.TaskResult{Outcome: &v1.TaskResult_Apply{Apply: res}}
}

// unprepared is how additions fail, nil when they do not.
func unprepared(act Act) *v1.TaskError {
	switch act {
	case LockApt:
		return &v1.TaskError{Code: string(errs.Unavailable), Message: "packages: dpkg is in use by another program"}
	case HangApt:
		return &v1.TaskError{Code: string(errs.Timeout), Message: "packages: install did not end in time"}
	}
	return nil
}

// commit plays the part of the engine: the change stands, the server is asked, and without a yes all is as before.
func (h *Hub) commit(a *agent, t *v1.ApplyTask, act Act) (v1.PhaseOutcome, *v1.TaskError) {
	window := t.GetWindow().AsDuration()
	deadline := time.Now().Add(window)
	unconfirmed := func(code errs.Code, why string) (v1.PhaseOutcome, *v1.TaskError) {
		return v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED, &v1.TaskError{Code: string(code), Message: why}
	}
	switch act {
	case Fail:
		return v1.PhaseOutcome_PHASE_OUTCOME_FAILED, &v1.TaskError{Code: string(errs.Internal), Message: "verify firewall: nothing listens"}
	case FillDisk:
		return v1.PhaseOutcome_PHASE_OUTCOME_FAILED, &v1.TaskError{Code: string(errs.Exhausted), Message: "write armed.json: the disk is full"}
	case CutServer:
		time.Sleep(window)
		return unconfirmed(errs.Timeout, "not confirmed in time: the server does not answer on a new connection")
	case Die:
		h.Disconnect(a.name)
		time.Sleep(window / 4)
		h.Connect(a.name)
		return unconfirmed(errs.RolledBack, "the agent or its host stopped during the commit; the former state is back")
	case Vanish:
		h.Disconnect(a.name)
		return unconfirmed(errs.RolledBack, "")
	case CloseWay, StayClosed:
		h.setClosed(a, true)
		defer h.setClosed(a, act == StayClosed)
	}
	var last string
	for time.Now().Before(deadline) {
		h.mu.Lock()
		c := h.confirm
		h.mu.Unlock()
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		answer, err := c.Confirm(ctx, a.name, &v1.ConfirmRequest{
			CommitId: t.GetCommitId(), SpecDigest: t.GetSpecDigest(), Remaining: durationpb.New(time.Until(deadline)),
		})
		cancel()
		switch {
		case err != nil:
			last = err.Error()
		case answer.GetDecision() == v1.ConfirmDecision_CONFIRM_DECISION_CONFIRMED:
			return v1.PhaseOutcome_PHASE_OUTCOME_KEPT, nil
		case answer.GetDecision() == v1.ConfirmDecision_CONFIRM_DECISION_REFUSED:
			return unconfirmed(errs.Precondition, "the server refuses the commit: "+answer.GetReason())
		}
		time.Sleep(2 * time.Millisecond)
	}
	return unconfirmed(errs.Timeout, "not confirmed in time: "+last)
}

func (h *Hub) setClosed(a *agent, closed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a.closed = closed
}

// Open undoes StayClosed.
func (h *Hub) Open(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.agents[name].closed = false
}

// Finish lets an agent that vanished report that its commit was reverted.
func (h *Hub) Finish(name string) {
	h.mu.Lock()
	a := h.agents[name]
	var id string
	for task, t := range h.tasks {
		if t.node == name && t.res == nil {
			id = task
		}
	}
	state := proto.Clone(a.state).(*v1.HostState)
	h.mu.Unlock()
	h.finish(a, id, &v1.TaskResult{Outcome: &v1.TaskResult_Apply{Apply: &v1.ApplyResult{
		Phases: []*v1.PhaseResult{{
			Phase: v1.Phase_PHASE_WIDENING, Outcome: v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED,
			Error: &v1.TaskError{Code: string(errs.RolledBack), Message: "the agent stopped during the commit"},
		}},
		State: state,
	}}})
}
