package probing

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// unopened says what it means that a connection could not be opened.
func unopened(err error) outcome {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return outcome{v1.ProbeOutcome_PROBE_OUTCOME_REFUSED, "refused"}
	}
	// Silence, "no route" and "not permitted" (our own output chain) all mean that nothing gets there.
	return outcome{v1.ProbeOutcome_PROBE_OUTCOME_DROPPED, err.Error()}
}

// dial opens a TCP connection whose reading and writing end with ctx.
func dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // cannot fail on TCP
	return conn, nil
}

// tcp opens a connection and does on it what the kind asks for.
func (p *Prober) tcp(ctx context.Context, address string, probe *v1.Probe) outcome {
	conn, err := dial(ctx, address)
	if err != nil {
		return unopened(err)
	}
	defer conn.Close()
	switch probe.GetKind() {
	case v1.ProbeKind_PROBE_KIND_SSH_BANNER:
		return banner(conn)
	case v1.ProbeKind_PROBE_KIND_SSH_LOGIN:
		return p.login(ctx, conn, address, probe)
	case v1.ProbeKind_PROBE_KIND_SERVER:
		return p.server(conn)
	}
	return open("connected")
}

// maxBannerLines are the lines that a server may send before its version (RFC 4253, 4.2).
const maxBannerLines = 20

func banner(conn net.Conn) outcome {
	reader := bufio.NewReaderSize(io.LimitReader(conn, 8192), 1024)
	for range maxBannerLines {
		line, err := reader.ReadString('\n')
		if strings.HasPrefix(line, "SSH-") {
			return open(strings.TrimSpace(line))
		}
		if err != nil {
			return rejected(errs.New(errs.Unavailable, "connected, but no SSH banner: %w", err))
		}
	}
	return rejected(errs.New(errs.Unavailable, "connected, but no SSH banner"))
}

// server shakes hands with the server and reads the first frame: in TLS 1.3 the client's handshake ends before the server
// has looked at the client's certificate.
func (p *Prober) server(conn net.Conn) outcome {
	if p.cfg.TLS == nil {
		return rejected(errs.New(errs.Precondition, "there is no identity to show"))
	}
	config, err := p.cfg.TLS()
	if err != nil {
		return rejected(err)
	}
	secured := tls.Client(conn, config)
	if err := secured.Handshake(); err != nil {
		return rejected(err)
	}
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	const settings = 4
	empty := []byte{0, 0, 0, settings, 0, 0, 0, 0, 0}
	if _, err := secured.Write(append([]byte(preface), empty...)); err != nil {
		return rejected(err)
	}
	frame := make([]byte, 9)
	if _, err := io.ReadFull(secured, frame); err != nil {
		return rejected(err)
	}
	if frame[3] != settings {
		return rejected(errs.New(errs.Unavailable, "connected, but it is no infractl server"))
	}
	return open("the server accepts this certificate")
}

// udp sends datagrams until something comes back. What is sent depends on the port: a name server answers questions only.
func udp(ctx context.Context, address string, port int) outcome {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", address)
	if err != nil {
		return unopened(err)
	}
	defer conn.Close()
	message, answers := datagram(port)
	deadline, _ := ctx.Deadline()
	// A datagram may be lost, or start the resolution of a hardware address: send a few.
	every := max(time.Until(deadline)/5, 50*time.Millisecond)
	buffer := make([]byte, 4096)
	for ctx.Err() == nil {
		if _, err := conn.Write(message); err != nil {
			return unopened(err)
		}
		until := time.Now().Add(every)
		if until.After(deadline) {
			until = deadline
		}
		if err := conn.SetReadDeadline(until); err != nil {
			return unopened(err)
		}
		for {
			n, err := conn.Read(buffer)
			if err == nil && answers(buffer[:n]) {
				return open("answered")
			}
			if err == nil {
				continue
			}
			if errors.Is(err, syscall.ECONNREFUSED) {
				return unopened(err)
			}
			break // silence: send again
		}
	}
	return outcome{v1.ProbeOutcome_PROBE_OUTCOME_DROPPED, "no answer"}
}

// What a probe sends to a port without a protocol of its own, and how the answer of a listener begins; of equal length.
const (
	question = "infractl probe "
	answer   = "infractl reply "
)

// datagram returns what to send to a port and what counts as its answer.
func datagram(port int) (message []byte, answers func([]byte) bool) {
	switch port {
	case 53: // a question for the root's name servers, not to be passed on: a name server without a way out would wait. Any answer with the
		// same id will do, a refusal too
		id := make([]byte, 2)
		_, _ = rand.Read(id) // never fails
		message = append(id, 0x00, 0x00, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1)
		return message, func(got []byte) bool { return len(got) >= 12 && bytes.Equal(got[:2], id) && got[2]&0x80 != 0 }
	case 123: // NTP version 4, client
		message = make([]byte, 48)
		message[0] = 4<<3 | 3
		return message, func(got []byte) bool { return len(got) >= 48 && got[0]&7 == 4 }
	}
	message = append([]byte(question), make([]byte, 16)...)
	_, _ = rand.Read(message[len(question):])
	return message, func(got []byte) bool { return len(got) > 0 }
}
