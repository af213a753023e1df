package app

import (
	"context"
	"crypto"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/jointoken"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/session"
)

const testSite = "testsite"

// fixture is a real server on free ports and a clock that the test moves.
type fixture struct {
	*testing.T
	cfg   Config
	clock *clock.Fake
	made  *InitResult
	site  *testSiteView
	app   *App
	stop  func()
}

func newFixture(t *testing.T, change ...func(*Config)) *fixture {
	t.Helper()
	dir := t.TempDir()
	socketDir, err := os.MkdirTemp("", "infractl") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(socketDir) })
	f := &fixture{T: t, clock: clock.NewFake(time.Now()), site: &testSiteView{}}
	f.cfg = Config{
		DataDir: filepath.Join(dir, "data"), Sessions: "127.0.0.1:0", Enrolment: "127.0.0.1:0",
		Socket: filepath.Join(socketDir, "admin.sock"), SocketUIDs: []uint32{uint32(os.Getuid())}, Site: testSite,
		Addresses: []string{"127.0.0.1"}, Firstboot: filepath.Join(dir, "firstboot.d"), Heartbeat: 2 * time.Second,
		Limits: session.EnrolmentLimits{PerAddress: 10000, PerAddressBurst: 10000, Total: 10000, TotalBurst: 10000},
		Clock:  f.clock, Log: hclog.NewNullLogger(), site: f.site,
	}
	if os.Getenv("TEST_LOG") != "" {
		f.cfg.Log = hclog.New(&hclog.LoggerOptions{Level: hclog.Debug})
	}
	for _, c := range change {
		c(&f.cfg)
	}
	if f.made, err = Init(t.Context(), f.cfg); err != nil {
		t.Fatal(err)
	}
	f.start()
	t.Cleanup(func() { f.stop() })
	return f
}

func (f *fixture) start() {
	f.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	app, err := New(ctx, f.cfg)
	if err != nil {
		cancel()
		f.Fatal(err)
	}
	f.app = app
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.Errorf("run: %v", err)
		}
	})
}

// testSiteView is a site whose nodes the test names.
type testSiteView struct {
	mu     sync.Mutex
	wanted []fleet.Wanted
}

// Wanted implements fleet.Site.
func (s *testSiteView) Wanted(context.Context) ([]fleet.Wanted, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wanted, s.wanted != nil, nil
}

// Status implements fleet.Site.
func (s *testSiteView) Status(context.Context) (fleet.SiteStatus, error) {
	return fleet.SiteStatus{}, nil
}

func (f *fixture) wanted(list []fleet.Wanted) {
	f.site.mu.Lock()
	defer f.site.mu.Unlock()
	f.site.wanted = list
}

func (f *fixture) refused(reason access.Reason) int {
	f.Helper()
	families, err := f.app.registry.Gather()
	if err != nil {
		f.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "infractl_refused_total" && m.GetLabel()[0].GetValue() == string(reason) {
				return int(m.GetCounter().GetValue())
			}
		}
	}
	return 0
}

// person is somebody or something with a certificate.
type person struct {
	cred *mtls.Credential
	conn *grpc.ClientConn
}

func newKey(t testing.TB) (crypto.Signer, []byte) {
	t.Helper()
	key, err := certs.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := certs.MakeCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, csr
}

func (f *fixture) dialMain(cred *mtls.Credential) *grpc.ClientConn {
	f.Helper()
	cfg, err := mtls.ClientConfig(mtls.ClientOptions{RootPEM: cred.RootPEM, Site: testSite, Clock: f.clock,
		Certificate: func() (*tls.Certificate, error) { return cred.TLS, nil }})
	if err != nil {
		f.Fatal(err)
	}
	return f.dial(f.app.Addresses().Sessions, credentials.NewTLS(cfg))
}

func (f *fixture) dial(address string, creds credentials.TransportCredentials) *grpc.ClientConn {
	f.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, append(mtls.ClientGRPC(), grpc.WithTransportCredentials(creds))...)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { conn.Close() })
	return conn
}

func (f *fixture) dialSocket() *grpc.ClientConn {
	f.Helper()
	conn, err := grpc.NewClient("passthrough:///socket", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", f.cfg.Socket)
		}))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { conn.Close() })
	return conn
}

func (f *fixture) enrolConn() *grpc.ClientConn {
	f.Helper()
	cfg := mtls.PinnedClientConfig(mtls.PinnedOptions{Fingerprint: f.made.Fingerprint, Site: testSite})
	return f.dial(f.app.Addresses().Enrolment, credentials.NewTLS(cfg))
}

func (f *fixture) dialEnrol() v1.EnrolmentServiceClient {
	f.Helper()
	return v1.NewEnrolmentServiceClient(f.enrolConn())
}

// login uses an admin code and returns an admin.
func (f *fixture) login(name string) *person {
	f.Helper()
	code, _, err := AdminCode(f.cfg)
	if err != nil {
		f.Fatal(err)
	}
	key, csr := newKey(f)
	resp, err := v1.NewOperatorServiceClient(f.dialSocket()).Login(f.Context(), &v1.LoginRequest{Code: code, Name: name, Csr: csr})
	if err != nil {
		f.Fatal(err)
	}
	cred, err := mtls.NewCredential(key, resp.GetIdentity().GetCertificatePem(), resp.GetIdentity().GetRootPem())
	if err != nil {
		f.Fatal(err)
	}
	return &person{cred: cred, conn: f.dialMain(cred)}
}

