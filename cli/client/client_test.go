package client

import (
	"context"
	"crypto"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func start() time.Time { return time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC) }

// world is a site's authority and a listener that speaks its TLS and no gRPC method.
type world struct {
	ca    *certs.Authority
	clock *clock.Fake // the server's
	addr  string
}

func newWorld(t *testing.T, site string) *world {
	t.Helper()
	w := &world{clock: clock.NewFake(start())}
	var err error
	if w.ca, err = certs.Create(filepath.Join(t.TempDir(), "ca"), site, w.clock); err != nil {
		t.Fatal(err)
	}
	cert, err := mtls.NewServerCertificate(mtls.ServerCertificateConfig{Clock: w.clock, Logger: hclog.NewNullLogger(),
		Issue: func(pub crypto.PublicKey) (*certs.Issued, error) { return w.ca.IssueServer(pub, "relay", nil, nil) }})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = listener.Addr().String()
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(mtls.ServerConfig(mtls.ServerOptions{Certificate: cert.Get,
		Roots: w.ca.RootPool(), Site: site, Clock: w.clock, RequireClient: true}))))
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return w
}

func (w *world) logIn(t *testing.T, servers ...string) *Folder {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	issued, err := w.ca.IssueOperator(key.CSR, "anna", certs.RoleAdmin, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := NewFolder(filepath.Join(t.TempDir(), "config"))
	if err := f.Store(key, &v1.OperatorIdentity{Site: w.ca.Site(), Name: "anna", Role: v1.Role_ROLE_ADMIN, CertificatePem: issued.ChainPEM,
		RootPem: w.ca.RootPEM(), ServerAddresses: servers}); err != nil {
		t.Fatal(err)
	}
	return f
}

// listen returns the address of a listener that does serve with each connection.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return listener.Addr().String()
}

func TestConnectSaysWhyNot(t *testing.T) {
	here, elsewhere := newWorld(t, "projetpro"), newWorld(t, "projetpro")
	// This identity is fresh by the operator's clock, and expired by the server's.
	late := newWorld(t, "projetpro")
	expired := late.logIn(t)
	late.clock.Advance(48 * time.Hour)
	plain := listen(t, func(c net.Conn) { c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")); c.Close() })
	silent := listen(t, func(c net.Conn) { time.Sleep(5 * time.Second); c.Close() })
	tests := map[string]struct {
		folder  *Folder
		servers string
		want    errs.Code
		text    string
	}{
		"OK":               {here.logIn(t), here.addr, "", ""},
		"NobodyThere":      {here.logIn(t), "127.0.0.1:1", errs.Unavailable, "the server does not answer: connect: connection refused"},
		"Silent":           {here.logIn(t), silent, errs.Unavailable, "the server does not answer"},
		"NoTLS":            {here.logIn(t), plain, errs.Unavailable, "what answers does not speak TLS"},
		"ForeignServer":    {here.logIn(t), elsewhere.addr, errs.Unauthenticated, "what answers is not the server of this site"},
		"RefusedByServer":  {expired, late.addr, errs.Unauthenticated, "the server does not accept this identity"},
		"NoAddress":        {here.logIn(t), "", errs.Precondition, "no server address is known"},
		"AddressNoPort":    {here.logIn(t), "127.0.0.1", errs.Invalid, "is not HOST:PORT"},
		"NeverLoggedIn":    {NewFolder(t.TempDir()), here.addr, errs.Unauthenticated, "not logged in"},
		"IdentityIsMissed": {without(t, here.logIn(t), "identity.pem"), here.addr, errs.Unauthenticated, "not logged in"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := tt.folder.Connect(t.Context(), Options{Server: tt.servers, Clock: clock.NewFake(start()), DialTimeout: time.Second})
			if err == nil {
				conn.Close()
			}
			if errs.CodeOf(err) != tt.want || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %q: %v; want %q: %s", errs.CodeOf(err), err, tt.want, tt.text)
			}
			if err != nil && errs.HintOf(err) == "" {
				t.Errorf("no hint: %v", err)
			}
		})
	}
}

func without(t *testing.T, f *Folder, name string) *Folder {
	t.Helper()
	if err := os.Remove(filepath.Join(f.Dir(), name)); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestConnectTakesTheFirstServerThatAnswers(t *testing.T) {
	w := newWorld(t, "projetpro")
	f := w.logIn(t, "127.0.0.1:1", w.addr)
	conn, err := f.Connect(t.Context(), Options{Clock: clock.NewFake(start())})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.Target() != "passthrough:///"+w.addr {
		t.Errorf("connected to %s", conn.Target())
	}
}

func TestCancelEndsConnect(t *testing.T) {
	w := newWorld(t, "projetpro")
	silent := listen(t, func(c net.Conn) { time.Sleep(5 * time.Second); c.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	before := time.Now()
	if _, err := w.logIn(t, silent).Connect(ctx, Options{Clock: clock.NewFake(start())}); err == nil {
		t.Error("connected to a silent server")
	}
	if took := time.Since(before); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestStoreKeepsKeysToItselfAndKnownServers(t *testing.T) {
	w := newWorld(t, "projetpro")
	f := w.logIn(t, "10.0.10.4:7443")
	for _, name := range []string{"identity.pem", "settings.json"} {
		info, err := os.Stat(filepath.Join(f.Dir(), name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
	}
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	issued, err := w.ca.IssueOperator(key.CSR, "anna", certs.RoleAdmin, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Store(key, &v1.OperatorIdentity{Site: "projetpro", CertificatePem: issued.ChainPEM, RootPem: w.ca.RootPEM()}); err != nil {
		t.Fatal(err)
	}
	if s, err := f.Settings(); err != nil || len(s.Servers) != 1 {
		t.Errorf("an answer without addresses made the command forget its server: %+v, %v", s, err)
	}
	other, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Store(other, &v1.OperatorIdentity{Site: "projetpro", CertificatePem: issued.ChainPEM, RootPem: w.ca.RootPEM()}); err == nil {
		t.Error("a certificate for another key was stored")
	}
}
