// Package npm is a client for Nginx Proxy Manager's REST API, versions 2.9 to 2.15.
//
// A 2xx of that API says nothing about nginx: after each write the host is read again. Bodies of replies are never logged and
// never part of an error, because some hold private keys and passwords. One write runs at a time.
package npm

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
)

const maxReply = 32 << 20

// Config makes a Client.
type Config struct {
	// Base is the address of the console, such as http://10.0.10.10:81.
	Base string
	// User is the e-mail address of the account. It is also who certificates are asked for, so it must be real.
	User string
	// Password gives the account's password when it is needed.
	Password func(ctx context.Context) (secret.Value, error)
	// Transport carries the requests; nil means a direct one.
	Transport http.RoundTripper
	// Clock is for the life of tokens; nil means the system's.
	Clock clock.Clock
	// Log gets a line per call at debug level; nil means none.
	Log hclog.Logger
	// Timeout bounds a call; 0 means 60 s. CertificateTimeout bounds the request of a certificate; 0 means 15 min.
	Timeout, CertificateTimeout time.Duration
	// Pause is between two looks at a host that was just written; 0 means 250 ms.
	Pause time.Duration
}

// Client speaks to one Nginx Proxy Manager.
type Client struct {
	cfg  Config
	http *http.Client
	log  hclog.Logger

	write sync.Mutex // one writer at a time: each write tests and reloads nginx

	mu      sync.Mutex
	token   string
	expires time.Time
	version *Version
}

// New returns a client. Errors: Invalid for an address that is none.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.Base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return nil, errs.New(errs.Invalid, "%.100q is no address of an API", cfg.Base).WithHint("write it like http://10.0.10.10:81")
	}
	cfg.Base = strings.TrimSuffix(cfg.Base, "/")
	if cfg.Transport == nil {
		cfg.Transport = &http.Transport{MaxIdleConns: 2, IdleConnTimeout: 30 * time.Second}
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 60 * time.Second
	}
	if cfg.CertificateTimeout == 0 {
		cfg.CertificateTimeout = 15 * time.Minute
	}
	if cfg.Pause == 0 {
		cfg.Pause = 250 * time.Millisecond
	}
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{cfg: cfg, log: cfg.Log, http: &http.Client{Transport: cfg.Transport, CheckRedirect: noRedirect}}, nil
}

// request is one call of the API.
type request struct {
	method, path string
	body         any
	into         any
	timeout      time.Duration
}

// call makes a request with a token and follows the rule for answers that may mean a dead one: look at /users/me, and if that
// fails log in again once and repeat. From 2.13 a dead token shows as 400, 404 or 500.
func (c *Client) call(ctx context.Context, r request) error {
	token, err := c.login(ctx, false)
	if err != nil {
		return err
	}
	err = c.do(ctx, r, token)
	if !maybeDead(err) {
		return err
	}
	me := c.do(ctx, request{method: http.MethodGet, path: "/users/me"}, token)
	if me == nil || ctx.Err() != nil || errs.Is(me, errs.Unavailable) {
		return err
	}
	if token, err = c.login(ctx, true); err != nil {
		return err
	}
	return c.do(ctx, r, token)
}

// do makes one request and decodes its answer.
func (c *Client) do(ctx context.Context, r request, token string) error {
	if r.timeout == 0 {
		r.timeout = c.cfg.Timeout
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	var body io.Reader
	if r.body != nil {
		data, err := json.Marshal(r.body)
		if err != nil {
			return errs.Wrap("ask Nginx Proxy Manager", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.cfg.Base+"/api"+r.path, body)
	if err != nil {
		return errs.New(errs.Invalid, "%s %s: no request", r.method, r.path)
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	started := time.Now()
	res, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(ctx, r, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxReply+1))
	c.log.Debug("asked", "method", r.method, "path", r.path, "status", res.StatusCode, "duration", time.Since(started))
	switch kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type")); {
	case err != nil:
		return c.unreachable(ctx, r, err)
	case len(data) > maxReply:
		return errs.New(errs.Invalid, "%s %s: the answer is larger than %d MB", r.method, r.path, maxReply>>20)
	case kind != "application/json" && (res.StatusCode == http.StatusBadGateway || res.StatusCode == http.StatusServiceUnavailable ||
		res.StatusCode == http.StatusGatewayTimeout):
		return errs.New(errs.Unavailable, "Nginx Proxy Manager's backend does not answer (%d)", res.StatusCode).At(c.cfg.Base).
			WithHint("it takes a minute to start; then look at its container's log")
	case kind != "application/json":
		return errs.New(errs.Invalid, "%s %s: %d with %.60q in place of JSON", r.method, r.path, res.StatusCode, kind).At(c.cfg.Base).
			WithHint("is that the address of Nginx Proxy Manager's console?")
	case res.StatusCode >= 400:
		return reply(r, res.StatusCode, data)
	case res.StatusCode >= 300:
		return errs.New(errs.Invalid, "%s %s: redirected (%d)", r.method, r.path, res.StatusCode).At(c.cfg.Base)
	}
	if r.into == nil {
		return nil
	}
	if err := json.Unmarshal(data, r.into); err != nil {
		return errs.New(errs.Invalid, "%s %s: the answer is not as expected", r.method, r.path).At(c.cfg.Base)
	}
	return nil
}

func (c *Client) unreachable(ctx context.Context, r request, err error) error {
	if ctx.Err() != nil {
		return errs.Wrap(r.method+" "+r.path, ctx.Err())
	}
	return errs.New(errs.Unavailable, "Nginx Proxy Manager does not answer: %w", err).At(c.cfg.Base).
		WithHint("is its container running, and does it listen on that address?")
}

// pause waits a little, or until ctx ends.
func (c *Client) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
