package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	adminName  = "infractl" // the Host header that our socket asks for
	adminLimit = 64 << 20
)

// caddyDriver is Debian's caddy: its service, our configuration.
type caddyDriver struct {
	p     *Provider
	host  *host.Host
	admin *http.Client
}

func (p *Provider) newCaddy() *caddyDriver {
	d := &caddyDriver{p: p, host: p.host}
	transport := p.cfg.Admin
	if transport == nil {
		transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p.cfg.Socket)
		}}
	}
	d.admin = &http.Client{Transport: transport, Timeout: time.Minute}
	return d
}

func (d *caddyDriver) certificates(h Host) []string { return h.Domains }
func (d *caddyDriver) internal() Certificate        { return Internal }
func (d *caddyDriver) parks() bool                  { return true }

// config is what caddy should run.
func (d *caddyDriver) config(spec *v1.ProxySpec, hosts []Host) ([]byte, error) {
	return render(settings{spec: spec, httpPort: d.p.cfg.HTTPPort, httpsPort: d.p.cfg.HTTPSPort, storage: d.p.cfg.Storage,
		socket: d.p.cfg.Socket, wildcard: d.hasWildcard(spec)}, hosts)
}

func (d *caddyDriver) hasWildcard(spec *v1.ProxySpec) bool {
	return spec.GetWildcard() != "" && d.host.Exists(wildcardCert) && d.host.Exists(wildcardKey)
}

// running returns the configuration that runs; nil when caddy does not, or runs one of somebody else's.
func (d *caddyDriver) running(ctx context.Context) ([]byte, error) {
	status, body, err := d.call(ctx, http.MethodGet, "/config/", nil)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, nil
	case status != http.StatusOK:
		return nil, errs.New(errs.Internal, "caddy's socket answers %d", status).At(caddySocket).WithHint("systemctl restart caddy")
	}
	return body, nil
}

func (d *caddyDriver) call(ctx context.Context, method, at string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+adminName+at, bytes.NewReader(body))
	if err != nil {
		return 0, nil, errs.Wrap("ask caddy", err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := d.admin.Do(req)
	if err != nil {
		return 0, nil, errs.New(errs.Unavailable, "caddy does not answer: %w", err).At(caddySocket).WithHint("journalctl -u caddy says why")
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, adminLimit))
	return res.StatusCode, data, errs.Wrap("ask caddy", err)
}

func (d *caddyDriver) look(ctx context.Context, spec *v1.ProxySpec) (view, error) {
	v := view{hosts: map[string]Host{}, have: map[string]bool{}, wildcard: d.hasWildcard(spec)}
	update := func(subject, before, after string) {
		v.other = append(v.other, d.p.change(subject, v1.ChangeAction_CHANGE_ACTION_UPDATE, []string{before}, []string{after}))
	}
	stored, err := d.host.Glob(path.Join(d.p.cfg.Storage, "certificates", "*", "*", "*.crt"))
	if err != nil {
		return v, errs.Wrap("list certificates", err)
	}
	for _, file := range stored {
		v.have[strings.TrimSuffix(path.Base(file), ".crt")] = true
	}
	if err := d.takeover(ctx); err != nil {
		return v, err
	}
	r, err := d.p.readRecord()
	if err != nil {
		return v, err
	}
	if r == nil {
		update("caddy", "not ours", "runs our configuration")
		return v, nil
	}
	for _, h := range r.Hosts {
		v.hosts[h.Domains[0]] = h
	}
	config, err := d.config(spec, r.Hosts)
	if err != nil {
		return v, err
	}
	for _, f := range d.files(config) {
		same, err := d.host.InSync(f)
		if err != nil {
			return v, err
		}
		if !same && (f.Path != caddyConf || r.of(spec)) {
			update(f.Path, "not as we wrote it", "written again")
		}
	}
	have, err := d.running(ctx)
	switch {
	case err != nil:
		return v, err
	case have == nil:
		update("caddy.service", "does not run", "runs")
	case r.of(spec) && !equal(have, config):
		update("caddy.service", "runs another configuration", "runs ours")
	}
	return v, nil
}

// files are all that we write for caddy.
func (d *caddyDriver) files(config []byte) []host.File {
	own := func(f host.File) host.File { f.UID, f.GID = os.Geteuid(), os.Getegid(); return f }
	return []host.File{
		own(host.File{Path: caddyConf, Data: config, Mode: 0o644}),
		own(host.File{Path: caddyDropIn, Data: []byte(dropIn), Mode: 0o644}),
		own(host.File{Path: caddyLink, Data: []byte(caddyUnit), Mode: fs.ModeSymlink | 0o777}),
	}
}

// takeover refuses a caddy that serves something of somebody else's: a Caddyfile that is not as Debian brought it.
func (d *caddyDriver) takeover(ctx context.Context) error {
	if d.host.Exists(caddyDropIn) || !d.host.Exists(caddyFile) {
		return nil
	}
	out, err := d.host.Run(ctx, "dpkg", "--verify", "caddy")
	if err != nil && len(out.Stdout) == 0 {
		return errs.Wrap("look whether caddy's Caddyfile was changed", err)
	}
	for line := range strings.Lines(string(out.Stdout)) { // ??5?????? c /etc/caddy/Caddyfile
		if f := strings.Fields(line); len(f) > 1 && f[len(f)-1] == caddyFile {
			return errs.New(errs.Precondition, "caddy serves sites of somebody else").At(caddyFile).
				WithHint("move them to proxy.hosts, or to another host, and put the Caddyfile of the package back")
		}
	}
	return nil
}

