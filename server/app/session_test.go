package app

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/session"
)

func TestTaskComesBackWithProgress(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	stream, welcome := m.mustOpen()
	if welcome.GetHeartbeat().AsDuration() != f.cfg.Heartbeat || welcome.GetSessionId() == "" || welcome.GetJoinCounter() != 1 {
		t.Errorf("welcome = %v", welcome)
	}
	go work(stream)
	var said []string
	res, err := f.app.hub.Do(t.Context(), "web", f.task("t1", time.Minute), func(p *v1.TaskProgress) { said = append(said, p.GetMessage()) })
	if err != nil || res.GetTaskId() != "t1" || res.GetProbe() == nil {
		t.Fatalf("result = %v, %v", res, err)
	}
	if len(said) > 1 || (len(said) == 1 && said[0] != "at it") {
		t.Errorf("progress = %q", said)
	}
	again, err := f.app.hub.Resume(t.Context(), "t1", nil)
	if err != nil || again.GetTaskId() != "t1" {
		t.Errorf("resume = %v, %v", again, err)
	}
	_, err = f.app.hub.Do(t.Context(), "web", f.task("t1", time.Minute), nil)
	wantCode(t, err, errs.Exists)
	_, err = f.app.hub.Resume(t.Context(), "nothing", nil)
	wantCode(t, err, errs.NotFound)
}

