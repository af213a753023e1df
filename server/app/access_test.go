package app

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// call calls any method with an empty request. Streaming methods answer the same way: the gate decides before the handler.
func call(ctx context.Context, conn grpc.ClientConnInterface, method string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	_ = stream.SendMsg(&emptypb.Empty{})
	_ = stream.CloseSend()
	return stream.RecvMsg(&emptypb.Empty{})
}

// TestEveryMethodForEveryCaller tries the whole contract as everybody, on every listener.
func TestEveryMethodForEveryCaller(t *testing.T) {
	f := newFixture(t)
	admin := f.login("root-admin")
	node := f.node(admin, "web")
	callers := map[string]*grpc.ClientConn{
		"node": node.conn, "admin": admin.conn, "viewer": f.operator("vera", certs.RoleViewer).conn,
		"operator": f.operator("otto", certs.RoleOperator).conn, "auditor": f.operator("augusta", certs.RoleAuditor).conn,
		"probe": f.probe(admin, "outside").conn, "service": f.scraper("web"), "removed": f.removed(admin, "rita").conn,
	}
	tried := 0
	for method, rule := range access.Methods() {
		for who, conn := range callers {
			tried++
			err := call(t.Context(), conn, method)
			code := status.Code(err)
			var want string
			switch {
			case rule.Listener != access.Main:
				want = "absent"
			case (who == "node" || who == "probe") && rule.Nodes || rule.Allows(certs.Role(who)):
				want = "let in"
			case who == "removed":
				want = "revoked"
			default:
				want = "refused"
			}
			got := "let in"
			if code == codes.PermissionDenied {
				got = "refused"
			} else if code == codes.Unimplemented && want == "absent" {
				got = "absent"
			}
			if code := errs.CodeOf(errs.FromGRPC(err)); code == errs.Revoked {
				got = "revoked"
			}
			if got != want {
				t.Errorf("%s calls %s: %s (%s), want %s", who, method, got, code, want)
			}
		}
	}
	if got := f.refused(access.ReasonRole) + f.refused(access.ReasonCaller) + f.refused(access.ReasonMethod); got == 0 || got > tried {
		t.Errorf("%d refusals counted of %d tries", got, tried)
	}
	for method := range access.Methods() { // somebody who shows no certificate gets no connection
		if code := status.Code(call(t.Context(), f.nobody(), method)); code != codes.Unavailable {
			t.Errorf("nobody calls %s: %s", method, code)
		}
	}
	for method, rule := range access.Methods() {
		for where, conn := range map[access.Listener]*grpc.ClientConn{
			access.Socket: f.dialSocket(),
			access.Enrol:  f.enrolConn(),
		} {
			absent := status.Code(call(t.Context(), conn, method)) == codes.Unimplemented
			if absent == (rule.Listener == where) {
				t.Errorf("%s on %s: absent is %v", method, where, absent)
			}
		}
	}
}

// probe enrols a probe, which is a node that manages nothing.
func (f *fixture) probe(admin *person, name string) *machine {
	f.Helper()
	m := f.node(admin, name)
	if _, err := f.app.fleet.UpdateNode(f.Context(), name, func(n *fleet.Node) error { n.Probe = true; return nil }); err != nil {
		f.Fatal(err)
	}
	return m
}

// scraper is the connection of Prometheus on a node.
func (f *fixture) scraper(node string) *grpc.ClientConn {
	f.Helper()
	key, csr := newKey(f)
	issued, err := f.app.authority.IssueScraper(csr, node)
	if err != nil {
		f.Fatal(err)
	}
	cred, err := mtls.NewCredential(key, issued.ChainPEM, f.app.authority.RootPEM())
	if err != nil {
		f.Fatal(err)
	}
	return f.dialMain(cred)
}

// removed is an operator whose identity was withdrawn.
func (f *fixture) removed(admin *person, name string) *person {
	f.Helper()
	p := f.operator(name, certs.RoleAdmin)
	if _, err := v1.NewOperatorServiceClient(admin.conn).RemoveOperator(f.Context(), &v1.RemoveOperatorRequest{Name: name}); err != nil {
		f.Fatal(err)
	}
	return p
}

