package rollout

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// settle takes in how a work ended.
func (x *run) settle(ctx context.Context, res result) error {
	w := res.work
	w.cancel()
	delete(x.active, w.node)
	x.locks.free(w.node, w.ref.Witnesses)
	if ctx.Err() != nil {
		return ctx.Err() // this server stops, and the task goes on without it
	}
	if res.lost {
		return x.update(ctx, w.node, func(n *nodeRecord) {
			n.State = v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING
			n.Message = "no contact; what was under way ends or reverts by itself, and is taken up when the node connects"
		})
	}
	if res.err != nil {
		return x.unanswered(ctx, w, errorOf(res.err))
	}
	if e := res.res.GetError(); e != nil {
		return x.unanswered(ctx, w, errorFrom(e))
	}
	apply := res.res.GetApply()
	if err := x.r.endCommit(ctx, w.ref.ID, outcomeOf(apply)); err != nil {
		return err
	}
	x.r.endDrive(w.ref.ID)
	return x.outcome(ctx, w, apply, res.blame)
}

// unanswered handles a task that did not come to a result. Absence and overload are never taken for failure; a refusal of
// the content is.
func (x *run) unanswered(ctx context.Context, w *work, e *taskError) error {
	if err := x.r.endCommit(ctx, w.ref.ID, "not begun: "+e.Message); err != nil {
		return err
	}
	x.r.endDrive(w.ref.ID)
	switch errs.Code(e.Code) {
	case errs.Invalid, errs.Denied:
		x.failed(w.node, fmt.Sprintf("%s refuses what it was asked: %s", w.node, e.Message))
		return x.update(ctx, w.node, func(n *nodeRecord) {
			n.Task, n.Error, n.State = nil, e, v1.NodeRolloutState_NODE_ROLLOUT_STATE_FAILED
			n.Message = "refuses what it was asked"
		})
	case errs.Unavailable, errs.NotFound, errs.Canceled:
		return x.update(ctx, w.node, func(n *nodeRecord) {
			n.Task, n.State = nil, v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING
			n.Message = "could not be reached; tried again"
			n.RetryAt = x.r.cfg.Clock.Now().Add(x.r.times.BackoffMin)
			if w.ref.Witnessed && n.Attempts > 0 {
				n.Attempts--
			}
		})
	}
	return x.retry(ctx, w, v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING, "tried again", e, 0)
}

// retry puts a node back with a pause that grows with its attempts.
func (x *run) retry(ctx context.Context, w *work, state v1.NodeRolloutState, message string, e *taskError, changes int) error {
	return x.update(ctx, w.node, func(n *nodeRecord) {
		wait := x.r.times.BackoffMin << min(max(n.Attempts, 1)-1, 16)
		n.Task, n.State, n.Message, n.Error = nil, state, message, e
		n.RetryAt = x.r.cfg.Clock.Now().Add(min(wait, x.r.times.BackoffMax))
		n.Changes += uint32(changes)
	})
}

// outcome takes in what the phases of a pass came to.
func (x *run) outcome(ctx context.Context, w *work, apply *v1.ApplyResult, b blame) error {
	changes, services := 0, false
	var degraded *v1.PhaseResult
	for _, p := range apply.GetPhases() {
		switch p.GetOutcome() {
		case v1.PhaseOutcome_PHASE_OUTCOME_FAILED:
			e := errorFrom(p.GetError())
			if passes(p.GetPhase(), e) {
				x.r.audit(ctx, "commit.failed", "commit/"+w.ref.ID, w.node, e.Code, phaseWord(p.GetPhase())+": "+e.Message)
				return x.retry(ctx, w, v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING, e.Message, e, changes)
			}
			return x.fail(ctx, w, p, e)
		case v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED:
			if b.failed {
				return x.fail(ctx, w, p, &taskError{Code: string(errs.RolledBack), Message: b.why})
			}
			message := "reverted: " + b.why
			x.r.audit(ctx, "commit.unconfirmed", "commit/"+w.ref.ID, w.node, string(errs.RolledBack), b.why)
			return x.retry(ctx, w, v1.NodeRolloutState_NODE_ROLLOUT_STATE_UNCONFIRMED, message, errorFrom(p.GetError()), changes)
		case v1.PhaseOutcome_PHASE_OUTCOME_WAITING:
			if !w.ref.Witnessed {
				return x.update(ctx, w.node, func(n *nodeRecord) {
					n.Task, n.State, n.Changes = nil, v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING, n.Changes+uint32(changes)
					n.Message = "waits for a witness before its commit"
				})
			}
			return x.retry(ctx, w, v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING, clip(p.GetError().GetMessage()), errorFrom(p.GetError()), changes)
		case v1.PhaseOutcome_PHASE_OUTCOME_DEGRADED:
			degraded = p
		}
		services = services || p.GetPhase() == v1.Phase_PHASE_SERVICES
		changes += len(p.GetChanges())
	}
	switch {
	case len(apply.GetPhases()) == 0:
		return x.retry(ctx, w, v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING, "the agent told of no phase", nil, 0)
	case w.ref.Pass == v1.Pass_PASS_WIDEN && !services:
		// The agent died between its commit and its services: what was kept stays, and the pass is made once more.
		return x.retry(ctx, w, v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING, "the agent was restarted; going on", nil, changes)
	}
	if w.ref.Pass == v1.Pass_PASS_WIDEN {
		return x.widened(ctx, w, changes, degraded)
	}
	return x.narrowed(ctx, w, changes, apply.GetState().GetWidened())
}

