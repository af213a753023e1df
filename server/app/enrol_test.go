package app

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/jointoken"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/session"
)

const (
	issued  = v1.EnrolmentState_ENROLMENT_STATE_ISSUED
	pending = v1.EnrolmentState_ENROLMENT_STATE_PENDING
)

func TestEnrolmentIsRepeatable(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	tok := f.token(anna, &v1.CreateTokenRequest{Node: "web"})
	client := f.dialEnrol()
	m := f.machine("debian") // the token decides the name
	first, err := client.Enrol(t.Context(), m.request(tok))
	if err != nil {
		t.Fatal(err)
	}
	if first.GetIdentity().GetNode() != "web" || len(first.GetIdentity().GetServerAddresses()) != 1 ||
		first.GetServerTime() == nil || len(first.GetIdentity().GetEnrolAddresses()) != 1 {
		t.Errorf("answer = %v", first)
	}
	again, err := client.Enrol(t.Context(), m.request(tok))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.GetIdentity().GetCertificatePem(), again.GetIdentity().GetCertificatePem()) {
		t.Error("the second answer differs from the first")
	}
	f.clock.Advance(2 * time.Hour)
	_, err = client.Enrol(t.Context(), m.request(tok))
	wantCode(t, err, errs.Denied)
}

func TestBadTokensAreRefusedCountedAndAudited(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	client := f.dialEnrol()
	fresh := func() *jointoken.Token { return f.token(anna, &v1.CreateTokenRequest{Node: "web"}) }
	used := fresh()
	if _, err := client.Enrol(t.Context(), f.machine("first").request(used)); err != nil {
		t.Fatal(err)
	}
	revoked := fresh()
	if _, err := v1.NewTokenServiceClient(anna.conn).RevokeToken(t.Context(), &v1.RevokeTokenRequest{Id: revoked.ID}); err != nil {
		t.Fatal(err)
	}
	other := newFixture(t)
	foreign := other.token(other.login("anna"), &v1.CreateTokenRequest{Node: "web"})
	wrong := fresh()
	wrong.Secret = jointoken.NewSecret(strings.Repeat("x", 43))
	expired := fresh()
	f.clock.Advance(61 * time.Minute)
	count := 0
	for name, tok := range map[string]*jointoken.Token{
		"used by another": used, "revoked": revoked, "of another site": foreign, "wrong secret": wrong, "expired": expired,
	} {
		t.Run(name, func(t *testing.T) {
			count++
			_, err := client.Enrol(t.Context(), f.machine("second").request(tok))
			wantCode(t, err, errs.Denied)
			if got := f.refused(access.ReasonToken); got != count {
				t.Errorf("counted %d, want %d", got, count)
			}
		})
	}
	nodes, err := f.app.fleet.Nodes(t.Context())
	if err != nil || len(nodes) != 1 {
		t.Errorf("nodes = %v, %v", nodes, err)
	}
}

func TestMalformedEnrolmentsAreRefused(t *testing.T) {
	f := newFixture(t)
	client := f.dialEnrol()
	for name, change := range map[string]func(*v1.EnrolRequest){
		"short enrolment id":   func(r *v1.EnrolRequest) { r.EnrolmentId = "x" },
		"odd enrolment id":     func(r *v1.EnrolRequest) { r.EnrolmentId = strings.Repeat("/", 20) },
		"no request":           func(r *v1.EnrolRequest) { r.Csr = nil },
		"damaged request":      func(r *v1.EnrolRequest) { r.Csr = r.Csr[:len(r.Csr)-4] },
		"no name and no token": func(r *v1.EnrolRequest) { r.Node = "" },
		"odd name":             func(r *v1.EnrolRequest) { r.Node = "../etc" },
		"long fingerprint": func(r *v1.EnrolRequest) {
			r.Fingerprint = &v1.HostFingerprint{MachineId: strings.Repeat("x", 200)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			req := f.machine("web").request(nil)
			change(req)
			_, err := client.Enrol(t.Context(), req)
			wantCode(t, err, errs.Invalid)
		})
	}
}

