// Package proxy keeps the reverse proxy of a site: Nginx Proxy Manager by its API, or Debian's caddy.
//
// Hosts are found by name; only those that carry our mark are changed or removed. New certificates pass through a queue on disk, so
// that the authority's weekly limit is never reached; a name whose turn has not come is served over the wildcard, or waits.
package proxy

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	"github.com/infractl/infractl/internal/strictjson"
	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// The drivers.
const (
	DriverNPM   = "npm"
	DriverCaddy = "caddy"
)

// Fetcher gets from the server what travels apart from the spec.
type Fetcher interface {
	// Secrets returns the values in the order of the references.
	Secrets(ctx context.Context, refs []*v1.SecretRef) ([]*v1.SecretValue, error)
}

// Config makes a Provider.
type Config struct {
	// Host is the machine.
	Host *host.Host
	// Fetcher gets the API's password; nil means that there is no way to.
	Fetcher Fetcher
	// API carries requests to Nginx Proxy Manager, Admin those to caddy's socket; nil means the real ones.
	API, Admin http.RoundTripper
	// Dial opens the connections with which a name is tried; nil means the real one.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// HTTPPort and HTTPSPort are where the proxy serves; 0 means 80 and 443.
	HTTPPort, HTTPSPort int
	// Socket and Storage are caddy's admin socket and its folder for certificates; "" means /run/caddy/infractl.sock and Debian's folder.
	Socket, Storage string
	// Wait bounds how long the proxy may take to start or to serve what was applied; 0 means 2 min.
	Wait time.Duration
	// Pause is between two looks; 0 means 250 ms.
	Pause time.Duration
	// Roots are the authorities that this host trusts; nil means the system's.
	Roots func() (*x509.CertPool, error)
	// Exchange asks name servers; nil means the network.
	Exchange zone.Exchange
	// Clock is for the queue of certificates; nil means the system's.
	Clock clock.Clock
	// Log gets progress; nil means none.
	Log hclog.Logger
}

// Provider implements provider.Provider for the reverse proxy.
type Provider struct {
	cfg  Config
	host *host.Host
	log  hclog.Logger

	mu     sync.Mutex
	values map[string]secret.Value // the API's password by its version
}

var _ provider.Provider[*v1.ProxySpec] = (*Provider)(nil)