func (x *run) widened(ctx context.Context, w *work, changes int, degraded *v1.PhaseResult) error {
	k := x.known[w.node]
	k.widened, k.everKept = w.ref.Digest, true
	x.known[w.node] = k
	return x.update(ctx, w.node, func(n *nodeRecord) {
		n.Task, n.Attempts, n.Error, n.Message, n.Degraded = nil, 0, nil, "", ""
		n.State, n.WidenDigest = v1.NodeRolloutState_NODE_ROLLOUT_STATE_WIDENED, w.ref.Digest
		n.Changes += uint32(changes)
		if degraded != nil {
			n.Error = errorFrom(degraded.GetError()) // it is shown as degraded when pass 2 is done too
			n.Degraded = "services failed: " + clip(degraded.GetError().GetMessage())
			n.Message = n.Degraded
		}
	})
}

func (x *run) narrowed(ctx context.Context, w *work, changes int, widened []string) error {
	stand, err := x.r.standings.PutOp(w.node, standing{Digest: w.ref.Digest, Laggards: w.ref.Laggards}, store.Any)
	if err != nil {
		return err
	}
	return x.update(ctx, w.node, func(n *nodeRecord) {
		n.Task, n.Attempts, n.Message = nil, 0, n.Degraded
		n.State, n.NarrowDigest, n.Laggards = v1.NodeRolloutState_NODE_ROLLOUT_STATE_DONE, w.ref.Digest, w.ref.Laggards
		n.Widened = widened
		n.Changes += uint32(changes)
		if n.Degraded != "" {
			n.State = v1.NodeRolloutState_NODE_ROLLOUT_STATE_DEGRADED
		} else {
			n.Error = nil
		}
	}, stand)
}

// fail notes a failure: the content is known-bad on that node, and the rollout goes no further.
func (x *run) fail(ctx context.Context, w *work, p *v1.PhaseResult, e *taskError) error {
	if e == nil {
		e = &taskError{Code: string(errs.Internal), Message: "failed without a reason"}
	}
	phase := phaseWord(p.GetPhase())
	if hash := w.ref.Hashes[p.GetPhase()]; hash != "" {
		err := x.r.cfg.Fleet.AddKnownBad(ctx, w.node, fleet.KnownBad{
			Hash: hash, Phase: phase, Reason: clip(e.Message), Time: x.r.cfg.Clock.Now().UTC(), SiteRevision: x.h.Revision,
		})
		if err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
	}
	x.failed(w.node, fmt.Sprintf("%s failed on %s: %s", phase, w.node, e.Message))
	x.r.audit(ctx, "commit.failed", "commit/"+w.ref.ID, w.node, string(errs.RolledBack), phase+": "+e.Message)
	return x.update(ctx, w.node, func(n *nodeRecord) {
		n.Task, n.Error, n.State = nil, e, v1.NodeRolloutState_NODE_ROLLOUT_STATE_FAILED
		n.Message = phase + " failed and was reverted; it is not tried again until infractl node clear " + w.node
	})
}

// passes reports whether a failure says nothing of the content and is tried again: a full disk anywhere; before the commit also
// what the host had to wait for in vain, a mirror that does not answer or dpkg in somebody else's hands.
func passes(phase v1.Phase, e *taskError) bool {
	if e == nil {
		return false
	}
	switch errs.Code(e.Code) {
	case errs.Exhausted:
		return true
	case errs.Unavailable, errs.Timeout:
		return phase == v1.Phase_PHASE_ADDITIONS
	}
	return false
}

func phaseWord(p v1.Phase) string {
	switch p {
	case v1.Phase_PHASE_ADDITIONS:
		return "additions"
	case v1.Phase_PHASE_WIDENING:
		return "widening"
	case v1.Phase_PHASE_SERVICES:
		return "services"
	case v1.Phase_PHASE_NARROWING:
		return "narrowing"
	}
	return "apply"
}

// knownBad returns what is known to be bad of what a pass would bring, nil for nothing.
func (x *run) knownBad(node *fleet.Node, pass v1.Pass) *fleet.KnownBad {
	if len(node.KnownBad) == 0 {
		return nil
	}
	for _, hash := range hashes(x.view.Nodes[node.Name].Spec, pass) {
		if i := slices.IndexFunc(node.KnownBad, func(b fleet.KnownBad) bool { return b.Hash == hash }); i >= 0 {
			return &node.KnownBad[i]
		}
	}
	return nil
}

