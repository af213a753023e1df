package app

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/jointoken"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/store"
)

func operators(p *person) v1.OperatorServiceClient { return v1.NewOperatorServiceClient(p.conn) }

// code adds an operator and returns the code.
func (f *fixture) code(admin *person, req *v1.AddOperatorRequest) *jointoken.Token {
	f.Helper()
	resp, err := operators(admin).AddOperator(f.Context(), req)
	if err != nil {
		f.Fatal(err)
	}
	tok, err := jointoken.ParseLogin(resp.GetCode())
	if err != nil {
		f.Fatal(err)
	}
	if tok.Fingerprint != f.made.Fingerprint || tok.Site != testSite || tok.Addresses[0] != f.app.Addresses().Enrolment {
		f.Errorf("the code says %+v", tok)
	}
	return tok
}

func (f *fixture) redeem(tok *jointoken.Token, csr []byte) (*v1.LoginOperatorResponse, error) {
	return f.dialEnrol().LoginOperator(f.Context(), &v1.LoginOperatorRequest{CodeId: tok.ID, CodeSecret: tok.Secret.Reveal(), Csr: csr})
}

// loginWith uses a code with a fresh key.
func (f *fixture) loginWith(tok *jointoken.Token) *person {
	f.Helper()
	key, csr := newKey(f)
	resp, err := f.redeem(tok, csr)
	if err != nil {
		f.Fatal(err)
	}
	cred, err := mtls.NewCredential(key, resp.GetIdentity().GetCertificatePem(), resp.GetIdentity().GetRootPem())
	if err != nil {
		f.Fatal(err)
	}
	return &person{cred: cred, conn: f.dialMain(cred)}
}

func (f *fixture) audited(ok func(store.AuditEntry) bool) bool {
	entries, err := f.app.store.ListAudit(f.Context(), store.AuditFilter{})
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range entries {
		if ok(e) {
			return true
		}
	}
	return false
}

func TestLoginFromAfar(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	tok := f.code(anna, &v1.AddOperatorRequest{Name: "berta", Role: v1.Role_ROLE_OPERATOR})
	key, csr := newKey(t)
	first, err := f.redeem(tok, csr)
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.redeem(tok, csr) // the reply was lost
	if err != nil || string(again.GetIdentity().GetCertificatePem()) != string(first.GetIdentity().GetCertificatePem()) {
		t.Errorf("the same key again: %v", err)
	}
	_, other := newKey(t)
	_, err = f.redeem(tok, other)
	wantCode(t, err, errs.Denied)
	wrong := *tok
	wrong.Secret = jointoken.NewSecret(strings.Repeat("x", 43))
	_, err = f.redeem(&wrong, csr)
	wantCode(t, err, errs.Denied)
	if got := f.refused(access.ReasonLogin); got != 2 {
		t.Errorf("%d refusals counted, want 2", got)
	}
	f.clock.Advance(11 * time.Minute)
	_, err = f.redeem(tok, csr)
	wantCode(t, err, errs.Denied)

	cred, err := mtls.NewCredential(key, first.GetIdentity().GetCertificatePem(), first.GetIdentity().GetRootPem())
	if err != nil {
		t.Fatal(err)
	}
	berta := &person{cred: cred, conn: f.dialMain(cred)}
	who, err := operators(berta).GetIdentity(t.Context(), &v1.GetIdentityRequest{})
	if err != nil || who.GetName() != "berta" || who.GetRole() != v1.Role_ROLE_OPERATOR {
		t.Errorf("%v, %v", who, err)
	}
	if !f.audited(func(e store.AuditEntry) bool {
		return e.Actor == "operator/berta" && e.Action == v1.EnrolmentService_LoginOperator_FullMethodName && e.Result == "ok" &&
			strings.Contains(e.Message, "operator/anna")
	}) {
		t.Error("the login is not audited")
	}
	entries, err := f.app.store.ListAudit(t.Context(), store.AuditFilter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(e.Message+e.Request+e.Target, tok.Secret.Reveal()) {
			t.Errorf("the secret is in the log: %+v", e)
		}
	}
	codes, err := f.app.store.List(t.Context(), "login-code", store.ListOptions{})
	if err != nil || len(codes) != 1 || strings.Contains(string(codes[0].Data), tok.Secret.Reveal()) {
		t.Errorf("stored codes: %d, %v, or the secret is among them", len(codes), err)
	}
}