func TestUnknownMachineWaitsForApproval(t *testing.T) {
	f := newFixture(t)
	nodes := v1.NewNodeServiceClient(f.login("anna").conn)
	client := f.dialEnrol()
	m := f.machine("stranger")
	for range 2 {
		resp, err := client.Enrol(t.Context(), m.request(nil))
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetState() != pending || resp.GetIdentity() != nil || resp.GetRetryAfter().AsDuration() <= 0 {
			t.Errorf("answer = %v", resp)
		}
	}
	list, err := nodes.ListNodes(t.Context(), &v1.ListNodesRequest{})
	if err != nil || len(list.GetNodes()) != 1 || list.GetNodes()[0].GetState() != v1.NodeState_NODE_STATE_PENDING {
		t.Fatalf("list = %v, %v", list, err)
	}
	got, err := nodes.ApproveNode(t.Context(), &v1.ApproveNodeRequest{EnrolmentId: m.enrolID[:18], Name: "web"})
	if err != nil || got.GetNode().GetName() != "web" {
		t.Fatalf("approved = %v, %v", got, err)
	}
	thief := f.machine("stranger") // knows the id, has not the key
	_, err = client.Enrol(t.Context(), thief.request(nil))
	wantCode(t, err, errs.Denied)
	resp, err := client.Enrol(t.Context(), m.request(nil))
	if err != nil || resp.GetState() != issued || resp.GetIdentity().GetNode() != "web" {
		t.Fatalf("answer = %v, %v", resp, err)
	}
	m.take(resp.GetIdentity())
	m.mustOpen()
}

func TestPendingTextLetsAMachineAskAndNoMore(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	text := f.token(anna, &v1.CreateTokenRequest{Pending: true})
	if text.ID != "" || !text.Secret.Empty() || len(text.Addresses) == 0 || text.Fingerprint != f.app.authority.Fingerprint() {
		t.Fatalf("the text holds %+v", text)
	}
	list, err := v1.NewTokenServiceClient(anna.conn).ListTokens(t.Context(), &v1.ListTokensRequest{})
	if err != nil || len(list.GetTokens()) != 0 {
		t.Errorf("a text without a secret is no token: %v, %v", list, err)
	}
	for _, name := range []string{"one", "two"} {
		resp, err := f.dialEnrol().Enrol(t.Context(), f.machine(name).request(text))
		if err != nil || resp.GetState() != pending || resp.GetIdentity() != nil {
			t.Fatalf("answer = %v, %v", resp, err)
		}
		// infractl node approve tells people that it takes this long at most.
		if wait := resp.GetRetryAfter().AsDuration(); wait > 15*time.Second {
			t.Errorf("it asks again after %s", wait)
		}
	}
}