// nobody connects to the main listener without a certificate.
func (f *fixture) nobody() *grpc.ClientConn {
	f.Helper()
	cfg := mtls.PinnedClientConfig(mtls.PinnedOptions{Fingerprint: f.made.Fingerprint, Site: testSite})
	return f.dial(f.app.Addresses().Sessions, credentials.NewTLS(cfg))
}

func TestWrongCertificatesGetNoConnection(t *testing.T) {
	f := newFixture(t)
	f.login("anna")
	other, err := certs.Create(t.TempDir()+"/ca", testSite, f.clock) // the same site name, another authority
	if err != nil {
		t.Fatal(err)
	}
	credential := func(a *certs.Authority, issue func(*certs.Authority, []byte) (*certs.Issued, error)) *mtls.Credential {
		key, csr := newKey(t)
		issued, err := issue(a, csr)
		if err != nil {
			t.Fatal(err)
		}
		cred, err := mtls.NewCredential(key, issued.ChainPEM, a.RootPEM())
		if err != nil {
			t.Fatal(err)
		}
		cred.RootPEM = f.app.authority.RootPEM() // the client trusts the right server in any case
		return cred
	}
	asNode := func(a *certs.Authority, csr []byte) (*certs.Issued, error) { return a.IssueNode(csr, "web") }
	asAdmin := func(a *certs.Authority, csr []byte) (*certs.Issued, error) {
		return a.IssueOperator(csr, "anna", certs.RoleAdmin, 0)
	}
	refused := 0
	for name, cred := range map[string]*mtls.Credential{
		"node of another authority":  credential(other, asNode),
		"admin of another authority": credential(other, asAdmin),
	} {
		t.Run(name, func(t *testing.T) {
			refused++
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if err := call(ctx, f.dialMain(cred), v1.NodeService_ListNodes_FullMethodName); err == nil {
				t.Error("it was let in")
			}
			f.eventually("it is counted", func() bool { return f.refused(access.ReasonHandshake) >= refused })
		})
	}
	t.Run("expired", func(t *testing.T) {
		cred := credential(f.app.authority, asNode)
		f.clock.Advance(8 * 24 * time.Hour)
		before := f.refused(access.ReasonHandshake)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := call(ctx, f.dialMain(cred), v1.SessionService_Connect_FullMethodName); err == nil {
			t.Error("it was let in")
		}
		f.eventually("it is counted", func() bool { return f.refused(access.ReasonHandshake) > before })
	})
	f.eventually("all are audited", func() bool {
		entries, err := f.app.store.ListAudit(t.Context(), store.AuditFilter{Action: "handshake main"})
		return err == nil && len(entries) >= 3
	})
}

func TestGoodCertificateWithoutRecord(t *testing.T) {
	f := newFixture(t)
	admin := f.login("anna")
	m := f.node(admin, "web")
	if err := f.app.fleet.NodeTable.Delete(t.Context(), "web", store.Any); err != nil { // a server put back from an older backup
		t.Fatal(err)
	}
	_, _, err := m.open(t.Context())
	wantCode(t, err, errs.Precondition) // never a revocation
	// An agent with an identity never looks for a token: the hint must say what becomes of the identity.
	if hint := errs.HintOf(errs.FromGRPC(err)); !strings.Contains(hint, "/var/lib/infractl/identity") ||
		!strings.Contains(hint, "infractl token create --node web") {
		t.Errorf("hint = %q", hint)
	}
	if f.refused(access.ReasonUnknown) != 1 {
		t.Error("not counted")
	}
	forged := f.machine("web") // the authority's, but not the key that the node is bound to
	issuedCert, err := f.app.authority.IssueNode(forged.csr, "web")
	if err != nil {
		t.Fatal(err)
	}
	forged.take(&v1.NodeIdentity{CertificatePem: issuedCert.ChainPEM, RootPem: f.app.authority.RootPEM()})
	_, _, err = forged.open(t.Context())
	wantCode(t, err, errs.Precondition)
}

