package app

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/mtls"
	"github.com/infractl/infractl/server/discovery"
)

const (
	// maxHandshakes is how many handshakes run at once per listener; after a restart a whole fleet comes back, and each
	// handshake costs a signature.
	maxHandshakes = 64
	// maxFromOne is how many of them one address has: whoever opens connections and says nothing keeps nobody else out.
	maxFromOne = 16
	// maxEnrolConns is how many connections the enrolment listener has at once.
	maxEnrolConns = 512
)

// guarded bounds handshakes and reports those that fail.
type guarded struct {
	credentials.TransportCredentials
	slots  chan struct{}
	from   *shares
	failed func(addr net.Addr, err error)
	// pages gets connections that speak HTTP/1.1; nil where there are no pages.
	pages *discovery.Server
}

// shares count handshakes by address.
type shares struct {
	mu  sync.Mutex
	all map[string]*share
}

type share struct {
	slots chan struct{}
	users int // those that wait included
}

// of returns the slots of an address, and what gives up the use of them.
func (s *shares) of(address string) (slots chan struct{}, done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.all[address]
	if one == nil {
		one = &share{slots: make(chan struct{}, maxFromOne)}
		s.all[address] = one
	}
	one.users++
	return one.slots, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(s.all, address)
		}
	}
}

func guard(inner credentials.TransportCredentials, failed func(net.Addr, error)) *guarded {
	return &guarded{TransportCredentials: inner, slots: make(chan struct{}, maxHandshakes),
		from: &shares{all: make(map[string]*share)}, failed: failed}
}

// ServerHandshake implements credentials.TransportCredentials. gRPC has set a deadline on conn.
func (g *guarded) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	wait := time.NewTimer(mtls.HandshakeTimeout)
	defer wait.Stop()
	address := conn.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(address); err == nil {
		address = host
	}
	mine, done := g.from.of(address)
	defer done()
	for _, slots := range []chan struct{}{mine, g.slots} {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-wait.C:
			return nil, nil, errs.New(errs.Exhausted, "too many handshakes at once")
		}
	}
	out, info, err := g.TransportCredentials.ServerHandshake(conn)
	if err != nil && !gone(err) {
		g.failed(conn.RemoteAddr(), err)
	}
	if t, ok := info.(credentials.TLSInfo); ok && err == nil && g.pages != nil && t.State.NegotiatedProtocol != "h2" {
		g.pages.Take(out, t.State)
		return nil, nil, credentials.ErrConnDispatched
	}
	return out, info, err
}

// gone reports whether the other side went away without a word, as probes of open ports do.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}

// Clone implements credentials.TransportCredentials.
func (g *guarded) Clone() credentials.TransportCredentials {
	return &guarded{TransportCredentials: g.TransportCredentials.Clone(), slots: g.slots, from: g.from, failed: g.failed, pages: g.pages}
}

// limited is a listener that has a bounded number of connections; further ones wait in the kernel's queue.
type limited struct {
	net.Listener
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
}

func limit(l net.Listener, n int) net.Listener {
	return &limited{Listener: l, slots: make(chan struct{}, n), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close implements net.Listener.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// listenSocket makes the Unix socket, mode 0600. Under systemd the unit gives it to root once the server has started (see
// the unit file); who uses it is checked at each connection in any case.
func listenSocket(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, errs.New(errs.Internal, "%w", err).At(path)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, errs.New(errs.Precondition, "there is something that is no socket").At(path)
		}
		if err := os.Remove(path); err != nil { // left by a server that was killed
			return nil, errs.New(errs.Internal, "%w", err).At(path)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, errs.New(errs.Internal, "%w", err).At(path)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, errs.New(errs.Internal, "%w", err).At(path)
	}
	return l, nil
}

// peerCred lets in only processes of certain users, as the kernel names them.
type peerCred struct {
	uids   []uint32
	failed func(uid uint32)
}

type peerInfo struct{ credentials.CommonAuthInfo }

// AuthType implements credentials.AuthInfo.
func (peerInfo) AuthType() string { return "peercred" }

// ServerHandshake implements credentials.TransportCredentials.
func (p peerCred) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	uid, err := peerUID(conn)
	if err != nil {
		return nil, nil, err
	}
	for _, allowed := range p.uids {
		if uid == allowed {
			return conn, peerInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
		}
	}
	p.failed(uid)
	return nil, nil, errs.New(errs.Denied, "user %d may not use this socket", uid)
}

func peerUID(conn net.Conn) (uid uint32, err error) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errs.New(errs.Internal, "not a Unix socket")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, errs.Wrap("ask who uses the socket", err)
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, errs.Wrap("ask who uses the socket", err)
	}
	if cerr != nil {
		return 0, errs.Wrap("ask who uses the socket", cerr)
	}
	return cred.Uid, nil
}

// ClientHandshake implements credentials.TransportCredentials; the server never dials.
func (p peerCred) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errs.New(errs.Internal, "not a client")
}

// Info implements credentials.TransportCredentials.
func (p peerCred) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peercred"}
}

// Clone implements credentials.TransportCredentials.
func (p peerCred) Clone() credentials.TransportCredentials { return p }

// OverrideServerName implements credentials.TransportCredentials; there is no name.
func (p peerCred) OverrideServerName(string) error { return nil }