func TestWaitingMachineCanBeForgotten(t *testing.T) {
	f := newFixture(t)
	nodes := v1.NewNodeServiceClient(f.login("anna").conn)
	m := f.machine("stranger")
	if _, err := f.dialEnrol().Enrol(t.Context(), m.request(nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := nodes.ForgetNode(t.Context(), &v1.ForgetNodeRequest{Name: m.enrolID}); err != nil {
		t.Fatal(err)
	}
	list, err := nodes.ListNodes(t.Context(), &v1.ListNodesRequest{})
	if err != nil || len(list.GetNodes()) != 0 {
		t.Errorf("list = %v, %v", list, err)
	}
}

func TestPendingLaneIsBounded(t *testing.T) {
	f := newFixture(t)
	client := f.dialEnrol()
	ask := func(i int) error {
		_, err := client.Enrol(t.Context(), f.machine(fmt.Sprintf("m%d", i)).request(nil))
		return err
	}
	for i := range 100 {
		if err := ask(i + 1000); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, ask(5000), errs.Exhausted)
	f.clock.Advance(2 * time.Hour) // those that went away make room
	if err := ask(5001); err != nil {
		t.Error(err)
	}
}

func TestRebuiltMachineNeedsAPerson(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	old := f.node(anna, "web")
	stream, _ := old.mustOpen()
	rebuilt := f.machine("web") // the same machine, a new key
	rebuilt.enrolID = "another-enrolment-id"
	tok := f.token(anna, &v1.CreateTokenRequest{Node: "web"})
	client := f.dialEnrol()
	resp, err := client.Enrol(t.Context(), rebuilt.request(tok))
	if err != nil || resp.GetState() != pending {
		t.Fatalf("answer = %v, %v", resp, err)
	}
	if _, live := f.app.hub.Live("web"); !live {
		t.Error("the incumbent was touched")
	}
	if _, err := v1.NewNodeServiceClient(anna.conn).ApproveNode(t.Context(),
		&v1.ApproveNodeRequest{EnrolmentId: rebuilt.enrolID}); err != nil {
		t.Fatal(err)
	}
	if resp, err = client.Enrol(t.Context(), rebuilt.request(tok)); err != nil || resp.GetState() != issued {
		t.Fatalf("answer = %v, %v", resp, err)
	}
	wantCode(t, work(stream), errs.Revoked) // the former key is told, at once
	rebuilt.take(resp.GetIdentity())
	rebuilt.mustOpen()
}

func TestTwoHundredMachinesEnrolAtOnce(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	const n = 200
	machines, tokens := make([]*machine, n), make([]*jointoken.Token, n)
	for i := range n {
		name := fmt.Sprintf("n%d", i)
		machines[i], tokens[i] = f.machine(name), f.token(anna, &v1.CreateTokenRequest{Node: name})
	}
	clients := make([]v1.EnrolmentServiceClient, 20)
	for i := range clients {
		clients[i] = f.dialEnrol()
	}
	var wg sync.WaitGroup
	begun := time.Now()
	for i := range n {
		wg.Go(func() {
			for range 2 { // each reply is lost once
				resp, err := clients[i%len(clients)].Enrol(t.Context(), machines[i].request(tokens[i]))
				if err != nil || resp.GetState() != issued || resp.GetIdentity().GetNode() != machines[i].name {
					t.Errorf("%s: %v %v", machines[i].name, resp, err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d machines, twice each: %s", n, time.Since(begun))
	nodes, err := f.app.fleet.Nodes(t.Context())
	if err != nil || len(nodes) != n {
		t.Errorf("%d nodes, %v", len(nodes), err)
	}
}

func TestEnrolmentsAreRateLimited(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		c.Limits = session.EnrolmentLimits{PerAddress: 0.001, PerAddressBurst: 3, Total: 100, TotalBurst: 100}
	})
	client := f.dialEnrol()
	var last error
	for range 4 {
		_, last = client.Challenge(t.Context(), &v1.ChallengeRequest{Node: "web"})
	}
	wantCode(t, last, errs.Exhausted)
	if f.refused(access.ReasonRate) != 1 {
		t.Error("not counted")
	}
}

// recover asks for a new certificate with the machine's key.
func (m *machine) recover() (*v1.RecoverResponse, error) {
	m.f.Helper()
	client := m.f.dialEnrol()
	ch, err := client.Challenge(m.f.Context(), &v1.ChallengeRequest{Node: m.name})
	if err != nil {
		return nil, err
	}
	return client.Recover(m.f.Context(), m.recoverRequest(ch.GetNonce()))
}

func (m *machine) recoverRequest(nonce []byte) *v1.RecoverRequest {
	m.f.Helper()
	sum := sha256.Sum256(session.RecoverMessage(m.name, nonce, m.counter))
	sig, err := ecdsa.SignASN1(rand.Reader, m.key.(*ecdsa.PrivateKey), sum[:])
	if err != nil {
		m.f.Fatal(err)
	}
	return &v1.RecoverRequest{Node: m.name, Nonce: nonce, Csr: m.csr, Signature: sig, JoinCounter: m.counter, Fingerprint: m.fp}
}

func TestExpiredNodeRecovers(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	f.expire()
	resp, err := m.recover()
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.recover() // the reply was lost
	if err != nil || again.GetJoinCounter() != resp.GetJoinCounter() || resp.GetJoinCounter() != 2 {
		t.Fatalf("counters %d and %d, %v", resp.GetJoinCounter(), again.GetJoinCounter(), err)
	}
	m.take(resp.GetIdentity())
	m.counter = resp.GetJoinCounter()
	m.mustOpen()
	n, err := f.app.fleet.Node(t.Context(), "web")
	if err != nil || n.Recoveries != 1 {
		t.Errorf("recoveries = %d, %v", n.Recoveries, err)
	}
}

func TestRecoveriesAreCountedAndCleared(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	once := func() error {
		resp, err := m.recover()
		if err != nil {
			return err
		}
		m.take(resp.GetIdentity())
		m.counter = resp.GetJoinCounter()
		m.mustOpen()
		return nil
	}
	for i := range session.MaxRecoveries {
		f.expire()
		if err := once(); err != nil {
			t.Fatalf("recovery %d: %v", i, err)
		}
	}
	f.expire()
	wantCode(t, once(), errs.Precondition)
	if _, err := v1.NewNodeServiceClient(f.login("berta").conn).ClearNode(t.Context(), &v1.ClearNodeRequest{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	if err := once(); err != nil {
		t.Error(err)
	}
}

// expire moves the clock behind the end of certificates made now, while the server says that it is alive around that end.
func (f *fixture) expire() {
	f.Helper()
	for _, d := range []time.Duration{certs.NodeLife - time.Minute, 2 * time.Minute, time.Minute} {
		f.clock.Advance(d)
		if err := f.app.fleet.Alive(f.Context(), f.clock.Now()); err != nil {
			f.Fatal(err)
		}
	}
}

func TestExpiryDuringAnOutageDoesNotCount(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	f.stop()
	f.clock.Advance(certs.NodeLife + time.Hour)
	f.start()
	if _, err := m.recover(); err != nil {
		t.Fatal(err)
	}
	n, err := f.app.fleet.Node(t.Context(), "web")
	if err != nil || n.Recoveries != 0 {
		t.Errorf("recoveries = %d, %v", n.Recoveries, err)
	}
}

func TestRecoveryIsRefused(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	client := f.dialEnrol()
	nonce := func(node string) []byte {
		ch, err := client.Challenge(t.Context(), &v1.ChallengeRequest{Node: node})
		if err != nil {
			t.Fatal(err)
		}
		return ch.GetNonce()
	}
	used := nonce("web")
	if _, err := client.Recover(t.Context(), m.recoverRequest(used)); err != nil {
		t.Fatal(err)
	}
	stale := nonce("web")
	f.clock.Advance(2 * time.Minute)
	stranger := f.machine("web")
	cases := map[string]*v1.RecoverRequest{
		"nonce used before":      m.recoverRequest(used),
		"nonce too old":          m.recoverRequest(stale),
		"nonce of another node":  m.recoverRequest(nonce("other")),
		"nonce of nobody":        m.recoverRequest(make([]byte, 56)),
		"another key":            stranger.recoverRequest(nonce("web")),
		"signature of another":   func() *v1.RecoverRequest { r := m.recoverRequest(nonce("web")); r.JoinCounter++; return r }(),
		"unknown node":           func() *v1.RecoverRequest { o := *m; o.name = "other"; return o.recoverRequest(nonce("other")) }(),
		"request of another key": func() *v1.RecoverRequest { r := m.recoverRequest(nonce("web")); r.Csr = stranger.csr; return r }(),
	}
	for name, req := range cases {
		t.Run(name, func(t *testing.T) {
			before := f.refused(access.ReasonRecovery)
			_, err := client.Recover(t.Context(), req)
			wantCode(t, err, errs.Denied)
			if f.refused(access.ReasonRecovery) != before+1 {
				t.Error("not counted")
			}
		})
	}
}

func TestCopiedDiskIsSetAside(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	m := f.node(anna, "web")
	m.mustOpen()
	copied := *m // from here on two disks hold this identity
	csr, err := certs.MakeCSR(m.key)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := v1.NewSessionServiceClient(m.conn).RenewCertificate(t.Context(), &v1.RenewCertificateRequest{Csr: csr})
	if err != nil {
		t.Fatal(err)
	}
	m.take(resp.GetIdentity())
	m.counter = resp.GetJoinCounter()
	m.mustOpen()
	_, _, err = copied.open(t.Context())
	wantCode(t, err, errs.Precondition)
	if live, ok := f.app.hub.Live("web"); !ok || live.Hello.GetJoinCounter() != m.counter {
		t.Errorf("the incumbent was touched: %v %v", live, ok)
	}
	_, err = copied.recover()
	wantCode(t, err, errs.Precondition)
	status, err := v1.NewNodeServiceClient(anna.conn).GetStatus(t.Context(), &v1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(status.GetFindings()) == 0 || !strings.Contains(status.GetFindings()[0].GetMessage(), "second machine") {
		t.Errorf("findings = %v", status.GetFindings())
	}
	if f.refused(access.ReasonClone) != 2 {
		t.Error("not counted")
	}
}

func TestCounterMayJumpOnceAfterARestore(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	m.counter = 5 // the server was put back to before four renewals
	_, _, err := m.open(t.Context())
	wantCode(t, err, errs.Precondition)
	if err := f.app.fleet.Restored(t.Context(), fleet.Restore{Time: f.clock.Now()}); err != nil {
		t.Fatal(err)
	}
	m.mustOpen()
	m.counter = 9
	_, _, err = m.open(t.Context())
	wantCode(t, err, errs.Precondition)
}

func TestRoleTokenTakesTheFirstFreeNode(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	f.wanted([]fleet.Wanted{{Name: "prod1", Role: "prod"}, {Name: "prod2", Role: "prod"}, {Name: "dns", Role: "services"}})
	client := f.dialEnrol()
	var names []string
	for _, host := range []string{"prod2", "debian", "third"} {
		m := f.machine(host)
		resp, err := client.Enrol(t.Context(), m.request(f.token(anna, &v1.CreateTokenRequest{Role: "prod"})))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, resp.GetIdentity().GetNode()+":"+resp.GetState().String()[len("ENROLMENT_STATE_"):])
	}
	if got, want := strings.Join(names, " "), "prod2:ISSUED prod1:ISSUED :PENDING"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	m := f.machine("unknown")
	resp, err := client.Enrol(t.Context(), m.request(f.token(anna, &v1.CreateTokenRequest{Node: "unknown"})))
	if err != nil || resp.GetState() != pending {
		t.Errorf("a node that the site does not know: %v, %v", resp, err)
	}
}