// refuseKnownBad ends the rollout as it ended when the content failed: those that come after would meet the same.
func (x *run) refuseKnownBad(ctx context.Context, name string, bad *fleet.KnownBad) error {
	x.failed(name, fmt.Sprintf("%s of this content failed on %s before: %s", bad.Phase, name, bad.Reason))
	return x.update(ctx, name, func(n *nodeRecord) {
		n.State = v1.NodeRolloutState_NODE_ROLLOUT_STATE_FAILED
		n.Message = "this content failed before and is not sent again until infractl node clear " + name
		n.Error = &taskError{
			Code: string(errs.Precondition), Message: bad.Phase + " failed before: " + bad.Reason,
			Hint: "change the site file, or infractl node clear " + name,
		}
	})
}

func errorOf(err error) *taskError {
	return &taskError{Code: string(errs.CodeOf(err)), Message: clip(err.Error()), Hint: errs.HintOf(err)}
}

// outcomeOf is a pass's result in a word, for the commit's record.
func outcomeOf(apply *v1.ApplyResult) string {
	for _, p := range apply.GetPhases() {
		switch p.GetOutcome() {
		case v1.PhaseOutcome_PHASE_OUTCOME_KEPT:
			return "kept"
		case v1.PhaseOutcome_PHASE_OUTCOME_FAILED:
			return "failed"
		case v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED:
			return "unconfirmed"
		case v1.PhaseOutcome_PHASE_OUTCOME_WAITING:
			return "waiting"
		}
	}
	return "in sync"
}

// unconfirmed returns the phase whose commit was not confirmed, nil when there is none.
func unconfirmed(res *v1.TaskResult) *v1.PhaseResult {
	for _, p := range res.GetApply().GetPhases() {
		if p.GetOutcome() == v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED {
			return p
		}
	}
	return nil
}

// blame says what an unconfirmed commit was due to.
type blame struct {
	// failed says that it was its content.
	failed bool
	why    string
}

// reviewTries is how often a witness looks again after a revert.
const reviewTries = 3

// blame finds out whether a commit that was not confirmed failed by its content: a way did not open although this server and
// the witnesses were there throughout, and opens again now that the commit is reverted.
func (r *Rollouts) blame(ctx context.Context, id string, phase *v1.PhaseResult) blame {
	asked := r.driveOf(id)
	it, err := r.commits.Get(ctx, id)
	if err != nil {
		return blame{why: "its record cannot be read: " + err.Error()}
	}
	rec := it.Value
	switch {
	case rec.Server != r.instance:
		return blame{why: "the server was restarted meanwhile"}
	case rec.Refused != "":
		return blame{why: rec.Refused}
	case errs.Code(phase.GetError().GetCode()) == errs.RolledBack:
		return blame{why: clip(phase.GetError().GetMessage())}
	}
	for _, n := range rec.Needs {
		if session, live := r.sessionOf(n.From); n.From != "" && (!live || session != n.Session) {
			return blame{why: "the witness " + n.From + " was away meanwhile"}
		}
	}
	return r.review(ctx, &rec, asked)
}

// review makes the witnesses look again at what they saw closed; all of them, when the agent could not even ask.
func (r *Rollouts) review(ctx context.Context, rec *commitRecord, asked *drive) blame {
	why := "no new connection to the server came from the node"
	var again []need
	for _, n := range rec.Needs {
		switch {
		case n.Report != nil && asked != nil:
			continue
		case n.From != "":
			again = append(again, n)
		case asked != nil:
			return blame{why: "the operator reported no open way"}
		}
	}
	if asked != nil {
		if len(again) == 0 {
			return blame{why: "the confirmation did not reach the agent in time"}
		}
		for _, n := range again {
			saw, ok := asked.sawClosed(n.ID)
			if !ok {
				// Overload is never taken for failure.
				return blame{why: "the witness " + n.From + " did not look in time"}
			}
			why = fmt.Sprintf("a way did not open: %s (%s saw: %s)", n.Reason, n.From, saw)
		}
	}
	return r.lookAgain(ctx, again, why)
}

// lookAgain tells failure from what was closed anyway: what opens now was closed by the commit.
func (r *Rollouts) lookAgain(ctx context.Context, again []need, why string) blame {
	for _, n := range again {
		open := false
		for try := 0; try < max(reviewTries, len(n.Ports)) && !open; try++ {
			if try > 0 && !pause(ctx, r.times.ProbeRetry) {
				break
			}
			open, _, _ = r.probe(ctx, n, try, time.Now().Add(r.times.ProbeTimeout))
		}
		if !open {
			return blame{why: why + "; and it is still closed after the revert"}
		}
	}
	return blame{failed: true, why: why}
}