// equal compares two JSON texts.
func equal(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

func (d *caddyDriver) ready(context.Context) error {
	if !d.host.Has("caddy") {
		return errs.New(errs.Precondition, "caddy is not installed").WithHint("apt-get install caddy")
	}
	return nil
}

// apply loads the whole configuration at once: caddy checks it and keeps the old one when it is no good. Only then it goes to the disk.
func (d *caddyDriver) apply(ctx context.Context, spec *v1.ProxySpec, want []Host, _ view) (map[string]error, error) {
	config, err := d.config(spec, want)
	if err != nil {
		return nil, err
	}
	d.p.log.Info("caddy gets its configuration", "hosts", len(want))
	have, err := d.running(ctx)
	if err != nil {
		return nil, err
	}
	if have == nil {
		return nil, d.start(ctx, config)
	}
	if !equal(have, config) {
		if err := d.load(ctx, config); err != nil {
			return nil, err
		}
	}
	changed, err := d.write(config)
	if err == nil && changed {
		err = d.host.Systemctl(ctx, "daemon-reload")
	}
	return nil, err
}

func (d *caddyDriver) load(ctx context.Context, config []byte) error {
	status, body, err := d.call(ctx, http.MethodPost, "/load", config)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		var said struct {
			Error string `json:"error"`
		}
		_ = json.Unmarshal(body, &said)
		return errs.New(errs.Invalid, "caddy refuses the configuration: %.300s", said.Error).At(caddyConf).WithHint("the former one stays in force")
	}
	return nil
}

// start begins with a caddy that does not run, or runs Debian's Caddyfile. The configuration is tried before, as caddy's own user, since
// trying one leaves files behind.
func (d *caddyDriver) start(ctx context.Context, config []byte) error {
	if _, err := d.host.WriteFile(caddyNew, config, 0o644); err != nil {
		return err
	}
	_, err := d.host.RunCmd(ctx, host.Cmd{Argv: []string{"runuser", "-u", "caddy", "--", "caddy", "validate", "--config", d.host.Path(caddyNew)},
		Env: []string{"HOME=/var/lib/caddy"}, Timeout: time.Minute})
	if rerr := d.host.Remove(caddyNew); rerr != nil {
		return errs.Join(err, rerr)
	}
	if err != nil {
		return errs.Wrap("try caddy's configuration", err)
	}
	if _, err := d.write(config); err != nil {
		return err
	}
	if err := d.host.Systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	if err := d.host.Systemctl(ctx, "restart", "caddy.service"); err != nil {
		return err
	}
	return d.p.until(ctx, func(ctx context.Context) error {
		have, err := d.running(ctx)
		if err == nil && have == nil {
			err = errs.New(errs.Unavailable, "caddy does not answer").At(caddySocket).WithHint("journalctl -u caddy says why")
		}
		return err
	})
}

// write puts our files on the disk and reports whether systemd has to read them.
func (d *caddyDriver) write(config []byte) (units bool, err error) {
	for _, f := range d.files(config) {
		c, err := d.host.Write(f)
		if err != nil {
			return units, err
		}
		units = units || c && f.Path != caddyConf
	}
	return units, d.host.Remove(caddyNew)
}

// check asks for every name. Certificates of the authority are not waited for: they take as long as DNS does.
func (d *caddyDriver) check(ctx context.Context, spec *v1.ProxySpec, want []Host) error {
	address := first(spec.GetListenAddresses())
	if address == "" {
		address = "127.0.0.1"
	}
	for _, h := range want {
		for _, name := range h.Domains {
			err := d.p.ask(ctx, address, name, h.Certificate != Waiting, h.Certificate == Internal || h.Certificate == Wildcard)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// caddySnapshot is what restore needs.
type caddySnapshot struct {
	Files   []host.File `json:"files"`
	Running bool        `json:"running"`
}

func (d *caddyDriver) save(context.Context) (json.RawMessage, error) {
	var s caddySnapshot
	var err error
	if s.Files, err = d.host.Snapshot(caddyConf, caddyNew, caddyDropIn, caddyLink); err != nil {
		return nil, err
	}
	if s.Running, err = d.process(); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// process reports whether a caddy runs, whosesoever configuration it has.
func (d *caddyDriver) process() (bool, error) {
	files, err := d.host.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return false, errs.Wrap("list processes", err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		name, err := d.host.ReadFile(file)
		return err == nil && strings.TrimSpace(string(name)) == "caddy"
	}), nil
}

func (d *caddyDriver) restore(ctx context.Context, data json.RawMessage) error {
	var s caddySnapshot
	allowed := []string{caddyConf, caddyNew, caddyDropIn, caddyLink}
	if err := strictjson.Unmarshal(data, &s); err != nil || len(s.Files) != len(allowed) ||
		slices.ContainsFunc(s.Files, func(f host.File) bool { return !slices.Contains(allowed, f.Path) }) {
		return errs.New(errs.Invalid, "this is no snapshot of caddy").WithHint("nothing was changed")
	}
	_, err := d.host.Restore(s.Files)
	failed := []error{err}
	if d.host.Booting() {
		return errs.Join(failed...) // the service has not started yet
	}
	config := s.Files[slices.IndexFunc(s.Files, func(f host.File) bool { return f.Path == caddyConf })]
	ours := !s.Files[slices.IndexFunc(s.Files, func(f host.File) bool { return f.Path == caddyDropIn })].Absent
	have, err := d.running(ctx)
	if err == nil && have != nil && ours && s.Running { // no connection breaks
		return errs.Join(append(failed, d.host.Systemctl(ctx, "daemon-reload"), d.load(ctx, config.Data))...)
	}
	verb := "stop"
	if s.Running {
		verb = "restart"
	}
	return errs.Join(append(failed, d.host.Systemctl(ctx, "daemon-reload"), d.host.Systemctl(ctx, verb, "caddy.service"))...)
}

func (d *caddyDriver) tidy(context.Context) error { return nil }
