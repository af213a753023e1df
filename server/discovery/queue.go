package discovery

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// maxConns is how many HTTP connections there are at once: Prometheus keeps two, and a person opens some.
const maxConns = 64

// conn is a connection that is through its handshake.
type conn struct {
	net.Conn
	state tls.ConnectionState
	free  func()
}

// Close implements net.Conn.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.free()
	return err
}

// queue is a listener whose connections come from another one.
type queue struct {
	slots chan struct{}
	conns chan *conn
	done  chan struct{}
	once  sync.Once
}

func newQueue() *queue {
	return &queue{slots: make(chan struct{}, maxConns), conns: make(chan *conn, maxConns), done: make(chan struct{})}
}

func (q *queue) put(c *conn) {
	_ = c.SetDeadline(time.Time{}) // that of the handshake
	select {
	case q.slots <- struct{}{}:
	default:
		_ = c.Conn.Close()
		return
	}
	c.free = sync.OnceFunc(func() { <-q.slots })
	select {
	case <-q.done:
		_ = c.Close()
	default:
		q.conns <- c // as many as there are slots
	}
}

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	for {
		select {
		case c := <-q.conns:
			_ = c.Close()
		default:
			return nil
		}
	}
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return &net.TCPAddr{} }