func TestUnknownMethodsAndLargeMessagesAreCountedAndAudited(t *testing.T) {
	f := newFixture(t)
	admin := f.login("anna")
	m := f.node(admin, "web")
	for i, method := range []string{"/infractl.v1.NodeService/Nothing", "/other.Service/Method"} {
		if code := status.Code(call(t.Context(), admin.conn, method)); code != codes.Unimplemented {
			t.Errorf("%s: %s", method, code)
		}
		if got := f.refused(access.ReasonMethod); got != i+1 {
			t.Errorf("counted %d", got)
		}
	}
	_, err := v1.NewSessionServiceClient(m.conn).Confirm(t.Context(), &v1.ConfirmRequest{CommitId: strings.Repeat("x", 100<<10)})
	wantCode(t, err, errs.Exhausted)
	_, err = v1.NewSessionServiceClient(m.conn).Confirm(t.Context(), &v1.ConfirmRequest{CommitId: strings.Repeat("x", 5<<20)})
	wantCode(t, err, errs.Exhausted)
	_, err = f.dialEnrol().Enrol(t.Context(), &v1.EnrolRequest{Csr: make([]byte, 1<<20)})
	wantCode(t, err, errs.Exhausted)
	f.eventually("all are counted", func() bool { return f.refused(access.ReasonTooLarge) == 3 })
	for actor, want := range map[string]int{"node/web": 2, "operator/anna": 2, "address/127.0.0.1": 1} {
		f.eventually("all are audited", func() bool {
			entries, err := f.app.store.ListAudit(t.Context(), store.AuditFilter{Actor: actor})
			n := 0
			for _, e := range entries {
				if e.Result == string(errs.Exhausted) || e.Result == string(errs.Denied) {
					n++
				}
			}
			return err == nil && n == want
		})
	}
}

func TestStoredRoleHoldsAtOnce(t *testing.T) {
	f := newFixture(t)
	otto := f.operator("otto", certs.RoleAdmin)
	tokens := v1.NewTokenServiceClient(otto.conn)
	if _, err := tokens.CreateToken(t.Context(), &v1.CreateTokenRequest{Node: "web"}); err != nil {
		t.Fatal(err)
	}
	it, err := f.app.fleet.Operators.Get(t.Context(), "otto")
	if err != nil {
		t.Fatal(err)
	}
	it.Value.Role = certs.RoleViewer
	if _, err := f.app.fleet.Operators.Put(t.Context(), "otto", it.Value, it.Revision); err != nil {
		t.Fatal(err)
	}
	_, err = tokens.CreateToken(t.Context(), &v1.CreateTokenRequest{Node: "web"})
	wantCode(t, err, errs.Denied)
}

func TestTokensAreCheckedAndListed(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	tokens := v1.NewTokenServiceClient(anna.conn)
	for name, req := range map[string]*v1.CreateTokenRequest{
		"nothing": {}, "both": {Node: "web", Role: "prod"}, "odd node": {Node: "a b"}, "odd role": {Role: "king"},
		"pending and node": {Node: "web", Pending: true}, "pending and role": {Role: "prod", Pending: true},
		"pending with an end": {Pending: true, Ttl: durationpb.New(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tokens.CreateToken(t.Context(), req)
			wantCode(t, err, errs.Invalid)
		})
	}
	tok := f.token(anna, &v1.CreateTokenRequest{Role: "prod"})
	list, err := tokens.ListTokens(t.Context(), &v1.ListTokensRequest{})
	if err != nil || len(list.GetTokens()) != 1 || list.GetTokens()[0].GetOperator() != "anna" {
		t.Fatalf("list = %v, %v", list, err)
	}
	if strings.Contains(list.String(), tok.Secret.Reveal()) {
		t.Error("the secret is in the list")
	}
}
