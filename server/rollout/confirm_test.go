package rollout_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/rollout/rollouttest"
)

// alone is a site of one node, whose login witness nobody can be.
func alone() rollouttest.Plan {
	return rollouttest.Plan{
		Window: 400 * time.Millisecond, Content: map[string]string{},
		Members: []rollouttest.Member{{Name: "first", Critical: true, Witnesses: []site.Witness{rollouttest.Login(), rollouttest.ToServer()}}},
		Waves:   []site.Wave{{Number: 1, Nodes: []string{"first"}, MaxUnavailable: 1}},
	}
}

// operate watches a rollout as an operator who sees every way as it is told to.
func (r *rig) operate(id string, seen v1.ProbeOutcome) (asked func() []*v1.Probe, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var probes []*v1.Probe
	go func() {
		defer close(done)
		_ = r.rollouts.Watch(ctx, rollout.WatchRequest{ID: id, Operator: true}, func(m *v1.WatchRolloutResponse) error {
			req := m.GetWitnessRequest()
			if req == nil {
				return nil
			}
			probes = append(probes, req.GetProbes()...)
			report := &v1.ReportWitnessRequest{CommitId: req.GetCommitId()}
			for _, p := range req.GetProbes() {
				report.Observations = append(report.Observations, &v1.ProbeObservation{Id: p.GetId(), Outcome: seen})
			}
			_ = r.rollouts.ReportWitness(ctx, "operator/anna", report)
			return nil
		})
	}()
	stop = func() {
		cancel()
		<-done
	}
	return func() []*v1.Probe {
		<-done
		return probes
	}, stop
}

func TestOperatorTakesTheWitnesssPlace(t *testing.T) {
	r := serving(t, alone())
	r.revise(1)
	id := r.start(rollout.StartRequest{Revision: 1})
	asked, _ := r.operate(id, v1.ProbeOutcome_PROBE_OUTCOME_OPEN)
	r.want(r.end(id), succeeded, map[string]v1.NodeRolloutState{"first": done})
	var login []*v1.Probe
	for _, p := range asked() {
		if p.GetKind() == v1.ProbeKind_PROBE_KIND_SSH_LOGIN {
			login = append(login, p)
		}
	}
	if len(login) < 2 {
		t.Fatalf("asked for %d logins, want one for each pass", len(login))
	}
	if p := login[0]; p.GetPort() != rollouttest.OldPort || p.GetUser() != "ops" || len(p.GetHostKeys()) != 1 || p.GetAddress() != rollouttest.Address(0).String() {
		t.Errorf("widening is proved by %v, want a login on the old port", p)
	}
	if p := login[len(login)-1]; p.GetPort() != rollouttest.NewPort {
		t.Errorf("narrowing is proved by %v, want a login on the new port", p)
	}
	entries, err := r.store.ListAudit(context.Background(), auditOf("commit.witness"))
	if err != nil || len(entries) == 0 || !strings.Contains(entries[0].Message, "operator/anna") {
		t.Errorf("audit %v, %v", entries, err)
	}
}

func TestOperatorWhoSeesNoWayDoesNotConfirm(t *testing.T) {
	r := serving(t, alone())
	r.times.BackoffMin = 0
	r.revise(1)
	id := r.start(rollout.StartRequest{Revision: 1})
	_, stop := r.operate(id, v1.ProbeOutcome_PROBE_OUTCOME_DROPPED)
	defer stop()
	r.eventually("unconfirmed node", func() bool {
		ro, _ := r.rollouts.Get(context.Background(), id)
		return r.node(ro, "first").GetState() == v1.NodeRolloutState_NODE_ROLLOUT_STATE_UNCONFIRMED
	})
	if n, _ := r.fleet.Node(context.Background(), "first"); len(n.KnownBad) != 0 {
		t.Errorf("known-bad on an operator's word: %+v", n.KnownBad)
	}
}

func TestWithoutOperatorTheNodeWaits(t *testing.T) {
	r := serving(t, alone())
	r.revise(1)
	ro := r.end(r.start(rollout.StartRequest{Revision: 1}))
	r.want(ro, incomplete, map[string]v1.NodeRolloutState{"first": waiting})
	if msg := r.node(ro, "first").GetMessage(); !strings.Contains(msg, "operator") {
		t.Errorf("message %q", msg)
	}
	if got := r.audited("rollout.end"); !strings.HasPrefix(got, "incomplete: not done: first;") {
		t.Errorf("the audit log says %q", got)
	}
	if len(r.watch.commits()) != 0 {
		t.Error("a commit without a witness")
	}
}

func TestAtTheConsoleNoLoginIsNeeded(t *testing.T) {
	r := serving(t, alone())
	r.revise(1)
	ro := r.end(r.start(rollout.StartRequest{Revision: 1, AtConsole: "first"}))
	r.want(ro, succeeded, map[string]v1.NodeRolloutState{"first": done})
	if got := r.audited("rollout.end"); got != "succeeded" {
		t.Errorf("the audit log says %q", got)
	}
}

