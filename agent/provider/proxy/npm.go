package proxy

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/npm"
	"github.com/infractl/infractl/internal/secret"
	"github.com/infractl/infractl/internal/strictjson"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// instanceLabel stands beside our mark in a host's meta.
const instanceLabel = "instance"

// npmDriver is Nginx Proxy Manager.
type npmDriver struct {
	p      *Provider
	access access
	api    *npm.Client
	email  string
}

func (p *Provider) newNPM(a access) (*npmDriver, error) {
	d := &npmDriver{p: p, access: a}
	var err error
	d.api, err = npm.New(npm.Config{Base: a.API, User: a.User, Transport: p.cfg.API, Clock: p.cfg.Clock, Log: p.log, Pause: p.cfg.Pause,
		Password: func(ctx context.Context) (secret.Value, error) { return p.password(ctx, a.Secret) }})
	return d, err
}

func (d *npmDriver) certificates(h Host) []string {
	return []string{strings.Join(slices.Sorted(slices.Values(h.Domains)), " ")}
}

// internal: Nginx Proxy Manager has no authority of its own for names that are not public.
func (d *npmDriver) internal() Certificate { return None }

func (d *npmDriver) parks() bool { return false }

// state is one picture of the installation.
type state struct {
	hosts []npm.Host
	certs map[int]npm.Certificate
	lists map[int]npm.AccessList
}

