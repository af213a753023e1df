package rollout

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/session"
	"github.com/infractl/infractl/server/store"
)

var _ session.Confirmer = (*Rollouts)(nil)

// maxObservations bounds what an operator may report at once.
const maxObservations = 64

// Confirm answers an agent's question, on a new connection, whether a commit may be kept. It decides from what is stored: the
// commit's digest is the wanted one, no newer revision wants another, and all its witnesses' reports are in. The first
// question makes the missing witnesses look. Errors: Denied for a commit of another node.
func (r *Rollouts) Confirm(ctx context.Context, node string, req *v1.ConfirmRequest) (*v1.ConfirmResponse, error) {
	id := req.GetCommitId()
	if store.CheckName(id) != nil {
		return nil, errs.New(errs.Invalid, "%.40q is not the id of a commit", id)
	}
	it, err := r.commits.Get(ctx, id)
	if errs.Is(err, errs.NotFound) {
		return refuse("the server knows no commit " + id), nil
	}
	if err != nil {
		return nil, errs.Wrap("read commit", err)
	}
	rec := it.Value
	if rec.Node != node {
		return nil, errs.New(errs.Denied, "commit %s is not one of %s", id, node)
	}
	if rec.SpecDigest != req.GetSpecDigest() {
		return refuse("the commit is about " + req.GetSpecDigest() + ", and " + rec.SpecDigest + " is wanted"), nil
	}
	if answer := decided(&rec); answer != nil {
		return answer, nil
	}
	d := r.startDrive(rec, req.GetRemaining().AsDuration())
	return d.wait(ctx, min(r.times.ConfirmWait, req.GetRemaining().AsDuration()))
}

// decided returns the answer that a commit's record gives, nil while it gives none.
func decided(rec *commitRecord) *v1.ConfirmResponse {
	switch {
	case rec.Refused != "":
		return refuse(rec.Refused)
	case rec.Outcome != "" && !rec.Confirmed:
		return refuse("the commit has ended: " + rec.Outcome)
	case rec.Confirmed:
		return &v1.ConfirmResponse{Decision: v1.ConfirmDecision_CONFIRM_DECISION_CONFIRMED}
	}
	return nil
}

func refuse(reason string) *v1.ConfirmResponse {
	return &v1.ConfirmResponse{Decision: v1.ConfirmDecision_CONFIRM_DECISION_REFUSED, Reason: reason}
}

// supersededBy returns why a commit is not wanted any more, "" while it is: a newer site revision wants another digest. A new
// resource revision alone does not undo what was begun; the node is brought up to it afterwards.
func (r *Rollouts) supersededBy(ctx context.Context, rec *commitRecord) (string, error) {
	current, err := r.cfg.Revisions.Current(ctx)
	if err != nil {
		return "", errs.Wrap("read newest revision", err)
	}
	if current == rec.Revision {
		return "", nil
	}
	view, err := r.cfg.Revisions.View(ctx, current)
	if err != nil {
		return "", err
	}
	if n, ok := view.Nodes[rec.Node]; ok && n.Digest == rec.SpecDigest {
		return "", nil
	}
	return fmt.Sprintf("revision %d takes the place of revision %d", current, rec.Revision), nil
}

// judge writes into rec what can be decided now.
func (r *Rollouts) judge(ctx context.Context, rec *commitRecord) error {
	if rec.Confirmed || rec.Refused != "" || rec.Outcome != "" {
		return nil
	}
	why, err := r.supersededBy(ctx, rec)
	if err != nil {
		return err
	}
	if why != "" {
		rec.Refused = "superseded: " + why
		return nil
	}
	rec.Confirmed = len(rec.waitingFor()) == 0
	return nil
}

// store writes reports into a commit and decides it, as one change.
func (r *Rollouts) store(ctx context.Context, id string, reports map[string]report) (commitRecord, error) {
	it, err := r.commits.Update(ctx, id, func(rec *commitRecord) error {
		for i := range rec.Needs {
			if rep, ok := reports[rec.Needs[i].ID]; ok && rec.Needs[i].Report == nil && rec.Outcome == "" {
				rec.Needs[i].Report = &rep
			}
		}
		return r.judge(ctx, rec)
	})
	return it.Value, errs.Wrap("store witness reports", err)
}

// ReportWitness stores what an operator saw in place of a witness that does not exist. Errors: NotFound for an unknown
// commit, Precondition for one that has ended, Invalid for an observation that nobody asked the operator for.
func (r *Rollouts) ReportWitness(ctx context.Context, operator string, req *v1.ReportWitnessRequest) error {
	id := req.GetCommitId()
	if store.CheckName(id) != nil || len(req.GetObservations()) > maxObservations {
		return errs.New(errs.Invalid, "the report names no commit, or has more than %d observations", maxObservations)
	}
	it, err := r.commits.Get(ctx, id)
	if errs.Is(err, errs.NotFound) {
		return errs.New(errs.NotFound, "there is no commit %q", id)
	}
	if err != nil {
		return errs.Wrap("read commit", err)
	}
	rec := it.Value
	if rec.Outcome != "" || rec.Refused != "" {
		return errs.New(errs.Precondition, "commit %s has ended", id)
	}
	mine := map[string]need{}
	for _, n := range rec.Needs {
		if n.From == "" {
			mine[n.ID] = n
		}
	}
	reports := map[string]report{}
	var seen []string
	for _, o := range req.GetObservations() {
		if _, ok := mine[o.GetId()]; !ok {
			return errs.New(errs.Invalid, "commit %s asks the operator for no %.40q", id, o.GetId())
		}
		seen = append(seen, fmt.Sprintf("%s %s", o.GetId(), outcomeWord(o.GetOutcome())))
		if opened(mine[o.GetId()].Kind, o.GetOutcome()) {
			reports[o.GetId()] = report{By: operator, Detail: clip(o.GetDetail()), Time: r.cfg.Clock.Now().UTC()}
		}
	}
	r.audit(ctx, "commit.witness", "commit/"+id, rec.Node, "ok", "by operator "+operator+": "+strings.Join(seen, ", "))
	if len(reports) == 0 {
		return nil
	}
	updated, err := r.store(ctx, id, reports)
	if err != nil {
		return err
	}
	if d := r.driveOf(id); d != nil {
		d.set(updated)
	}
	return nil
}

func outcomeWord(o v1.ProbeOutcome) string {
	return strings.ToLower(strings.TrimPrefix(o.String(), "PROBE_OUTCOME_"))
}

// clip bounds a text that a peer sent.
func clip(s string) string {
	const most = 500
	s = strings.ToValidUTF8(s, "?")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// endCommit notes what the agent said in the end; reports that come later change nothing.
func (r *Rollouts) endCommit(ctx context.Context, id, outcome string) error {
	_, err := r.commits.Update(ctx, id, func(rec *commitRecord) error {
		rec.Outcome = outcome
		return nil
	})
	if errs.Is(err, errs.NotFound) {
		return nil // a pass without witnesses has no commit
	}
	return errs.Wrap("end commit", err)
}

// until is a deadline as a time from now, never negative.
func until(t time.Time) time.Duration { return max(0, time.Until(t)) }