func TestConfirmIsAnsweredForTheRightCommitOnly(t *testing.T) {
	r := serving(t, rollouttest.Line(1, 1))
	r.revise(1)
	release := r.hub.Hold("n0")
	defer release()
	id := r.start(rollout.StartRequest{Revision: 1})
	r.eventually("n0 at work", func() bool { return len(r.watch.commits()) == 1 })
	commit := id + "-n0-w1"
	view, _ := r.revisions.View(context.Background(), 1)
	digest := view.Nodes["n0"].Digest
	ask := func(node, commit, digest string) (*v1.ConfirmResponse, error) {
		return r.rollouts.Confirm(context.Background(), node, &v1.ConfirmRequest{
			CommitId: commit, SpecDigest: digest, Remaining: durationpb.New(time.Second),
		})
	}
	if _, err := ask("n1", commit, digest); !errs.Is(err, errs.Denied) {
		t.Errorf("another node's commit: %v, want denied", err)
	}
	if _, err := ask("n0", "", digest); !errs.Is(err, errs.Invalid) {
		t.Errorf("no commit: %v, want invalid", err)
	}
	refused := func(what, commit, digest string) {
		t.Helper()
		if a, err := ask("n0", commit, digest); err != nil || a.GetDecision() != v1.ConfirmDecision_CONFIRM_DECISION_REFUSED || a.GetReason() == "" {
			t.Errorf("%s: %v, %v, want a refusal with a reason", what, a, err)
		}
	}
	refused("unknown commit", commit+"x", digest)
	refused("other digest", commit, "sha256:0")
	if a, err := ask("n0", commit, digest); err != nil || a.GetDecision() != v1.ConfirmDecision_CONFIRM_DECISION_CONFIRMED {
		t.Errorf("the right commit: %v, %v", a, err)
	}
}

func TestConfirmIsPendingWhileAWitnessIsMissing(t *testing.T) {
	r := serving(t, rollouttest.Line(1, 1))
	r.revise(1)
	release := r.hub.Hold("n0")
	id := r.start(rollout.StartRequest{Revision: 1})
	r.eventually("n0 at work", func() bool { return len(r.watch.commits()) == 1 })
	r.hub.Disconnect("relay")
	view, _ := r.revisions.View(context.Background(), 1)
	a, err := r.rollouts.Confirm(context.Background(), "n0", &v1.ConfirmRequest{
		CommitId: id + "-n0-w1", SpecDigest: view.Nodes["n0"].Digest, Remaining: durationpb.New(time.Second),
	})
	if err != nil || a.GetDecision() != v1.ConfirmDecision_CONFIRM_DECISION_PENDING || !slices.Equal(a.GetWaitingFor(), []string{"relay"}) {
		t.Errorf("%v, %v, want pending for relay", a, err)
	}
	r.hub.Connect("relay")
	release()
	r.want(r.end(id), succeeded, nil)
}

func TestConfirmAfterARestartAsksForWhatIsMissing(t *testing.T) {
	r := serving(t, rollouttest.Line(1, 1))
	r.revise(1)
	release := r.hub.Hold("n0")
	id := r.start(rollout.StartRequest{Revision: 1})
	r.eventually("n0 at work", func() bool { return len(r.watch.commits()) == 1 })
	r.stop()
	r.serve()
	before := r.hub.Count("relay", "probe")
	release()
	r.want(r.end(id), succeeded, nil)
	if r.hub.Count("relay", "probe") == before {
		t.Error("the restarted server confirmed without asking the witness")
	}
}

func TestReportWitnessIsBounded(t *testing.T) {
	r := serving(t, rollouttest.Line(1, 1))
	r.revise(1)
	release := r.hub.Hold("n0")
	id := r.start(rollout.StartRequest{Revision: 1})
	r.eventually("n0 at work", func() bool { return len(r.watch.commits()) == 1 })
	report := func(commit, probe string) error {
		return r.rollouts.ReportWitness(context.Background(), "operator/anna", &v1.ReportWitnessRequest{
			CommitId: commit, Observations: []*v1.ProbeObservation{{Id: probe, Outcome: v1.ProbeOutcome_PROBE_OUTCOME_OPEN}},
		})
	}
	if err := report(id+"-n0-w1", "w1"); !errs.Is(err, errs.Invalid) {
		t.Errorf("a report in place of a witness that exists: %v, want invalid", err)
	}
	if err := report("nothing", "w1"); !errs.Is(err, errs.NotFound) {
		t.Errorf("an unknown commit: %v", err)
	}
	release()
	r.want(r.end(id), succeeded, nil)
	if err := report(id+"-n0-w1", "w1"); !errs.Is(err, errs.Precondition) {
		t.Errorf("an ended commit: %v", err)
	}
}
