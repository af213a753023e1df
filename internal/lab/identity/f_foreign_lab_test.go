//go:build lab

package identity

import (
	"context"
	"crypto/tls"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// The server's own tests cover the rest in process; this is the one real connection.
func TestACertificateOfAForeignAuthorityOpensNothing(t *testing.T) {
	whole(t)
	foreign, err := certs.Create(filepath.Join(t.TempDir(), "ca"), "projetpro", clock.System{})
	if err != nil {
		t.Fatal(err)
	}
	real, err := mtls.NewCredentials(filepath.Join(site.Lab.VM(demo.Prod).Root(), "var/lib/infractl/identity")).Current()
	if err != nil {
		t.Fatal(err)
	}
	key, err := certs.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := certs.MakeCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := foreign.IssueOperator(csr, "anna", certs.RoleAdmin, 0)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := mtls.NewCredential(key, issued.ChainPEM, foreign.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	config, err := mtls.ClientConfig(mtls.ClientOptions{RootPEM: real.RootPEM, Site: "projetpro", Clock: clock.System{},
		Certificate: func() (*tls.Certificate, error) { return cred.TLS, nil }})
	if err != nil {
		t.Fatal(err)
	}
	before := refused(t, "handshake")
	conn, err := grpc.NewClient("passthrough:///10.0.10.4:7443", grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return site.Lab.Namespace(demo.Operator).DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := v1.NewNodeServiceClient(conn).ListNodes(ctx, &v1.ListNodesRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("the call ended with %v", err)
	}
	if after := refused(t, "handshake"); after <= before {
		t.Errorf("the server counted %d refused handshakes before and %d after", before, after)
	}
	if !audited(t, "", "unauthenticated", "") {
		t.Error("the audit log knows of no refused handshake")
	}
}
