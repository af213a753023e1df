package mtls

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
)

type healthServer struct {
	healthpb.UnimplementedHealthServer
}

// Check answers with the caller's identity as an error text, which needs no message of our own.
func (healthServer) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	id, err := PeerIdentity(ctx)
	if err != nil {
		return nil, errs.ToGRPC(err)
	}
	return nil, errs.ToGRPC(errs.New(errs.Denied, "you are %s %s until %s", id, id.Role, id.NotAfter.Format(time.RFC3339)))
}

func TestCallsCarryTheIdentityOfTheCertificate(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(append(ServerGRPC(MaxEnrolMessage), grpc.Creds(credentials.NewTLS(w.server(true))))...)
	healthpb.RegisterHealthServer(server, healthServer{})
	go server.Serve(l)
	defer server.Stop()

	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(),
		append(ClientGRPC(), grpc.WithTransportCredentials(credentials.NewTLS(w.client(t, w.pair(t, asOperator), w.clock, ""))))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client := healthpb.NewHealthClient(conn)
	_, err = client.Check(ctx, &healthpb.HealthCheckRequest{})
	err = errs.FromGRPC(err)
	want := "you are operator/jane admin until " + start().Add(certs.OperatorLife).Format(time.RFC3339)
	if !errs.Is(err, errs.Denied) || !strings.Contains(err.Error(), want) {
		t.Errorf("answer = %v, want %q", err, want)
	}
	_, err = client.Check(ctx, &healthpb.HealthCheckRequest{Service: strings.Repeat("x", MaxEnrolMessage)})
	if err = errs.FromGRPC(err); !errs.Is(err, errs.Exhausted) {
		t.Errorf("message too large: %v", err)
	}
}
