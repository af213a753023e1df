package mtls

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

// Limits and times of gRPC connections, the same on both sides.
const (
	// MaxMessage is the largest message that server, agents and operators accept, in bytes.
	MaxMessage = 10 << 20
	// MaxSessionMessage is the largest message that an agent may send in its session, in bytes.
	MaxSessionMessage = 1 << 20
	// MaxEnrolMessage is the largest message that the enrolment listener accepts: its callers are not known yet.
	MaxEnrolMessage = 64 << 10
	// MaxHeaders is the largest list of headers that is accepted, in bytes.
	MaxHeaders = 16 << 10
	// MaxStreams is how many calls one connection may have at once.
	MaxStreams = 100
	// KeepaliveTime is how long a connection may be silent before it is probed.
	KeepaliveTime = 10 * time.Second
	// KeepaliveTimeout is how long the answer may take: a dead way is noticed after KeepaliveTime and this, well inside the
	// window of a commit.
	KeepaliveTimeout = 5 * time.Second
	// KeepaliveMin is the shortest interval of probes that the server puts up with.
	KeepaliveMin = 5 * time.Second
	// HandshakeTimeout bounds TCP connection, TLS handshake and HTTP/2 preface.
	HandshakeTimeout = 10 * time.Second
)

// ServerGRPC returns the options of a gRPC server whose messages are at most maxMessage bytes.
func ServerGRPC(maxMessage int) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.MaxHeaderListSize(MaxHeaders),
		grpc.MaxConcurrentStreams(MaxStreams),
		grpc.ConnectionTimeout(HandshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: KeepaliveTime, Timeout: KeepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: KeepaliveMin, PermitWithoutStream: true}),
	}
}

// ClientGRPC returns the options of a gRPC client. Probes are sent only while a call is open: an agent always has its
// session, and an idle operator's connection needs none.
func ClientGRPC() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithMaxHeaderListSize(MaxHeaders),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: KeepaliveTime, Timeout: KeepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.5, MaxDelay: 5 * time.Second},
			MinConnectTimeout: HandshakeTimeout,
		}),
		// The server's certificate is checked by identity; a proxy from the environment would only be in the way.
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
	}
}
