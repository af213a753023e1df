// Package docker is the one package of the agent that talks to the Docker engine.
//
// An engine that is absent, stopped or hanging gives an error with code Unavailable or Timeout within seconds, never a panic.
// What the engine answers is bounded. The API's version is negotiated, so that Docker 20.10 and later will do.
package docker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/client"
	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/errs"
)

// DefaultSocket is where the engine listens.
const DefaultSocket = "/run/docker.sock"

const (
	// defaultTimeout bounds a question to the engine.
	defaultTimeout = 20 * time.Second
	// maxAnswer bounds an answer that is held in memory: a list of thousands of containers has a few megabytes.
	maxAnswer = 32 << 20
)

// Config makes an Engine.
type Config struct {
	// Socket is the path of the engine's Unix socket; "" means DefaultSocket. Other kinds of connections are not made.
	Socket string
	// Log gets what is worth knowing beyond errors; nil means none.
	Log hclog.Logger
	// Timeout bounds a question to the engine; 0 means 20 s. Streams (logs, commands, images) are bounded by their context.
	Timeout time.Duration
}

// Engine is a connection to the engine of this host. It is safe for concurrent use; nothing is opened before it is used.
type Engine struct {
	client  *client.Client
	socket  string
	log     hclog.Logger
	timeout time.Duration
}

// New returns an Engine. It does not connect.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Socket == "" {
		cfg.Socket = DefaultSocket
	}
	socket := cfg.Socket
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: 5 * time.Second}
			return d.DialContext(ctx, "unix", socket)
		},
		DisableCompression: true, MaxIdleConns: 2, IdleConnTimeout: 30 * time.Second,
	}
	c, err := client.NewClientWithOpts(client.WithHost("unix://"+socket), client.WithAPIVersionNegotiation(),
		client.WithHTTPClient(&http.Client{Transport: bounded{transport}, CheckRedirect: client.CheckRedirect}))
	if err != nil {
		return nil, errs.New(errs.Invalid, "no such engine: %w", err).At(socket)
	}
	return &Engine{client: c, socket: socket, log: cfg.Log, timeout: cfg.Timeout}, nil
}

// Close closes idle connections.
func (e *Engine) Close() { _ = e.client.Close() }

// Version returns the engine's version.
func (e *Engine) Version(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	v, err := e.client.ServerVersion(ctx)
	if err != nil {
		return "", e.failed("ask for the version", err)
	}
	return v.Version, nil
}

// DataRoot returns the folder in which the engine keeps images and volumes.
func (e *Engine) DataRoot(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	info, err := e.client.Info(ctx)
	if err != nil {
		return "", e.failed("ask for the data folder", err)
	}
	return info.DockerRootDir, nil
}

// failed puts an error of the client into the terms of package errs.
func (e *Engine) failed(op string, err error) error {
	code := errs.Internal
	hint := ""
	switch {
	case errors.Is(err, context.Canceled):
		code = errs.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code, hint = errs.Timeout, "the engine does not answer: systemctl status docker"
	case client.IsErrConnectionFailed(err), isDial(err):
		return errs.New(errs.Unavailable, "%s: the container engine does not answer", op).At(e.socket).
			WithHint("install docker.io, or see why it does not run: systemctl status docker")
	case cerrdefs.IsNotFound(err):
		code = errs.NotFound
	case cerrdefs.IsConflict(err):
		code = errs.Conflict
	case cerrdefs.IsInvalidArgument(err):
		code = errs.Invalid
	case cerrdefs.IsPermissionDenied(err):
		code = errs.Denied
	case strings.Contains(err.Error(), "no space left on device"):
		code, hint = errs.Exhausted, "free space on this host: docker system df"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		code, hint = errs.Unavailable, "the engine went away: systemctl status docker"
	}
	return errs.New(code, "%s: %w", op, err).WithHint("%s", hint)
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}

// bounded is a transport whose answers end at a limit, but for streams.
type bounded struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.Transport.RoundTrip(req)
	if err != nil || streams(req.URL.Path) {
		return resp, err
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, left: maxAnswer}
	return resp, nil
}

func streams(path string) bool {
	for _, end := range []string{"/logs", "/images/load", "/images/create"} {
		if strings.HasSuffix(path, end) {
			return true
		}
	}
	return false
}

type limitedBody struct {
	io.ReadCloser
	left int
}

// Read implements io.Reader.
func (l *limitedBody) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errs.New(errs.Exhausted, "the engine's answer is larger than %d bytes", maxAnswer)
	}
	n, err := l.ReadCloser.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}