// operator makes an operator with a role directly in the store.
func (f *fixture) operator(name string, role certs.Role) *person {
	f.Helper()
	key, csr := newKey(f)
	issued, err := f.app.authority.IssueOperator(csr, name, role, 0)
	if err != nil {
		f.Fatal(err)
	}
	hash, err := fleet.KeyHash(key.Public())
	if err != nil {
		f.Fatal(err)
	}
	if _, err := f.app.fleet.Operators.Put(f.Context(), name, fleet.Operator{Name: name, Role: role, KeyHash: hash,
		Serial: issued.Serial, NotAfter: issued.NotAfter}, 0); err != nil {
		f.Fatal(err)
	}
	cred, err := mtls.NewCredential(key, issued.ChainPEM, f.app.authority.RootPEM())
	if err != nil {
		f.Fatal(err)
	}
	return &person{cred: cred, conn: f.dialMain(cred)}
}

func (f *fixture) token(admin *person, req *v1.CreateTokenRequest) *jointoken.Token {
	f.Helper()
	resp, err := v1.NewTokenServiceClient(admin.conn).CreateToken(f.Context(), req)
	if err != nil {
		f.Fatal(err)
	}
	tok, err := jointoken.Parse(resp.GetJoin())
	if err != nil {
		f.Fatal(err)
	}
	return tok
}

// machine is an agent's machine.
type machine struct {
	f       *fixture
	key     crypto.Signer
	csr     []byte
	name    string
	enrolID string
	fp      *v1.HostFingerprint
	cred    *mtls.Credential
	conn    *grpc.ClientConn
	counter uint64
	boot    string
}

func (f *fixture) machine(name string) *machine {
	f.Helper()
	key, csr := newKey(f)
	return &machine{f: f, key: key, csr: csr, name: name, enrolID: "enrolment-of-" + name + strings.Repeat("x", 8), boot: "boot-1",
		fp: &v1.HostFingerprint{MachineId: "id-" + name, MacAddresses: []string{"02:00:00:00:00:" + name}}, counter: 1}
}

func (m *machine) request(tok *jointoken.Token) *v1.EnrolRequest {
	req := &v1.EnrolRequest{EnrolmentId: m.enrolID, Csr: m.csr, Fingerprint: m.fp, Node: m.name, AgentVersion: "test",
		LocalTime: timestamppb.New(m.f.clock.Now())}
	if tok != nil {
		req.TokenId, req.TokenSecret = tok.ID, tok.Secret.Reveal()
	}
	return req
}

func (m *machine) take(id *v1.NodeIdentity) {
	m.f.Helper()
	cred, err := mtls.NewCredential(m.key, id.GetCertificatePem(), id.GetRootPem())
	if err != nil {
		m.f.Fatal(err)
	}
	m.cred, m.conn = cred, m.f.dialMain(cred)
}

// node enrols a machine with a token of its own.
func (f *fixture) node(admin *person, name string) *machine {
	f.Helper()
	m := f.machine(name)
	resp, err := f.dialEnrol().Enrol(f.Context(), m.request(f.token(admin, &v1.CreateTokenRequest{Node: name})))
	if err != nil {
		f.Fatal(err)
	}
	if resp.GetState() != v1.EnrolmentState_ENROLMENT_STATE_ISSUED {
		f.Fatalf("state = %s", resp.GetState())
	}
	m.take(resp.GetIdentity())
	return m
}

func (m *machine) hello() *v1.Hello {
	return &v1.Hello{AgentVersion: "test", Protocol: 1, BootId: m.boot, Fingerprint: m.fp, JoinCounter: m.counter,
		LocalTime: timestamppb.New(m.f.clock.Now())}
}

type testStream = grpc.BidiStreamingClient[v1.ConnectRequest, v1.ConnectResponse]

// open begins a session and returns its stream and what the server answered first.
func (m *machine) open(ctx context.Context) (testStream, *v1.Welcome, error) {
	stream, err := v1.NewSessionServiceClient(m.conn).Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	_ = stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Hello{Hello: m.hello()}})
	first, err := stream.Recv()
	if err != nil {
		return nil, nil, err
	}
	return stream, first.GetWelcome(), nil
}

func (m *machine) mustOpen() (testStream, *v1.Welcome) {
	m.f.Helper()
	ctx, cancel := context.WithCancel(m.f.Context())
	m.f.Cleanup(cancel)
	stream, welcome, err := m.open(ctx)
	if err != nil {
		m.f.Fatal(err)
	}
	return stream, welcome
}

// work answers tasks with probe results until the stream ends, and returns why it did.
func work(stream testStream) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if task := m.GetTask(); task != nil {
			send := func(r *v1.ConnectRequest) { _ = stream.Send(r) }
			send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Accepted{Accepted: &v1.TaskAccepted{TaskId: task.GetId()}}})
			send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Progress{Progress: &v1.TaskProgress{TaskId: task.GetId(), Message: "at it"}}})
			send(resultOf(task.GetId()))
		}
	}
}

func resultOf(id string) *v1.ConnectRequest {
	return &v1.ConnectRequest{Message: &v1.ConnectRequest_Result{Result: &v1.TaskResult{TaskId: id,
		Outcome: &v1.TaskResult_Probe{Probe: &v1.ProbeResult{}}}}}
}

func (f *fixture) task(id string, life time.Duration) *v1.Task {
	return &v1.Task{Id: id, NotAfter: timestamppb.New(f.clock.Now().Add(life)), Work: &v1.Task_Probe{Probe: &v1.ProbeTask{}}}
}

// eventually waits until ok.
func (f *fixture) eventually(what string, ok func() bool) {
	f.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			f.Fatalf("not within 5 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func wantCode(t testing.TB, err error, want errs.Code) {
	t.Helper()
	if got := errs.CodeOf(errs.FromGRPC(err)); got != want {
		t.Errorf("code = %q, want %q (%v)", got, want, err)
	}
}