// New returns the provider.
func New(cfg Config) *Provider {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Roots == nil {
		cfg.Roots = x509.SystemCertPool
	}
	if cfg.Exchange == nil {
		cfg.Exchange = zone.OverNetwork
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	if cfg.HTTPPort == 0 {
		cfg.HTTPPort = 80
	}
	if cfg.HTTPSPort == 0 {
		cfg.HTTPSPort = 443
	}
	if cfg.Socket == "" {
		cfg.Socket = caddySocket
	}
	if cfg.Storage == "" {
		cfg.Storage = caddyStorage
	}
	if cfg.Wait == 0 {
		cfg.Wait = 2 * time.Minute
	}
	if cfg.Pause == 0 {
		cfg.Pause = 250 * time.Millisecond
	}
	return &Provider{cfg: cfg, host: cfg.Host, log: cfg.Log, values: map[string]secret.Value{}}
}

// Stages are the stages that the provider takes part in.
func Stages() []provider.Stage { return []provider.Stage{provider.Services} }

// Name implements provider.Provider.
func (p *Provider) Name() string { return "proxy" }

type (
	wish = provider.Wish[*v1.ProxySpec]
	plan = provider.Plan[*v1.ProxySpec]
)

// work is a wish compared with what is.
type work struct {
	driver driver
	want   []Host
	held   []heldHost
	view   view
	ledger *ledger
	record *record
}

// look compares a wish with what is. It reads only.
func (p *Provider) look(ctx context.Context, spec *v1.ProxySpec) (*work, error) {
	want, err := wanted(spec)
	if err != nil {
		return nil, err
	}
	w := &work{}
	if w.driver, err = p.driver(access{Driver: spec.GetDriver(), API: spec.GetApi(), User: spec.GetApiUser(), Secret: spec.GetApiPassword()}); err != nil {
		return nil, err
	}
	if w.record, err = p.readRecord(); err != nil {
		return nil, err
	}
	if w.ledger, err = p.readLedger(); err != nil {
		return nil, err
	}
	if w.view, err = w.driver.look(ctx, spec); err != nil {
		return nil, err
	}
	w.want = want
	if err := w.foreign(); err != nil {
		return nil, err
	}
	w.want = p.certify(spec, w.want, w)
	return w, nil
}

// certify decides what each name's certificate is.
func (p *Provider) certify(spec *v1.ProxySpec, want []Host, w *work) []Host {
	var keys []string
	for i := range want {
		h := &want[i]
		switch {
		case h.Certificate == Internal:
			h.Certificate = w.driver.internal()
		case w.view.wildcard && under(h.Domains, spec.GetWildcard()):
			h.Certificate = Wildcard
		default:
			h.Certificate = Own
			keys = append(keys, w.driver.certificates(*h)...)
		}
	}
	admitted := w.ledger.admit(p.cfg.Clock.Now(), keys, w.view.have, int(spec.GetCertificatesPerWeek()))
	for i := range want {
		if h := &want[i]; h.Certificate == Own {
			for _, key := range w.driver.certificates(*h) {
				if !admitted[key] {
					h.Certificate = Waiting
				}
			}
		}
	}
	return want
}

// Plan implements provider.Provider. A proxy that does not answer is no error, since it may be about to be installed: everything is
// shown as new then. Errors: Invalid for a spec that can't be, Exists for names that somebody else serves.
func (p *Provider) Plan(ctx context.Context, w wish) (provider.Plan[*v1.ProxySpec], error) {
	result := plan{Wish: w}
	work, err := p.look(ctx, w.Spec)
	if err != nil {
		return result, err
	}
	result.Changes = p.changes(work, w.Spec)
	return result, ctx.Err()
}

// snapshot is what Rollback needs.
type snapshot struct {
	Version int             `json:"version"`
	Access  access          `json:"access"`
	Files   []host.File     `json:"files"`
	Data    json.RawMessage `json:"data"`
}

// Snapshot implements provider.Provider.
func (p *Provider) Snapshot(ctx context.Context, pl plan) ([]byte, error) {
	s := snapshot{Version: 1, Access: access{Driver: pl.Wish.Spec.GetDriver(), API: pl.Wish.Spec.GetApi(), User: pl.Wish.Spec.GetApiUser()}}
	d, err := p.driver(access{Driver: s.Access.Driver, API: s.Access.API, User: s.Access.User, Secret: pl.Wish.Spec.GetApiPassword()})
	if err != nil {
		return nil, err
	}
	if s.Files, err = p.host.Snapshot(recordFile); err != nil {
		return nil, err
	}
	if s.Data, err = d.save(ctx); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// Apply implements provider.Provider: hosts one by one, each with its progress in the log. What fails keeps the others from nothing.
func (p *Provider) Apply(ctx context.Context, pl plan) error {
	spec := pl.Wish.Spec
	if err := p.writePassword(ctx, spec); err != nil {
		return err
	}
	d, err := p.driver(access{Driver: spec.GetDriver(), API: spec.GetApi(), User: spec.GetApiUser(), Secret: spec.GetApiPassword()})
	if err != nil {
		return err
	}
	if err := d.ready(ctx); err != nil {
		return err
	}
	w, err := p.look(ctx, spec)
	if err != nil {
		return err
	}
	if err := p.writeLedger(w.ledger); err != nil { // before any is asked for: a crash must not lose the count
		return err
	}
	failed, err := w.driver.apply(ctx, spec, w.want, w.view)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	all := []error{err, p.refused(w, failed)}
	if err == nil { // the queue goes on with what was refused
		all = append(all, p.writeRecord(spec, w.want))
	}
	left := len(failed) + len(w.held)
	if left == 0 || err != nil && !errs.Is(err, errs.RolledBack) {
		return errs.Join(all...)
	}
	for _, key := range sortedKeys(failed) {
		all = append(all, failed[key])
	}
	return partly(left, errs.Join(append(all, w.heldBack())...))
}

// partly says that some hosts failed, are as they were, and that those that went well stay.
func partly(n int, err error) error {
	return errs.New(errs.RolledBack, "%d hosts of the proxy could not be made; the others are as wanted: %w", n, err).
		WithHint("names whose certificate was refused are tried again by themselves: does DNS lead to the proxy, and is port 80 open?")
}

// refused notes certificates that the authority refused: their hosts wait.
func (p *Provider) refused(w *work, failed map[string]error) error {
	if len(failed) == 0 {
		return nil
	}
	for key := range failed {
		w.ledger.fail(p.cfg.Clock.Now(), key)
	}
	for i := range w.want {
		for _, key := range w.driver.certificates(w.want[i]) {
			if failed[key] != nil && w.want[i].Certificate == Own {
				w.want[i].Certificate = Waiting
			}
		}
	}
	return p.writeLedger(w.ledger)
}

// Verify implements provider.Provider: every host is served, as the proxy says and as a request finds.
func (p *Provider) Verify(ctx context.Context, w wish) error {
	work, err := p.look(ctx, w.Spec)
	if err != nil {
		return err
	}
	held := work.heldBack()
	work.held = nil
	if changes := p.changes(work, w.Spec); len(changes) > 0 {
		return errs.New(errs.Internal, "the proxy is not as wanted: %s", changes[0].GetSubject()).WithHint("infractl plan shows the difference")
	}
	if err := p.until(ctx, func(ctx context.Context) error { return work.driver.check(ctx, w.Spec, work.want) }); err != nil {
		return err
	}
	return held
}

// until repeats an act until it succeeds or the time is over, and returns its last error.
func (p *Provider) until(ctx context.Context, act func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Wait)
	defer cancel()
	for {
		err := act(ctx)
		if err == nil {
			return nil
		}
		t := time.NewTimer(p.cfg.Pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

// Keep implements provider.Provider: what was applied survives a reboot already. Lists and certificates that nothing uses any more go.
func (p *Provider) Keep(ctx context.Context, w wish) error {
	d, err := p.driver(access{Driver: w.Spec.GetDriver(), API: w.Spec.GetApi(), User: w.Spec.GetApiUser(), Secret: w.Spec.GetApiPassword()})
	if err != nil {
		return err
	}
	return d.tidy(ctx)
}

// Rollback implements provider.Provider. The password is the one on this host's disk: without one nothing was applied.
func (p *Provider) Rollback(ctx context.Context, data []byte) error {
	var s snapshot
	if err := strictjson.Unmarshal(data, &s); err != nil || s.Version != 1 || len(s.Files) != 1 || s.Files[0].Path != recordFile || s.Data == nil {
		return errs.New(errs.Invalid, "this is no snapshot of the proxy").WithHint("nothing was changed")
	}
	d, err := p.driver(s.Access)
	if err != nil {
		return err
	}
	failed := d.restore(ctx, s.Data)
	_, err = p.host.Restore(s.Files)
	return errs.Join(failed, err)
}
