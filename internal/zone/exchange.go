package zone

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"time"
)

const (
	askTimeout = 2 * time.Second
	askTries   = 3
	// maxUDP is the largest answer over UDP: without EDNS a server sends 512 bytes at most.
	maxUDP = 4096
	// headerSize is the length of a message's header: what is shorter is none.
	headerSize = 12
)

// Exchange sends a packed question to a server (address and port) and returns its packed answer.
type Exchange func(ctx context.Context, question []byte, server string) (answer []byte, err error)

// OverNetwork is the Exchange of a real network: UDP, and TCP where the answer is cut.
func OverNetwork(ctx context.Context, question []byte, server string) (answer []byte, err error) {
	for range askTries {
		if answer, err = overUDP(ctx, question, server); err == nil && cut(answer) {
			answer, err = overTCP(ctx, question, server)
		}
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return answer, err
}

func overUDP(ctx context.Context, question []byte, server string) ([]byte, error) {
	conn, err := dial(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return ofUDP(ctx, conn, question)
}

// ofUDP asks over a socket, which may have been used before: what answers another question is passed over.
func ofUDP(ctx context.Context, conn net.Conn, question []byte) ([]byte, error) {
	if err := limit(ctx, conn); err != nil {
		return nil, err
	}
	if _, err := conn.Write(question); err != nil {
		return nil, err
	}
	buf := make([]byte, maxUDP)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if n >= headerSize && [2]byte(buf) == [2]byte(question) {
			return buf[:n], nil
		}
	}
}

func overTCP(ctx context.Context, question []byte, server string) ([]byte, error) {
	conn, err := dial(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := limit(ctx, conn); err != nil {
		return nil, err
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err = io.ReadFull(conn, answer)
	return answer, err
}

func dial(ctx context.Context, network, server string) (net.Conn, error) {
	d := net.Dialer{Timeout: askTimeout}
	return d.DialContext(ctx, network, server)
}

// limit bounds what is done with a connection by askTimeout, and by ctx where that ends sooner.
func limit(ctx context.Context, conn net.Conn) error {
	deadline := time.Now().Add(askTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	return conn.SetDeadline(deadline)
}

// cut reports whether an answer says that it did not fit.
func cut(answer []byte) bool { return len(answer) >= headerSize && answer[2]&0x02 != 0 }

func newID() uint16 {
	var id [2]byte
	_, _ = rand.Read(id[:]) // it never fails
	return binary.BigEndian.Uint16(id[:])
}

// Reusing is OverNetwork for many questions: its UDP sockets are used again. done closes them.
func Reusing() (exchange Exchange, done func()) {
	idle := make(chan net.Conn, askAtOnce)
	exchange = func(ctx context.Context, question []byte, server string) ([]byte, error) {
		conn, err := take(ctx, idle, server)
		if err != nil {
			return nil, err
		}
		answer, err := ofUDP(ctx, conn, question)
		if err != nil || cut(answer) {
			_ = conn.Close()
			return OverNetwork(ctx, question, server)
		}
		select {
		case idle <- conn:
		default:
			_ = conn.Close()
		}
		return answer, nil
	}
	done = func() {
		for {
			select {
			case conn := <-idle:
				_ = conn.Close()
			default:
				return
			}
		}
	}
	return exchange, done
}

// take returns a socket to the server that nobody uses, or a new one.
func take(ctx context.Context, idle chan net.Conn, server string) (net.Conn, error) {
	select {
	case conn := <-idle:
		if conn.RemoteAddr().String() == server {
			return conn, nil
		}
		_ = conn.Close()
	default:
	}
	return dial(ctx, "udp", server)
}