func TestTaskForAnAbsentNode(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	begun := time.Now()
	_, err := f.app.hub.Do(t.Context(), "web", f.task("near", 10*time.Second), nil)
	wantCode(t, err, errs.Unavailable)
	if time.Since(begun) > time.Second {
		t.Error("it was not told at once")
	}
	done := make(chan error, 1)
	go func() {
		_, err := f.app.hub.Do(t.Context(), "web", f.task("far", time.Hour), nil)
		done <- err
	}()
	time.Sleep(50 * time.Millisecond)
	stream, _ := m.mustOpen() // it comes back, and finds the task
	go work(stream)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTaskSurvivesAReconnect(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	ctx, cancel := context.WithCancel(t.Context())
	first, _, err := m.open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := f.app.hub.Do(t.Context(), "web", f.task("t1", time.Minute), nil)
		done <- err
	}()
	if task, err := first.Recv(); err != nil || task.GetTask().GetId() != "t1" {
		t.Fatal(task, err)
	}
	cancel()
	second, _ := m.mustOpen()
	go work(second)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTaskSurvivesARestartOfTheServer(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	stream, _ := m.mustOpen()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	task := f.task("t1", time.Minute)
	task.Work = &v1.Task_Apply{Apply: &v1.ApplyTask{CommitId: "c1"}}
	go func() {
		_, err := f.app.hub.Do(ctx, "web", task, nil)
		done <- err
	}()
	if got, err := stream.Recv(); err != nil || got.GetTask().GetApply().GetCommitId() != "c1" {
		t.Fatal(got, err)
	}
	_ = stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Accepted{Accepted: &v1.TaskAccepted{TaskId: "t1"}}})
	time.Sleep(50 * time.Millisecond)
	cancel()
	<-done
	f.stop()
	f.clock.Advance(2 * time.Minute) // not_after passes meanwhile: the task was accepted, its result is still wanted
	f.start()
	m.conn = f.dialMain(m.cred)
	go func() {
		_, err := f.app.hub.Resume(t.Context(), "t1", nil)
		done <- err
	}()
	again, _ := m.mustOpen()
	_ = again.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Result{Result: &v1.TaskResult{TaskId: "t1",
		Outcome: &v1.TaskResult_Apply{Apply: &v1.ApplyResult{State: &v1.HostState{SpecDigest: "d1"}}}}}})
	ack, err := again.Recv()
	if err != nil || ack.GetAcknowledge().GetTaskId() != "t1" {
		t.Fatalf("no acknowledgement: %v, %v", ack, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n, err := f.app.fleet.Node(t.Context(), "web"); err != nil || n.State.M.GetSpecDigest() != "d1" {
		t.Errorf("the state that the result speaks of is not in the record: %v, %v", n.State.M, err)
	}
}

func TestUnacceptedTaskEnds(t *testing.T) {
	f := newFixture(t)
	f.node(f.login("anna"), "web").mustOpen() // it never answers
	_, err := f.app.hub.Do(t.Context(), "web", f.task("t1", 100*time.Millisecond), nil)
	wantCode(t, err, errs.Timeout)
}

func TestNodeSpeaksForItselfOnly(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	web, dns := f.node(anna, "web"), f.node(anna, "dns")
	web.mustOpen()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go f.app.hub.Do(ctx, "web", f.task("of-web", time.Minute), nil)
	f.eventually("the task is known", func() bool {
		_, err := f.app.store.Get(t.Context(), session.KindTask, "of-web")
		return err == nil
	})
	for name, m := range map[string]*v1.ConnectRequest{
		"result":   resultOf("of-web"),
		"accepted": {Message: &v1.ConnectRequest_Accepted{Accepted: &v1.TaskAccepted{TaskId: "of-web"}}},
		"progress": {Message: &v1.ConnectRequest_Progress{Progress: &v1.TaskProgress{TaskId: "of-web"}}},
	} {
		t.Run(name, func(t *testing.T) {
			before := f.refused(access.ReasonForeign)
			stream, _ := dns.mustOpen()
			_ = stream.Send(m)
			wantCode(t, work(stream), errs.Denied)
			if f.refused(access.ReasonForeign) != before+1 {
				t.Error("not counted")
			}
		})
	}
	if _, err := f.app.fleet.Node(t.Context(), "web"); err != nil {
		t.Error(err)
	}
}

func TestRevocationCutsTheSessionWithinASecond(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	m := f.node(anna, "web")
	stream, _ := m.mustOpen()
	begun := time.Now()
	nodes := v1.NewNodeServiceClient(anna.conn)
	if _, err := nodes.RevokeNode(t.Context(), &v1.RevokeNodeRequest{Name: "web", Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	err := work(stream)
	if took := time.Since(begun); took > time.Second {
		t.Errorf("it took %s", took)
	}
	wantNotice(t, m, err)
	_, err = v1.NewSessionServiceClient(m.conn).Confirm(t.Context(), &v1.ConfirmRequest{CommitId: "c", SpecDigest: "d"})
	wantNotice(t, m, err)
	_, _, err = m.open(t.Context())
	wantNotice(t, m, err)
	_, err = m.recover()
	wantNotice(t, m, err)
	dns := f.node(anna, "dns")
	impostor := *m // a revoked key speaks of a node that is in good standing
	impostor.name = "dns"
	_, err = impostor.recover()
	wantNotice(t, m, err)
	for _, d := range status.Convert(err).Details() {
		if n, ok := d.(*v1.RevocationNotice); ok {
			if _, err := certs.VerifyNotice(dns.cred.RootPEM, testSite, dns.cred.Identity.Serial,
				certs.KeyHash(dns.cred.Leaf), n.GetSignature()); err == nil {
				t.Error("the notice speaks of the other node")
			}
		}
	}

	if _, err := nodes.ForgetNode(t.Context(), &v1.ForgetNodeRequest{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	fresh := f.machine("web")
	fresh.enrolID = "a-fresh-enrolment-id"
	resp, err := f.dialEnrol().Enrol(t.Context(), fresh.request(f.token(anna, &v1.CreateTokenRequest{Node: "web"})))
	if err != nil || resp.GetState() != issued {
		t.Fatalf("the name does not enrol again: %v, %v", resp, err)
	}
	_, _, err = m.open(t.Context()) // the old key is told for ever
	wantNotice(t, m, err)
}

func wantNotice(t *testing.T, m *machine, err error) {
	t.Helper()
	wantCode(t, err, errs.Revoked)
	for _, d := range status.Convert(err).Details() {
		if n, ok := d.(*v1.RevocationNotice); ok {
			if _, err := certs.VerifyNotice(m.cred.RootPEM, testSite, m.cred.Identity.Serial, certs.KeyHash(m.cred.Leaf), n.GetSignature()); err != nil {
				t.Error(err)
			}
			return
		}
	}
	t.Errorf("no notice in %v", err)
}

func TestForgetNeedsRevokeFirst(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	f.node(anna, "web")
	_, err := v1.NewNodeServiceClient(anna.conn).ForgetNode(t.Context(), &v1.ForgetNodeRequest{Name: "web"})
	wantCode(t, err, errs.Precondition)
}

func TestClonedMachineIsSetAside(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	m := f.node(anna, "web")
	stream, _ := m.mustOpen()
	ended := make(chan error, 1)
	go func() { ended <- work(stream) }()
	clone := *m
	clone.fp = &v1.HostFingerprint{MachineId: m.fp.GetMachineId(), MacAddresses: []string{"02:00:00:00:00:99"}}
	clone.boot = "boot-of-clone"
	for range 2 {
		_, _, err := clone.open(t.Context())
		wantCode(t, err, errs.Precondition)
	}
	select {
	case err := <-ended:
		t.Errorf("the incumbent was cut: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	nodes := v1.NewNodeServiceClient(anna.conn)
	list, err := nodes.ListNodes(t.Context(), &v1.ListNodesRequest{})
	if err != nil || len(list.GetNodes()) != 2 {
		t.Fatalf("list = %v, %v", list, err)
	}
	aside := list.GetNodes()[1]
	if list.GetNodes()[0].GetState() != v1.NodeState_NODE_STATE_ONLINE || aside.GetState() != v1.NodeState_NODE_STATE_QUARANTINED {
		t.Errorf("list = %v", list)
	}
	// It was the right machine after all: its card was replaced.
	if _, err := nodes.ApproveNode(t.Context(), &v1.ApproveNodeRequest{EnrolmentId: aside.GetEnrolmentId()}); err != nil {
		t.Fatal(err)
	}
	<-ended
	clone.mustOpen()
	_, _, err = m.open(t.Context())
	wantCode(t, err, errs.Precondition)
}

func TestTwoMachinesThatLookAlikeAreNoticed(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	m.mustOpen()
	twin := *m
	twin.boot = "boot-of-twin"
	twin.mustOpen() // looks like a reboot
	m.mustOpen()    // but boot ids never come back
	_, _, err := twin.open(t.Context())
	wantCode(t, err, errs.Precondition)
	if n, err := f.app.fleet.Node(t.Context(), "web"); err != nil || n.Alarm == "" {
		t.Errorf("no alarm: %v", err)
	}
}

func TestNewerSessionOfTheSameMachineTakesOver(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	first, _ := m.mustOpen()
	_, second := m.mustOpen()
	wantCode(t, work(first), errs.Unavailable)
	if live, ok := f.app.hub.Live("web"); !ok || live.ID != second.GetSessionId() {
		t.Errorf("live = %v %v", live, ok)
	}
}

func TestSilenceEndsASession(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Heartbeat = 50 * time.Millisecond })
	m := f.node(f.login("anna"), "web")
	events := f.app.hub.Watch(t.Context())
	stream, _ := m.mustOpen()
	if ev := <-events; ev.Node != "web" || !ev.Connected {
		t.Errorf("event = %+v", ev)
	}
	begun := time.Now()
	wantCode(t, work(stream), errs.Unavailable)
	if took := time.Since(begun); took < 100*time.Millisecond || took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	if ev := <-events; ev.Node != "web" || !ev.Disconnected {
		t.Errorf("event = %+v", ev)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, _, err := m.open(ctx); err != nil {
		t.Fatal(err)
	}
	<-events
	cancel() // a broken stream is noticed at once
	if ev := <-events; !ev.Disconnected {
		t.Errorf("event = %+v", ev)
	}
}

func TestReportsAreStoredAndGapsAskForAll(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	m := f.node(anna, "web")
	stream, _ := m.mustOpen()
	events := f.app.hub.Watch(t.Context())
	report := func(r *v1.Report) { _ = stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Report{Report: r}}) }
	report(&v1.Report{Sequence: 1, Facts: &v1.HostFacts{Hostname: "web"}, State: &v1.HostState{SiteRevision: 3}})
	if ev := <-events; !ev.Reported {
		t.Errorf("event = %+v", ev)
	}
	report(&v1.Report{Sequence: 3, State: &v1.HostState{SiteRevision: 4}})
	ask, err := stream.Recv()
	if err != nil || ask.GetFullReport() == nil {
		t.Fatalf("no full report asked for: %v, %v", ask, err)
	}
	<-events
	_ = stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Heartbeat{Heartbeat: &v1.Heartbeat{
		LocalTime: timestamppb.New(f.clock.Now().Add(time.Minute))}}})
	f.eventually("the skew is known", func() bool { _, skew := f.app.hub.LastSeen("web"); return skew == time.Minute })
	got, err := v1.NewNodeServiceClient(anna.conn).GetNode(t.Context(), &v1.GetNodeRequest{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	n := got.GetNode()
	if n.GetFacts().GetHostname() != "web" || n.GetHostState().GetSiteRevision() != 4 || n.GetSkew().AsDuration() != time.Minute ||
		n.GetState() != v1.NodeState_NODE_STATE_ONLINE {
		t.Errorf("node = %v", n)
	}
}

func TestBadSessionsAreRefused(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	hello := func(change func(*v1.Hello)) *v1.ConnectRequest {
		h := m.hello()
		change(h)
		return &v1.ConnectRequest{Message: &v1.ConnectRequest_Hello{Hello: h}}
	}
	good := hello(func(*v1.Hello) {})
	for name, c := range map[string]struct {
		send []*v1.ConnectRequest
		want errs.Code
	}{
		"no hello first":   {[]*v1.ConnectRequest{resultOf("x")}, errs.Invalid},
		"empty message":    {[]*v1.ConnectRequest{{}}, errs.Invalid},
		"two hellos":       {[]*v1.ConnectRequest{good, good}, errs.Invalid},
		"other protocol":   {[]*v1.ConnectRequest{hello(func(h *v1.Hello) { h.Protocol = 2 })}, errs.Precondition},
		"long boot id":     {[]*v1.ConnectRequest{hello(func(h *v1.Hello) { h.BootId = strings.Repeat("x", 100) })}, errs.Invalid},
		"long witness key": {[]*v1.ConnectRequest{hello(func(h *v1.Hello) { h.WitnessKey = strings.Repeat("x", 2000) })}, errs.Invalid},
		"message above 1 MiB": {[]*v1.ConnectRequest{good, {Message: &v1.ConnectRequest_Report{Report: &v1.Report{Sequence: 1,
			Facts: &v1.HostFacts{Os: strings.Repeat("x", 1<<20)}}}}}, errs.Exhausted},
		"message above all limits": {[]*v1.ConnectRequest{good, {Message: &v1.ConnectRequest_Report{Report: &v1.Report{Sequence: 1,
			Facts: &v1.HostFacts{Os: strings.Repeat("x", 5<<20)}}}}}, errs.Exhausted},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			stream, err := v1.NewSessionServiceClient(m.conn).Connect(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range c.send {
				_ = stream.Send(r)
			}
			wantCode(t, work(stream), c.want)
		})
	}
	if got := f.refused(access.ReasonTooLarge); got != 2 {
		t.Errorf("too large messages counted: %d", got)
	}
	f.eventually("no session is left", func() bool { _, live := f.app.hub.Live("web"); return !live })
}

func TestTalkativeSessionIsEnded(t *testing.T) {
	f := newFixture(t)
	stream, _ := f.node(f.login("anna"), "web").mustOpen()
	go func() {
		for i := range 20000 {
			if stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Heartbeat{Heartbeat: &v1.Heartbeat{Sequence: uint64(i)}}}) != nil {
				return
			}
		}
	}()
	wantCode(t, work(stream), errs.Exhausted)
}

func TestRenewalNeedsTheBoundKey(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	_, foreign := newKey(t)
	_, err := v1.NewSessionServiceClient(m.conn).RenewCertificate(t.Context(), &v1.RenewCertificateRequest{Csr: foreign})
	wantCode(t, err, errs.Denied)
	f.clock.Advance(5 * 24 * time.Hour)
	for range 2 { // the answer may be lost
		resp, err := v1.NewSessionServiceClient(m.conn).RenewCertificate(t.Context(), &v1.RenewCertificateRequest{Csr: m.csr})
		if err != nil || resp.GetJoinCounter() != 2 {
			t.Fatalf("answer = %v, %v", resp, err)
		}
	}
	m.mustOpen() // with the old certificate and counter
}

// TestManySessions keeps many agents connected and gives all of them a task at once.
func TestManySessions(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Heartbeat = time.Minute })
	anna := f.login("anna")
	const n = 50
	results := make(chan error, n)
	for i := range n {
		stream, _ := f.node(anna, fmt.Sprintf("n%d", i)).mustOpen()
		go work(stream)
	}
	begun := time.Now()
	for i := range n {
		go func() {
			_, err := f.app.hub.Do(t.Context(), fmt.Sprintf("n%d", i), f.task(fmt.Sprintf("t%d", i), time.Minute), nil)
			results <- err
		}()
	}
	for range n {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d tasks: %s", n, time.Since(begun))
}
