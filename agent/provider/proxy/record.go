package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	"github.com/infractl/infractl/internal/strictjson"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	recordFile   = "/var/lib/infractl/proxy/applied.json"
	passwordFile = "/var/lib/infractl/proxy/api-password"
)

// record is what was applied last: with it the queue goes on without the server.
type record struct {
	Version int    `json:"version"`
	Spec    []byte `json:"spec"`
	Hosts   []Host `json:"hosts"`
}

// of reports whether the record is of this spec.
func (r *record) of(spec *v1.ProxySpec) bool {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(spec)
	return err == nil && r != nil && string(data) == string(r.Spec)
}

// readRecord returns nil where nothing was applied. One that does not parse counts as none: it is written again.
func (p *Provider) readRecord() (*record, error) {
	data, err := p.host.ReadFile(recordFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errs.Wrap("read "+recordFile, err)
	}
	r := &record{}
	if err := strictjson.Unmarshal(data, r); err != nil || r.Version != 1 {
		p.log.Warn("the record of the proxy is damaged; it is written anew")
		return nil, nil
	}
	return r, nil
}

func (p *Provider) writeRecord(spec *v1.ProxySpec, hosts []Host) error {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(spec)
	if err != nil {
		return errs.Wrap("note what was applied", err)
	}
	text, err := json.Marshal(record{Version: 1, Spec: data, Hosts: hosts})
	if err != nil {
		return errs.Wrap("note what was applied", err)
	}
	_, err = p.host.WriteFile(recordFile, append(text, '\n'), 0o600)
	return err
}

// Stage implements provider.Stager: it fetches the API's password.
func (p *Provider) Stage(ctx context.Context, spec *v1.ProxySpec) error {
	if spec.GetDriver() != DriverNPM {
		return nil
	}
	_, err := p.password(ctx, spec.GetApiPassword())
	return err
}

// password returns the API's password: staged, fetched now, or, without a reference, the one on the disk.
func (p *Provider) password(ctx context.Context, ref *v1.SecretRef) (secret.Value, error) {
	if ref == nil {
		data, err := p.host.ReadFile(passwordFile)
		if errors.Is(err, fs.ErrNotExist) {
			return secret.Value{}, errs.New(errs.Precondition, "there is no password for the API").At(passwordFile).
				WithHint("infractl apply brings it")
		}
		_, value, _ := strings.Cut(string(data), "\n")
		return secret.New([]byte(value)), errs.Wrap("read the API's password", err)
	}
	key := ref.GetName() + "@" + ref.GetVersion()
	p.mu.Lock()
	value, ok := p.values[key]
	p.mu.Unlock()
	if ok {
		return value, nil
	}
	if data, err := p.host.ReadFile(passwordFile); err == nil {
		if version, text, _ := strings.Cut(string(data), "\n"); version == key {
			return secret.New([]byte(text)), nil
		}
	}
	if p.cfg.Fetcher == nil {
		return secret.Value{}, errs.New(errs.Unavailable, "there is no connection to the server").WithHint("the secret %s is fetched there", ref.GetName())
	}
	got, err := p.cfg.Fetcher.Secrets(ctx, []*v1.SecretRef{ref})
	if err != nil {
		return secret.Value{}, errs.Wrap("fetch secret "+ref.GetName(), err)
	}
	if len(got) != 1 || got[0].GetName() != ref.GetName() || got[0].GetVersion() != ref.GetVersion() {
		return secret.Value{}, errs.New(errs.Internal, "the server gave another secret than %s", ref.GetName())
	}
	value = secret.New(got[0].GetValue())
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.values)
	p.values[key] = value
	return value, nil
}

// writePassword keeps the password for rollbacks and for the queue, which need no server. Its first line is the version.
func (p *Provider) writePassword(ctx context.Context, spec *v1.ProxySpec) error {
	ref := spec.GetApiPassword()
	if spec.GetDriver() != DriverNPM || ref == nil {
		return nil
	}
	value, err := p.password(ctx, ref)
	if err != nil {
		return err
	}
	_, err = p.host.WriteFile(passwordFile, append([]byte(ref.GetName()+"@"+ref.GetVersion()+"\n"), value.Reveal()...), 0o400)
	return err
}

// Tend goes on with the queue of certificates: it applies what was applied last when a name's turn has come, or a refused one may be
// asked for again. It says what it did.
func (p *Provider) Tend(ctx context.Context) ([]string, error) {
	spec, r, l, err := p.last()
	if err != nil || r == nil {
		return nil, err
	}
	var waiting []string
	for _, h := range r.Hosts {
		if h.Certificate == Waiting {
			waiting = append(waiting, h.Domains[0])
		}
	}
	if len(waiting) == 0 || !l.due(p.cfg.Clock.Now(), int(spec.GetCertificatesPerWeek())) {
		return nil, nil
	}
	w := wish{Spec: spec, Stage: provider.Services}
	pl, err := p.Plan(ctx, w)
	if err != nil || len(pl.Changes) == 0 {
		return nil, err
	}
	if err := p.Apply(ctx, pl); err != nil {
		return nil, err
	}
	var done []string
	for _, c := range pl.Changes {
		done = append(done, c.GetSubject())
	}
	return done, nil
}

// due reports whether something that waits may go on.
func (l *ledger) due(now time.Time, perWeek int) bool {
	probe := newLedger()
	var keys []string
	before := map[string]bool{}
	for k, e := range l.Certificates {
		if e.Had {
			continue
		}
		c := *e
		probe.Certificates[k] = &c
		keys = append(keys, k)
		before[k] = !e.Requested.IsZero() && e.Tries == 0
	}
	for k := range probe.admit(now, keys, nil, perWeek) {
		if !before[k] {
			return true
		}
	}
	return false
}

func (p *Provider) last() (*v1.ProxySpec, *record, *ledger, error) {
	r, err := p.readRecord()
	if err != nil || r == nil {
		return nil, nil, nil, err
	}
	spec := &v1.ProxySpec{}
	if err := proto.Unmarshal(r.Spec, spec); err != nil {
		return nil, nil, nil, nil // it is written again at the next apply
	}
	l, err := p.readLedger()
	return spec, r, l, err
}

// Warnings says which names wait for a certificate, and why.
func (p *Provider) Warnings() []string {
	_, r, l, err := p.last()
	if err != nil || r == nil {
		return nil
	}
	var out, queued []string
	for _, h := range r.Hosts {
		if h.Certificate == Waiting {
			queued = append(queued, h.Domains[0])
		}
	}
	if n := len(queued); n > 0 {
		if n > 5 {
			queued = append(queued[:5], "...")
		}
		out = append(out, fmt.Sprintf("proxy: %d names wait for a certificate: %s", n, strings.Join(queued, ", ")))
	}
	for _, k := range sortedKeys(l.Certificates) {
		if e := l.Certificates[k]; e.Tries > 0 && len(out) < 10 {
			out = append(out, fmt.Sprintf("proxy: the authority refused a certificate for %s %d times; asked again at %s", k, e.Tries, e.Next.UTC().Format(time.RFC3339)))
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
