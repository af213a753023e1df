package enrol

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/mtls"
)

// stagger is how long an address may stay silent before the next one is tried beside it.
const stagger = 250 * time.Millisecond

// Conn is a connection to one of several addresses.
type Conn struct {
	*grpc.ClientConn
	peer   atomic.Pointer[string]
	failed atomic.Pointer[error]
}

// Peer returns the address that TCP reached, "" while none was.
func (c *Conn) Peer() string {
	if p := c.peer.Load(); p != nil {
		return *p
	}
	return ""
}

// NoRoute reports whether the last try failed on this machine already: its network is not up yet, and nobody was bothered.
func (c *Conn) NoRoute() bool {
	err := c.failed.Load()
	return err != nil && (errors.Is(*err, syscall.ENETUNREACH) || errors.Is(*err, syscall.ENETDOWN) ||
		errors.Is(*err, syscall.EADDRNOTAVAIL))
}

// Dial returns a connection to the first of addresses that answers; it is made when it is used. first is the index of the
// address to begin with: another one at each try gets around an address where somebody else answers.
func Dial(addresses []string, first int, config *tls.Config) (*Conn, error) {
	if len(addresses) == 0 {
		return nil, errs.New(errs.Invalid, "the server has no address")
	}
	first %= len(addresses)
	order := slices.Concat(addresses[first:], addresses[:first])
	c := &Conn{}
	dialer := func(ctx context.Context, _ string) (net.Conn, error) {
		conn, err := race(ctx, order)
		if err == nil {
			peer := conn.RemoteAddr().String()
			c.peer.Store(&peer)
		} else {
			c.failed.Store(&err)
		}
		return conn, err
	}
	options := append(mtls.ClientGRPC(),
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(dialer),
		// Small buffers: the agent has one connection and little to say, and memory on the hosts is not ours.
		grpc.WithReadBufferSize(8<<10), grpc.WithWriteBufferSize(8<<10))
	conn, err := grpc.NewClient("passthrough:///infractl", options...)
	if err != nil {
		return nil, errs.Wrap("connect", err)
	}
	c.ClientConn = conn
	return c, nil
}

// race connects to the addresses in order, each a moment after the one before or as soon as that one failed, and returns
// the first connection. Without one it returns the error of the first address.
func race(ctx context.Context, addresses []string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		conn net.Conn
		err  error
	}
	results := make(chan outcome, len(addresses))
	start := func(address string) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		results <- outcome{conn, err}
	}
	next, open := 0, 0
	var firstErr error
	for {
		if next < len(addresses) {
			go start(addresses[next])
			next++
			open++
		}
		var wait <-chan time.Time
		if next < len(addresses) {
			wait = time.After(stagger)
		}
		select {
		case <-wait:
		case got := <-results:
			open--
			if got.err == nil {
				go func(left int) { // those that come second are closed
					for range left {
						if late := <-results; late.err == nil {
							late.conn.Close()
						}
					}
				}(open)
				return got.conn, nil
			}
			if firstErr == nil {
				firstErr = got.err
			}
			if open == 0 && next == len(addresses) {
				return nil, firstErr
			}
		}
	}
}