func (d *npmDriver) read(ctx context.Context) (*state, error) {
	s := &state{certs: map[int]npm.Certificate{}, lists: map[int]npm.AccessList{}}
	var err error
	if s.hosts, err = d.api.Hosts(ctx); err != nil {
		return nil, err
	}
	certs, err := d.api.Certificates(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range certs {
		s.certs[c.ID] = c
	}
	lists, err := d.api.AccessLists(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range lists {
		s.lists[l.ID] = l
	}
	return s, nil
}

func (d *npmDriver) look(ctx context.Context, spec *v1.ProxySpec) (view, error) {
	d.email = spec.GetAcmeEmail()
	v := view{hosts: map[string]Host{}, foreign: map[string]string{}, broken: map[string]string{}, have: map[string]bool{}}
	s, err := d.read(ctx)
	if errs.Is(err, errs.Unavailable) && ctx.Err() == nil {
		v.other = append(v.other, d.p.change(d.access.API, v1.ChangeAction_CHANGE_ACTION_UPDATE, []string{"does not answer"}, []string{"answers"}))
		return v, nil
	}
	if err != nil {
		return v, err
	}
	for _, c := range s.certs {
		if c.Provider == "letsencrypt" {
			v.have[strings.Join(c.Domains, " ")] = true
		}
	}
	v.wildcard = s.wildcard(spec.GetWildcard()) != 0
	for _, h := range s.hosts {
		if len(h.Domains) == 0 {
			continue
		}
		if !h.Ours {
			for _, n := range h.Domains {
				v.foreign[n] = "a proxy host of Nginx Proxy Manager"
			}
			continue
		}
		v.hosts[h.Domains[0]] = s.host(h)
		switch {
		case !h.Enabled:
			v.broken[h.Domains[0]] = "disabled"
		case h.Online == nil || !*h.Online:
			v.broken[h.Domains[0]] = "not in nginx: " + h.Problem
		}
	}
	if spec.GetApiPassword() != nil && !d.p.passwordKept(spec.GetApiPassword()) {
		v.other = append(v.other, d.p.change("password of the API", v1.ChangeAction_CHANGE_ACTION_UPDATE, nil,
			[]string{"version " + spec.GetApiPassword().GetVersion()}))
	}
	return v, nil
}

func (p *Provider) passwordKept(ref *v1.SecretRef) bool {
	data, err := p.host.ReadFile(passwordFile)
	version, _, _ := strings.Cut(string(data), "\n")
	return err == nil && version == ref.GetName()+"@"+ref.GetVersion()
}

// wildcard returns the certificate for all names of a domain that lasts longest, 0 without one.
func (s *state) wildcard(domain string) int {
	best := npm.Certificate{}
	for _, c := range s.certs {
		if domain != "" && slices.Contains(c.Domains, "*."+domain) && (best.ID == 0 || c.Expires.After(best.Expires)) {
			best = c
		}
	}
	return best.ID
}

// host is a host as it is served, in our words. A setting of it that we would never make shows as another certificate or target.
func (s *state) host(h npm.Host) Host {
	out := Host{Domains: h.Domains, Scheme: h.Scheme, Address: h.Target, Port: h.Port, Instance: h.Labels[instanceLabel]}
	if l, ok := s.lists[h.AccessListID]; ok && l.Ours && npm.ListName(l.Allow) == l.Name {
		out.Allow = l.Allow
	} else if h.AccessListID != 0 {
		out.Allow = []string{"another access list"}
	}
	c, there := s.certs[h.CertificateID]
	switch {
	case h.CertificateID == 0 && !h.Forced:
		out.Certificate = None
	case !there || !h.Forced || !h.HTTP2 || h.HSTS || !h.Websockets:
		out.Certificate = "not as we set it"
	case slices.Equal(c.Domains, slices.Sorted(slices.Values(h.Domains))) && c.Provider == "letsencrypt":
		out.Certificate = Own
	case !slices.ContainsFunc(h.Domains, func(n string) bool { return !c.Covers(n) }):
		out.Certificate = Wildcard
	default:
		out.Certificate = "for other names"
	}
	return out
}

// ready waits for the API, whose container may have started just now.
func (d *npmDriver) ready(ctx context.Context) error {
	var last error
	err := d.p.until(ctx, func(ctx context.Context) error {
		_, last = d.api.Probe(ctx)
		if errs.Is(last, errs.Unavailable) {
			return last
		}
		return nil
	})
	if err != nil {
		return err
	}
	return last
}

func (d *npmDriver) apply(ctx context.Context, spec *v1.ProxySpec, want []Host, _ view) (map[string]error, error) {
	s, err := d.read(ctx)
	if err != nil {
		return nil, err
	}
	failed := map[string]error{}
	var all []error
	note := func(err error) {
		if err != nil {
			all = append(all, err)
		}
	}
	for _, h := range s.hosts {
		if h.Ours && !slices.ContainsFunc(want, func(w Host) bool { return slices.Contains(h.Domains, w.Domains[0]) }) {
			d.p.log.Info("proxy host is deleted", "host", h.Domains[0])
			note(d.api.Delete(ctx, h.ID))
		}
	}
	for i, h := range s.order(want) {
		if ctx.Err() != nil {
			return failed, ctx.Err()
		}
		if h.Certificate == Waiting {
			continue
		}
		d.p.log.Info("proxy host", "host", h.Domains[0], "number", i+1, "of", len(want))
		wanted := npm.Host{Domains: h.Domains, Scheme: h.Scheme, Target: h.Address, Port: h.Port, Websockets: true, Enabled: true}
		if h.Instance != "" {
			wanted.Labels = map[string]string{instanceLabel: h.Instance}
		}
		if cerr := d.certificate(ctx, spec, s, h, &wanted); cerr != nil {
			failed[d.certificates(h)[0]] = cerr
			continue
		}
		note(d.put(ctx, h, wanted))
	}
	if len(all) > 0 { // each of them was put back by itself
		return failed, partly(len(all), errs.Join(all...))
	}
	return failed, nil
}

func (d *npmDriver) put(ctx context.Context, h Host, wanted npm.Host) error {
	if len(h.Allow) > 0 {
		id, err := d.api.EnsureAccessList(ctx, h.Allow)
		if err != nil {
			return errs.Wrap(h.Domains[0], err) // without its list the host would be open
		}
		wanted.AccessListID = id
	}
	_, err := d.api.Ensure(ctx, wanted)
	return err
}

// certificate gets what a host is served with, before the host is there.
func (d *npmDriver) certificate(ctx context.Context, spec *v1.ProxySpec, s *state, h Host, wanted *npm.Host) error {
	switch h.Certificate {
	case None:
		return nil
	case Wildcard:
		wanted.CertificateID = s.wildcard(spec.GetWildcard())
	default:
		c, err := d.api.RequestCertificate(ctx, h.Domains, spec.GetAcmeEmail())
		if err != nil {
			return err
		}
		wanted.CertificateID = c.ID
	}
	if wanted.CertificateID == 0 {
		return errs.New(errs.Conflict, "%s: its certificate is gone", h.Domains[0]).WithHint("apply again")
	}
	wanted.Forced, wanted.HTTP2 = true, true
	return nil
}

// order puts hosts that give names away before those that may take them.
func (s *state) order(want []Host) []Host {
	out := slices.Clone(want)
	gives := func(w Host) bool {
		return slices.ContainsFunc(s.hosts, func(h npm.Host) bool {
			return slices.Contains(h.Domains, w.Domains[0]) && slices.ContainsFunc(h.Domains, func(n string) bool { return !slices.Contains(w.Domains, n) })
		})
	}
	slices.SortStableFunc(out, func(a, b Host) int {
		switch ga, gb := gives(a), gives(b); {
		case ga && !gb:
			return -1
		case gb && !ga:
			return 1
		}
		return 0
	})
	return out
}

// check asks nginx, by way of the API, and then the names themselves.
func (d *npmDriver) check(ctx context.Context, spec *v1.ProxySpec, want []Host) error {
	address := first(spec.GetListenAddresses())
	if address == "" {
		u, err := url.Parse(d.access.API)
		if err != nil {
			return errs.New(errs.Invalid, "%.100q is no address of an API", d.access.API)
		}
		address = u.Hostname()
	}
	for _, h := range want {
		if h.Certificate == Waiting {
			continue
		}
		for _, name := range h.Domains {
			if err := d.p.ask(ctx, address, name, h.Certificate != None, h.Certificate != None); err != nil {
				return err
			}
		}
	}
	return nil
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// saved is a host with its prefixes in place of the id of its list, which may be gone by then.
type saved struct {
	Host  npm.Host `json:"host"`
	Allow []string `json:"allow,omitempty"`
}

// picture is what restore needs. Known is false when the API did not answer: then nothing may be concluded from a host's absence.
type picture struct {
	Known bool    `json:"known"`
	Hosts []saved `json:"hosts"`
}

func (d *npmDriver) save(ctx context.Context) (json.RawMessage, error) {
	var list []saved
	s, err := d.read(ctx)
	if errs.Is(err, errs.Unavailable) && ctx.Err() == nil { // it may not be there yet
		return json.Marshal(picture{})
	}
	if err != nil {
		return nil, err
	}
	for _, h := range s.hosts {
		if h.Ours {
			list = append(list, saved{h, s.host(h).Allow})
		}
	}
	return json.Marshal(picture{Known: true, Hosts: list})
}

func (d *npmDriver) restore(ctx context.Context, data json.RawMessage) error {
	var before picture
	if err := strictjson.Unmarshal(data, &before); err != nil {
		return errs.New(errs.Invalid, "this is no snapshot of Nginx Proxy Manager").WithHint("nothing was changed")
	}
	if !before.Known || !d.p.host.Exists(passwordFile) {
		return nil // Apply writes the password first of all
	}
	list := before.Hosts
	s, err := d.read(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, h := range s.hosts {
		if h.Ours && !slices.ContainsFunc(list, func(o saved) bool { return o.Host.Domains[0] == h.Domains[0] }) {
			failed = append(failed, d.api.Delete(ctx, h.ID))
		}
	}
	for _, o := range list {
		if len(o.Allow) > 0 && s.lists[o.Host.AccessListID].ID == 0 {
			o.Host.AccessListID, err = d.api.EnsureAccessList(ctx, o.Allow)
			if err != nil {
				failed = append(failed, err)
				continue
			}
		}
		if _, there := s.certs[o.Host.CertificateID]; !there {
			o.Host.CertificateID, o.Host.Forced, o.Host.HTTP2 = 0, false, false
		}
		_, err := d.api.Ensure(ctx, o.Host)
		failed = append(failed, err)
	}
	return errs.Join(failed...)
}

// tidy removes lists of ours that no host uses. Certificates stay: a name that comes back needs no new one.
func (d *npmDriver) tidy(ctx context.Context) error {
	s, err := d.read(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, l := range s.lists {
		if l.Ours && l.Users == 0 && !slices.ContainsFunc(s.hosts, func(h npm.Host) bool { return h.AccessListID == l.ID }) {
			failed = append(failed, d.api.DeleteAccessList(ctx, l.ID))
		}
	}
	return errs.Join(failed...)
}
