package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/store"
)

// TestWaitingMachineStaysWhatAPersonSaw: between the look at the lane and the approval nothing may change under one id.
func TestWaitingMachineStaysWhatAPersonSaw(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	client := f.dialEnrol()
	m := f.machine("printer")
	if _, err := client.Enrol(t.Context(), m.request(nil)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*v1.EnrolRequest){
		"another name": func(r *v1.EnrolRequest) { r.Node = "bastion" },
		"a token": func(r *v1.EnrolRequest) {
			tok := f.token(anna, &v1.CreateTokenRequest{Role: "prod"})
			r.TokenId, r.TokenSecret = tok.ID, tok.Secret.Reveal()
		},
	} {
		req := m.request(nil)
		change(req)
		_, err := client.Enrol(t.Context(), req)
		if errs.CodeOf(errs.FromGRPC(err)) != errs.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := v1.NewNodeServiceClient(anna.conn).ApproveNode(t.Context(), &v1.ApproveNodeRequest{EnrolmentId: m.enrolID})
	if err != nil || got.GetNode().GetName() != "printer" {
		t.Errorf("approved %v, %v", got, err)
	}
}

// TestMachineWithoutAPlaceTakesNoMemory: whoever is turned away because the lane is full is not remembered.
func TestMachineWithoutAPlaceTakesNoMemory(t *testing.T) {
	f := newFixture(t)
	client := f.dialEnrol()
	for i := range 100 {
		if _, err := client.Enrol(t.Context(), f.machine(fmt.Sprintf("m%d", 1000+i)).request(nil)); err != nil {
			t.Fatal(err)
		}
	}
	m := f.machine("late")
	_, err := client.Enrol(t.Context(), m.request(nil))
	wantCode(t, err, errs.Exhausted)
	if got := f.app.enrolment.LastPoll(m.enrolID); !got.IsZero() {
		t.Errorf("it is remembered since %s", got)
	}
	gone := f.machine("m1000").enrolID
	if err := f.app.fleet.Enrolments.Delete(t.Context(), gone, -1); err != nil {
		t.Fatal(err)
	}
	if err := f.app.enrolment.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := f.app.enrolment.LastPoll(gone); !got.IsZero() {
		t.Errorf("a machine that was forgotten is remembered since %s", got)
	}
}

func TestOneNodeRecoversOnlySoOften(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	var last error
	for range 11 {
		_, last = m.recover()
	}
	wantCode(t, last, errs.Exhausted)
	if f.refused(access.ReasonRecovery) != 1 {
		t.Error("not counted")
	}
}

// TestWitnessKeyIsAKeyAlone: it goes into files of all hosts that the node is a witness of.
func TestWitnessKeyIsAKeyAlone(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	const good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGG2T4mGgWz1tTzCq0Rf7cQ7m4V6Fm7r3rQ4cYyZzHhB"
	for key, want := range map[string]errs.Code{
		"":                         "",
		good:                       "",
		"no key":                   errs.Invalid,
		good + "\n" + good:         errs.Invalid,
		`command="x" ` + good:      errs.Invalid,
		good + " comment":          errs.Invalid,
		"# a comment\n" + good:     errs.Invalid,
		good + "\ncert-authority ": errs.Invalid,
	} {
		stream, err := v1.NewSessionServiceClient(m.conn).Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		hello := m.hello()
		hello.WitnessKey = key
		_ = stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Hello{Hello: hello}})
		_, err = stream.Recv()
		if got := errs.CodeOf(errs.FromGRPC(err)); got != want {
			t.Errorf("%q: code %q, want %q", key, got, want)
		}
	}
	if got := f.refused(access.ReasonMalformed); got != 6 {
		t.Errorf("%d refusals were counted, want 6", got)
	}
}

func TestOldRecordsAreForgotten(t *testing.T) {
	f := newFixture(t)
	f.login("anna")
	if _, err := f.app.store.Write(t.Context(), store.Put{Kind: rollout.KindCommit, Name: "r000001-abcdef-web-w1", Data: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	counts := func() (audit, commits int) {
		entries, err := f.app.store.ListAudit(t.Context(), store.AuditFilter{})
		if err != nil {
			t.Fatal(err)
		}
		recs, err := f.app.store.List(t.Context(), rollout.KindCommit, store.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(entries), len(recs)
	}
	clean := func(d time.Duration) {
		f.clock.Advance(d)
		if err := f.app.clean(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	before, _ := counts()
	clean(80 * 24 * time.Hour)
	if audit, commits := counts(); audit != before || commits != 1 {
		t.Errorf("after 80 days: %d of %d entries, %d commits", audit, before, commits)
	}
	clean(20 * 24 * time.Hour)
	if audit, commits := counts(); audit != before || commits != 0 {
		t.Errorf("after 100 days: %d of %d entries, %d commits", audit, before, commits)
	}
	clean(DefaultKeepAudit)
	entries, err := f.app.store.ListAudit(t.Context(), store.AuditFilter{})
	if err != nil || len(entries) != 1 || entries[0].Action != "audit.prune" {
		t.Errorf("in the end: %v, %v", entries, err)
	}
	if _, err := f.app.store.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSilentConnectionsKeepNobodyOut: one machine opens connections and says nothing.
func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	address := f.app.Addresses().Sessions
	for range 2 * maxHandshakes {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	cfg, err := mtls.ClientConfig(mtls.ClientOptions{RootPEM: anna.cred.RootPEM, Site: testSite, Clock: f.clock,
		Certificate: func() (*tls.Certificate, error) { return anna.cred.TLS, nil }})
	if err != nil {
		t.Fatal(err)
	}
	d := &tls.Dialer{Config: cfg, NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestRenewalOfTheIssuingCertificateIsAudited(t *testing.T) {
	f := newFixture(t)
	for i, d := range []time.Duration{0, certs.IssuingLife * 3 / 4, time.Hour} {
		f.clock.Advance(d)
		if err := f.app.renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		entries, err := f.app.store.ListAudit(t.Context(), store.AuditFilter{Action: "certificate.renew"})
		if want := min(i, 1); err != nil || len(entries) != want {
			t.Errorf("after %s: %d entries, %v, want %d", d, len(entries), err, want)
		}
	}
}