func TestCodesEnd(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	_, csr := newKey(t)
	late := f.code(anna, &v1.AddOperatorRequest{Name: "berta", Role: v1.Role_ROLE_VIEWER})
	f.clock.Advance(time.Hour)
	_, err := f.redeem(late, csr)
	wantCode(t, err, errs.Denied)
	old := f.code(anna, &v1.AddOperatorRequest{Name: "berta", Ttl: durationpb.New(24 * time.Hour)})
	f.code(anna, &v1.AddOperatorRequest{Name: "berta"}) // takes the place of the one before
	_, err = f.redeem(old, csr)
	wantCode(t, err, errs.Denied)
	for name, req := range map[string]*v1.AddOperatorRequest{
		"too long a life": {Name: "carla", Role: v1.Role_ROLE_VIEWER, Ttl: durationpb.New(25 * time.Hour)},
		"no role":         {Name: "carla"},
		"odd name":        {Name: "Carla C", Role: v1.Role_ROLE_VIEWER},
		"long name":       {Name: strings.Repeat("c", 32), Role: v1.Role_ROLE_VIEWER},
	} {
		_, err := operators(anna).AddOperator(t.Context(), req)
		if errs.CodeOf(errs.FromGRPC(err)) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = operators(anna).AddOperator(t.Context(), &v1.AddOperatorRequest{Name: "berta", Role: v1.Role_ROLE_ADMIN})
	wantCode(t, err, errs.Exists)
	f.clock.Advance(25 * time.Hour)
	if err := f.app.people.operators.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := f.app.store.List(t.Context(), "login-code", store.ListOptions{}); err != nil || len(left) != 0 {
		t.Errorf("%d codes left, %v", len(left), err)
	}
}

func TestLoginsAreLimited(t *testing.T) {
	f := newFixture(t)
	_, csr := newKey(t)
	tok := &jointoken.Token{ID: "nothing", Secret: jointoken.NewSecret(strings.Repeat("x", 43))}
	var err error
	for range 100 {
		if _, err = f.redeem(tok, csr); errs.CodeOf(errs.FromGRPC(err)) != errs.Denied {
			break
		}
	}
	wantCode(t, err, errs.Exhausted)
	if f.refused(access.ReasonRate) == 0 {
		t.Error("not counted")
	}
}

func TestANewMachineEndsTheFormerIdentity(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	former := f.loginWith(f.code(anna, &v1.AddOperatorRequest{Name: "berta", Role: v1.Role_ROLE_OPERATOR}))
	next := f.loginWith(f.code(anna, &v1.AddOperatorRequest{Name: "berta"}))
	_, err := operators(former).GetIdentity(t.Context(), &v1.GetIdentityRequest{})
	wantCode(t, err, errs.Revoked)
	if _, err := operators(next).GetIdentity(t.Context(), &v1.GetIdentityRequest{}); err != nil {
		t.Error(err)
	}
}

func TestRolesChangeAtOnceAndRemovalEndsAll(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	berta := f.loginWith(f.code(anna, &v1.AddOperatorRequest{Name: "berta", Role: v1.Role_ROLE_VIEWER}))
	tokens := v1.NewTokenServiceClient(berta.conn)
	_, err := tokens.ListTokens(t.Context(), &v1.ListTokensRequest{})
	wantCode(t, err, errs.Denied)
	if _, err := operators(anna).SetOperatorRole(t.Context(), &v1.SetOperatorRoleRequest{Name: "berta", Role: v1.Role_ROLE_OPERATOR}); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.ListTokens(t.Context(), &v1.ListTokensRequest{}); err != nil {
		t.Errorf("after the change: %v", err)
	}
	list, err := operators(anna).ListOperators(t.Context(), &v1.ListOperatorsRequest{})
	if err != nil || len(list.GetOperators()) != 2 || list.GetOperators()[1].GetName() != "berta" ||
		list.GetOperators()[1].GetCreatedBy() != "operator/anna" || list.GetOperators()[1].GetLastSeen() == nil {
		t.Errorf("list = %v, %v", list, err)
	}
	if _, err := operators(anna).RemoveOperator(t.Context(), &v1.RemoveOperatorRequest{Name: "berta"}); err != nil {
		t.Fatal(err)
	}
	_, err = operators(berta).GetIdentity(t.Context(), &v1.GetIdentityRequest{})
	wantCode(t, err, errs.Revoked)
	_, err = operators(anna).RemoveOperator(t.Context(), &v1.RemoveOperatorRequest{Name: "berta"})
	wantCode(t, err, errs.NotFound)
	// The name is free, the key is not.
	csr, err := certs.MakeCSR(berta.cred.Key())
	if err != nil {
		t.Fatal(err)
	}
	tok := f.code(anna, &v1.AddOperatorRequest{Name: "berta", Role: v1.Role_ROLE_VIEWER})
	_, err = f.redeem(tok, csr)
	wantCode(t, err, errs.Denied)
	f.loginWith(tok)
}

func TestTheLastAdminStays(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	code := f.code(anna, &v1.AddOperatorRequest{Name: "berta", Role: v1.Role_ROLE_ADMIN}) // who has not logged in
	demote := func(p *person, name string) error {
		_, err := operators(p).SetOperatorRole(t.Context(), &v1.SetOperatorRoleRequest{Name: name, Role: v1.Role_ROLE_VIEWER})
		return err
	}
	remove := func(p *person, name string) error {
		_, err := operators(p).RemoveOperator(t.Context(), &v1.RemoveOperatorRequest{Name: name})
		return err
	}
	wantCode(t, demote(anna, "anna"), errs.Precondition)
	wantCode(t, remove(anna, "anna"), errs.Precondition)
	berta := f.loginWith(code)
	// Two that take each other away at the same time: one of them stays.
	ended := make(chan error, 2)
	go func() { ended <- remove(anna, "berta") }()
	go func() { ended <- demote(berta, "anna") }()
	first, second := <-ended, <-ended
	if (first == nil) == (second == nil) {
		t.Errorf("both or none: %v, %v", first, second)
	}
	admins := 0
	list, err := f.app.fleet.Operators.List(t.Context(), store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range list {
		if it.Value.Role == certs.RoleAdmin {
			admins++
		}
	}
	if admins != 1 {
		t.Errorf("%d admins are left", admins)
	}
}

// hanging is a stream that a handler of the server never ends by itself.
func hanging(t *testing.T, p *person) grpc.ClientStream {
	t.Helper()
	stream, err := p.conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, v1.ConsoleService_Exec_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func TestWhatIsUnderWayIsCut(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	berta := f.loginWith(f.code(anna, &v1.AddOperatorRequest{Name: "berta", Role: v1.Role_ROLE_ADMIN}))
	setRole := func(role v1.Role) {
		t.Helper()
		if _, err := operators(anna).SetOperatorRole(t.Context(), &v1.SetOperatorRoleRequest{Name: "berta", Role: role}); err != nil {
			t.Fatal(err)
		}
	}
	open := func() grpc.ClientStream {
		t.Helper()
		stream := hanging(t, berta)
		f.eventually("the call is under way", func() bool { return f.app.people.live.Calls("berta") == 1 })
		return stream
	}
	stream := open()
	setRole(v1.Role_ROLE_VIEWER)
	wantCode(t, stream.RecvMsg(&v1.ExecResponse{}), errs.Denied)

	setRole(v1.Role_ROLE_ADMIN)
	stream = open()
	if _, err := operators(anna).RemoveOperator(t.Context(), &v1.RemoveOperatorRequest{Name: "berta"}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, stream.RecvMsg(&v1.ExecResponse{}), errs.Revoked)
	f.eventually("nothing is left of it", func() bool { return f.app.people.live.Calls("berta") == 0 })
}
