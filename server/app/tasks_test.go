package app

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/session"
	"github.com/infractl/infractl/server/store"
)

// TestUnacceptedTasksDoNotPileUp: a node that never answers must be asked again once its tasks are too late, and an apply
// that it may have begun unheard must still find its result.
func TestUnacceptedTasksDoNotPileUp(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	m.mustOpen()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range 64 {
		task := f.task(fmt.Sprintf("t%d", i), time.Minute)
		if i == 0 {
			task.Work = &v1.Task_Apply{Apply: &v1.ApplyTask{CommitId: "c1"}}
		}
		go f.app.hub.Do(ctx, "web", task, nil)
	}
	f.eventually("all tasks wait", func() bool {
		recs, err := f.app.store.List(t.Context(), session.KindTask, store.ListOptions{NamesOnly: true})
		return err == nil && len(recs) == 64
	})
	// A task is stored a moment before it counts.
	extra := 0
	f.eventually("no more are taken", func() bool {
		extra++
		short, end := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer end()
		_, err := f.app.hub.Do(short, "web", f.task(fmt.Sprintf("extra%d", extra), time.Minute), nil)
		return errs.Is(err, errs.Exhausted)
	})
	f.clock.Advance(2 * time.Minute)
	short, end := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer end()
	_, err := f.app.hub.Do(short, "web", f.task("later", time.Minute), nil)
	wantCode(t, err, errs.Timeout) // it waited for an answer, and was not turned away
	if _, err = f.app.hub.Resume(t.Context(), "t1", nil); errs.CodeOf(err) != errs.Timeout {
		t.Errorf("a probe that is too late: %v", err)
	}
	again, _ := m.mustOpen()
	_ = again.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Result{Result: &v1.TaskResult{TaskId: "t0",
		Outcome: &v1.TaskResult_Apply{Apply: &v1.ApplyResult{}}}}})
	if res, err := f.app.hub.Resume(t.Context(), "t0", nil); err != nil || res.GetApply() == nil {
		t.Errorf("the apply: %v, %v", res, err)
	}
}

// TestStatusTellsWhatAPersonShouldKnow: what agents warn of, and what becomes of certificates, is shown without asking.
func TestStatusTellsWhatAPersonShouldKnow(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	f.wanted([]fleet.Wanted{{Name: "web", Role: "prod"}, {Name: "dns", Role: "services"}})
	f.node(anna, "dns") // it never connects
	stream, _ := f.node(anna, "web").mustOpen()
	_ = stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Heartbeat{Heartbeat: &v1.Heartbeat{
		LocalTime: timestamppb.New(f.clock.Now().Add(-time.Minute))}}})
	_ = stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Report{Report: &v1.Report{Sequence: 1,
		Facts: &v1.HostFacts{Warnings: []string{"w1", "w2", "w3", "w4", "w5"}}, State: &v1.HostState{Degraded: []string{"no registry"}}}}})
	found := func() map[string]v1.Severity {
		got, err := v1.NewNodeServiceClient(anna.conn).GetStatus(t.Context(), &v1.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]v1.Severity{}
		for _, x := range got.GetFindings() {
			out[x.GetWhere()+": "+x.GetMessage()] = x.GetSeverity()
		}
		return out
	}
	f.eventually("the report is in", func() bool { return len(found()) == 7 })
	const bad, warn = v1.Severity_SEVERITY_ERROR, v1.Severity_SEVERITY_WARNING
	if diff := cmp.Diff(map[string]v1.Severity{
		"node dns: has not connected yet": bad, "node web: its clock is 1m0s behind": warn, "node web: degraded: no registry": bad,
		"node web: w1": warn, "node web: w2": warn, "node web: w3": warn, "node web: 2 more warnings": warn,
	}, found()); diff != "" {
		t.Error(diff)
	}
	if err := os.Rename(filepath.Join(f.app.cfg.caDir(), "root.key"), filepath.Join(t.TempDir(), "root.key")); err != nil {
		t.Fatal(err)
	}
	f.clock.Advance(certs.IssuingLife * 3 / 4)
	berta := f.login("berta") // the operator's certificate is over, too
	got, err := v1.NewNodeServiceClient(berta.conn).GetStatus(t.Context(), &v1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if first := got.GetFindings()[0]; !strings.Contains(first.GetMessage(), "the issuing certificate ends on") || first.GetSeverity() != bad {
		t.Errorf("first finding: %v", first)
	}
}
