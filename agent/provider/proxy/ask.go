package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// pageLimit bounds what is read of a page.
const pageLimit = 1 << 20

// ask makes a real request for a name at the proxy's address. A proxy that knows the name answers anything but 421; one that serves it
// with TLS sends plain HTTP there (redirected), and shows a certificate for it (certified). What the target answers is not judged.
func (p *Provider) ask(ctx context.Context, address, name string, redirected, certified bool) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	at := net.JoinHostPort(address, strconv.Itoa(p.cfg.HTTPPort))
	conn, err := p.cfg.Dial(ctx, "tcp", at)
	if err != nil {
		return silent(name, at, err)
	}
	status, err := request(ctx, conn, name)
	if err != nil {
		return silent(name, at, err)
	}
	if status == http.StatusMisdirectedRequest || redirected && (status < 300 || status > 399) {
		return errs.New(errs.Internal, "the proxy answers %d for %s", status, name).At(at).WithHint("apply again; then look at the proxy's log")
	}
	if !certified {
		return nil
	}
	at = net.JoinHostPort(address, strconv.Itoa(p.cfg.HTTPSPort))
	if conn, err = p.cfg.Dial(ctx, "tcp", at); err != nil {
		return silent(name, at, err)
	}
	defer conn.Close()
	// Whose authority signed it is not the question: it may be our own. That it is for the name is.
	secure := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // see above
	if err := secure.HandshakeContext(ctx); err != nil {
		return silent(name, at, err)
	}
	served := secure.ConnectionState().PeerCertificates[0]
	switch now := p.cfg.Clock.Now(); {
	case served.VerifyHostname(name) != nil:
		return errs.New(errs.Internal, "the certificate served for %s is for other names", name).At(at).WithHint("apply again")
	case now.After(served.NotAfter):
		return errs.New(errs.Internal, "the certificate served for %s ended at %s", name, served.NotAfter.UTC().Format(time.RFC3339)).At(at).
			WithHint("look at the proxy's log: it should have been renewed")
	}
	if status, err = request(ctx, secure, name); err != nil {
		return silent(name, at, err)
	}
	if status == http.StatusMisdirectedRequest {
		return errs.New(errs.Internal, "the proxy does not know %s", name).At(at).WithHint("apply again")
	}
	return nil
}

func silent(name, at string, err error) error {
	return errs.New(errs.Unavailable, "the proxy does not answer for %s: %w", name, err).At(at).WithHint("does it run, and listen there?")
}

// request asks for / and returns the status. It closes the connection.
func request(ctx context.Context, conn net.Conn, name string) (int, error) {
	status, _, err := fetch(ctx, conn, http.MethodHead, name, "/")
	return status, err
}

// fetch asks for a path of a name and returns status and body, whose size is bounded. It closes the connection.
func fetch(ctx context.Context, conn net.Conn, method, name, at string) (int, []byte, error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+name+at, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("User-Agent", "infractl")
	req.Close = true
	if err := req.Write(conn); err != nil {
		return 0, nil, err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, pageLimit))
	return res.StatusCode, body, err
}
