package client

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/mtls"
)

// dial opens a connection and waits until the server has accepted it. gRPC itself only says that a connection failed; why is
// written down on the way, because a dead VPN, a foreign server and a refused identity ask for different things of people.
//
// A server that refuses a certificate says so and closes; when our own writing meets the closed connection first, what it said
// is lost, and it is asked again.
func dial(ctx context.Context, addr string, limit time.Duration, cfg *tls.Config) (*grpc.ClientConn, error) {
	const tries = 5
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for try := 1; ; try++ {
		why := &reason{}
		conn, err := dialOnce(ctx, addr, cfg, why)
		if err == nil || try == tries || ctx.Err() != nil || !why.lost() {
			return conn, err
		}
	}
}

func dialOnce(ctx context.Context, addr string, cfg *tls.Config, why *reason) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, append(mtls.ClientGRPC(),
		grpc.WithTransportCredentials(watched{credentials.NewTLS(cfg), why}),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", addr)
			why.set(err)
			return conn, err
		}))...)
	if err != nil {
		return nil, errs.New(errs.Invalid, "%w", err).At(addr)
	}
	conn.Connect()
	for {
		switch state := conn.GetState(); {
		case state == connectivity.Ready:
			return conn, nil
		case state == connectivity.TransientFailure || !conn.WaitForStateChange(ctx, state):
			conn.Close()
			return nil, why.explain(addr)
		}
	}
}

// reason is the last error of a connection.
type reason struct {
	mu  sync.Mutex
	err error
	// shaken says that the handshake was done before it.
	shaken bool
}

// lost reports whether a connection ended after its handshake without a word of the other side.
func (r *reason) lost() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shaken && !remote(r.err)
}

func (r *reason) set(err error) {
	if err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// What the other side said stays; that the connection then ended says nothing more.
	if !remote(r.err) {
		r.err = err
	}
}

// remote reports whether err is what the other side of a TLS connection said.
func remote(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

func (r *reason) explain(addr string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var known *errs.Error
	var header tls.RecordHeaderError
	switch err := r.err; {
	case remote(err):
		var op *net.OpError
		errors.As(err, &op)
		return errs.New(errs.Unauthenticated, "the server does not accept this identity: %w", op.Err).At(addr).
			WithHint("is this the site of your identity? Otherwise log in again: %s", loginHint)
	case errors.As(err, &known) && errs.Is(err, errs.Unauthenticated):
		return errs.New(errs.Unauthenticated, "what answers is not the server of this site: %w", err).At(addr).
			WithHint("check the address, and this machine's clock")
	case errors.As(err, &header):
		return errs.New(errs.Unavailable, "what answers does not speak TLS").At(addr).WithHint("check the address and the port")
	default:
		failed := errs.New(errs.Unavailable, "the server does not answer").At(addr)
		var op *net.OpError
		if errors.As(err, &op) && op.Err != nil {
			failed = errs.New(errs.Unavailable, "the server does not answer: %w", op.Err).At(addr)
		}
		return failed.WithHint("is the VPN up, and does infractl-server run? On the server: systemctl status infractl-server")
	}
}

// watched are credentials that write down why a handshake failed.
type watched struct {
	credentials.TransportCredentials
	why *reason
}

// ClientHandshake implements credentials.TransportCredentials.
func (w watched) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		w.why.set(err)
		return nil, nil, err
	}
	w.why.mu.Lock()
	w.why.shaken = true
	w.why.mu.Unlock()
	return watchedConn{conn, w.why}, info, nil
}

// Clone implements credentials.TransportCredentials.
func (w watched) Clone() credentials.TransportCredentials {
	return watched{w.TransportCredentials.Clone(), w.why}
}

// watchedConn writes down what the server says of the client's certificate: in TLS 1.3 that comes after the handshake, as an
// error of the first read.
type watchedConn struct {
	net.Conn
	why *reason
}

func (c watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.why.set(err)
	return n, err
}

// Socket opens the server's Unix socket on its own machine.
func Socket(path string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///unix", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}))
	return conn, errs.Wrap("open "+path, err)
}
