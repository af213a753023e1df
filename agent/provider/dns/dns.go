// Package dns runs bind9 as the name server of a host.
//
// Our files take the place of Debian's as a whole; what was there is kept beside them. A changed zone is written beside the old one and
// checked, the configuration is checked with it, then it takes the old one's place. That bind has taken it is asked of bind itself: its
// rndc says "queued" also for a zone that it then refuses. Zones are static files; their contents are fetched before (Stage).
package dns

import (
	"context"
	"path"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Where things are.
const (
	confDir   = "/etc/bind"
	zoneDir   = "/var/lib/bind/infractl" // bind may read and write below /var/lib/bind, and nowhere in /etc/bind
	cacheDir  = "/var/cache/bind"
	stateFile = "/var/lib/infractl/dns/state"
	contents  = "/var/lib/infractl/dns/content"
	unit      = "named.service"
	loopback  = "127.0.0.1:53"
	pause     = 50 * time.Millisecond
)

// Fetcher gets from the server what travels apart from the spec.
type Fetcher interface {
	// Content returns a content by its digest.
	Content(ctx context.Context, digest string) ([]byte, error)
	// Secrets returns the values in the order of the references.
	Secrets(ctx context.Context, refs []*v1.SecretRef) ([]*v1.SecretValue, error)
}

// Config makes a Provider.
type Config struct {
	// Host is the machine.
	Host *host.Host
	// Fetcher gets contents and secrets; nil means that there is no way to.
	Fetcher Fetcher
	// Exchange asks the name server; nil means over the network.
	Exchange zone.Exchange
	// Log gets what is worth knowing beyond errors; nil means none.
	Log hclog.Logger
	// Wait bounds how long the name server may take to serve what it was given; 0 means 10 s.
	Wait time.Duration
}

// Provider implements provider.Provider for the name server.
type Provider struct {
	cfg  Config
	host *host.Host

	mu      sync.Mutex
	fetched map[string][]byte
	secrets map[string]secret.Value
}

var (
	_ provider.Provider[*v1.DnsSpec] = (*Provider)(nil)
	_ provider.Stager[*v1.DnsSpec]   = (*Provider)(nil)
)

// New returns the provider.
func New(cfg Config) *Provider {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.Wait == 0 {
		cfg.Wait = 10 * time.Second
	}
	return &Provider{cfg: cfg, host: cfg.Host, fetched: map[string][]byte{}, secrets: map[string]secret.Value{}}
}

// Stages are the stages that the provider takes part in.
func Stages() []provider.Stage { return []provider.Stage{provider.Services} }

// Name implements provider.Provider.
func (p *Provider) Name() string { return "dns" }

type (
	wish = provider.Wish[*v1.DnsSpec]
	plan = provider.Plan[*v1.DnsSpec]
)

// Plan implements provider.Provider. It runs no process. Errors: Invalid for a spec that bind could not serve, Precondition where
// bind9 is not installed.
func (p *Provider) Plan(_ context.Context, w wish) (provider.Plan[*v1.DnsSpec], error) {
	result := plan{Wish: w}
	look, err := p.look(w.Spec)
	if err != nil {
		return result, err
	}
	result.Changes, err = p.changes(look)
	return result, err
}

// Verify implements provider.Provider: each zone is served with its serial.
func (p *Provider) Verify(ctx context.Context, w wish) error {
	for _, z := range w.Spec.GetZones() {
		if err := p.soon(ctx, z); err != nil {
			return err
		}
	}
	return nil
}

// Keep implements provider.Provider; what was applied is on disk already.
func (p *Provider) Keep(context.Context, wish) error { return nil }

// Stage implements provider.Stager: contents onto the disk, secrets into memory.
func (p *Provider) Stage(ctx context.Context, spec *v1.DnsSpec) error {
	if err := check(spec); err != nil {
		return err
	}
	want := map[string]bool{}
	for _, z := range spec.GetZones() {
		if z.GetContentDigest() == "" || want[z.GetContentDigest()] {
			continue
		}
		want[z.GetContentDigest()] = true
		file := contentFile(z.GetContentDigest())
		if p.host.Exists(file) {
			continue
		}
		text, err := p.content(ctx, z.GetContentDigest())
		if err != nil {
			return errs.Wrap("zone "+z.GetName(), err)
		}
		if _, err := p.host.WriteFile(file, text, 0o600); err != nil {
			return err
		}
	}
	old, err := p.host.Glob(contents + "/*")
	if err != nil {
		return errs.Wrap("list contents", err)
	}
	for _, file := range old {
		if !want["sha256:"+path.Base(file)] {
			if err := p.host.Remove(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// here returns the master file of that digest, without serial, where it has been fetched.
func (p *Provider) here(digest string) ([]byte, bool) {
	p.mu.Lock()
	text, ok := p.fetched[digest]
	p.mu.Unlock()
	if ok {
		return text, true
	}
	text, err := p.host.ReadFile(contentFile(digest))
	return text, err == nil && zone.Digest(text) == digest
}

// content returns what is here, or asks the server.
func (p *Provider) content(ctx context.Context, digest string) ([]byte, error) {
	text, ok := p.here(digest)
	if ok {
		return text, nil
	}
	var err error
	if p.cfg.Fetcher == nil {
		return nil, errs.New(errs.Unavailable, "there is no connection to the server")
	}
	if text, err = p.cfg.Fetcher.Content(ctx, digest); err != nil {
		return nil, err
	}
	if len(text) > zone.MaxText || zone.Digest(text) != digest {
		return nil, errs.New(errs.Invalid, "the server gave another content than %s", digest)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.fetched) > 300 {
		clear(p.fetched)
	}
	p.fetched[digest] = text
	return text, nil
}

// key returns a secret's value.
func (p *Provider) key(ctx context.Context, ref *v1.SecretRef) (secret.Value, error) {
	id := ref.GetName() + "/" + ref.GetVersion()
	p.mu.Lock()
	value, ok := p.secrets[id]
	p.mu.Unlock()
	if ok {
		return value, nil
	}
	if p.cfg.Fetcher == nil {
		return secret.Value{}, errs.New(errs.Unavailable, "there is no connection to the server")
	}
	values, err := p.cfg.Fetcher.Secrets(ctx, []*v1.SecretRef{ref})
	if err != nil {
		return secret.Value{}, errs.Wrap("fetch secret "+ref.GetName(), err)
	}
	if len(values) != 1 || values[0].GetName() != ref.GetName() || values[0].GetVersion() != ref.GetVersion() {
		return secret.Value{}, errs.New(errs.Internal, "the server gave another secret than %s", ref.GetName())
	}
	value = secret.New(values[0].GetValue())
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.secrets)
	p.secrets[id] = value
	return value, nil
}
