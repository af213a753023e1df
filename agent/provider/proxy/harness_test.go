package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/npm/npmtest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// folder is in memory: thousands of small writes to disk, each of them synced, would take minutes.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "infractl-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// machine is one proxy node: a folder, and one of the two proxies.
type machine struct {
	t      *testing.T
	root   string
	driver string
	clock  *clock.Fake
	npm    *npmtest.Fake
	caddy  *fakeCaddy
	plain  *httptest.Server
	secure *httptest.Server
	api    *httptest.Server
	faults *providertest.Faults
}

func newMachine(t *testing.T, driver string, faults *providertest.Faults) *machine {
	t.Helper()
	m := &machine{t: t, root: folder(t), driver: driver, faults: faults, clock: clock.NewFake(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC))}
	var front http.Handler
	if driver == DriverNPM {
		m.npm = npmtest.New(npmtest.Options{Minor: 15, Clock: m.clock})
		m.npm.AddHost("foreign.example.test", "web", 80)
		m.api = httptest.NewServer(m.npm)
		t.Cleanup(m.api.Close)
		front = m.npm.Front()
	} else {
		m.caddy = &fakeCaddy{root: m.root}
		front = m.caddy
		for name, text := range map[string]string{"/usr/bin/caddy": "", caddyFile: ":80\n", "/etc/systemd/system/x": "", "/proc/1/comm": "systemd\n"} {
			must(t, errors.Join(os.MkdirAll(filepath.Dir(m.root+name), 0o755), os.WriteFile(m.root+name, []byte(text), 0o644)))
		}
		must(t, os.MkdirAll(m.root+filepath.Dir(caddyLink), 0o755))
		must(t, os.Symlink(caddyUnit, m.root+caddyLink))
		_, err := m.caddy.Run(context.Background(), host.Cmd{Argv: []string{"systemctl", "restart", "caddy.service"}})
		must(t, err)
	}
	m.plain = httptest.NewServer(front)
	t.Cleanup(m.plain.Close)
	m.secure = httptest.NewUnstartedServer(front)
	m.secure.TLS = &tls.Config{GetCertificate: m.certificate}
	m.secure.StartTLS()
	t.Cleanup(m.secure.Close)
	return m
}

// certificate is one for the name that was asked for.
func (m *machine) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{hello.ServerName}, NotBefore: m.clock.Now().Add(-time.Hour),
		NotAfter: m.clock.Now().Add(60 * 24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func (m *machine) provider() *Provider {
	return New(Config{Host: host.New(host.Config{Root: m.root, Runner: m.faults.Runner(m.caddy), Fault: m.faults.Op}), Fetcher: m, Clock: m.clock,
		API: faulty{m.faults, http.DefaultTransport}, Admin: faulty{m.faults, m.caddy}, Wait: 400 * time.Millisecond, Pause: time.Millisecond,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			server := m.plain
			if strings.HasSuffix(address, ":443") {
				server = m.secure
			}
			return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
		}})
}

// Secrets implements Fetcher.
func (m *machine) Secrets(_ context.Context, refs []*v1.SecretRef) ([]*v1.SecretValue, error) {
	return []*v1.SecretValue{{Name: refs[0].GetName(), Version: refs[0].GetVersion(), Value: []byte(npmtest.Password)}}, nil
}

// state is what the suite compares: what is served.
func (m *machine) state() (string, error) {
	if m.npm != nil {
		return m.npm.Dump(true), nil
	}
	m.caddy.mu.Lock()
	defer m.caddy.mu.Unlock()
	return fmt.Sprintf("running %t\n%s", m.caddy.running, m.caddy.loaded), nil
}

func (m *machine) foreign() (string, error) {
	if m.npm != nil {
		return m.npm.Dump(false), nil
	}
	data, err := os.ReadFile(m.root + caddyFile)
	return string(data), err
}

// spec is a wish for the machine's driver.
func (m *machine) spec(hosts ...*v1.ProxyHostSpec) *v1.ProxySpec {
	return specFor(m.driver, m.api, hosts...)
}

func specFor(driver string, api *httptest.Server, hosts ...*v1.ProxyHostSpec) *v1.ProxySpec {
	s := &v1.ProxySpec{Driver: driver, TlsProvider: "letsencrypt", AcmeEmail: "admin@example.test", Hosts: hosts, CertificatesPerWeek: 3,
		ListenAddresses: []string{"10.0.10.10"}}
	if driver == DriverNPM {
		s.ApiUser, s.ApiPassword = npmtest.User, &v1.SecretRef{Name: "npm-admin", Version: "v1"}
		if api != nil {
			s.Api = api.URL
		}
	}
	return s
}

func site(name string, port int, allow ...string) *v1.ProxyHostSpec {
	return &v1.ProxyHostSpec{Domains: []string{name}, Target: "10.0.10.20:" + strconv.Itoa(port), Scheme: "http", Allow: allow}
}

func want(s *v1.ProxySpec) wish { return wish{Spec: s, Stage: provider.Services} }

func (m *machine) apply(p *Provider, s *v1.ProxySpec) error {
	ctx := context.Background()
	pl, err := p.Plan(ctx, want(s))
	if err != nil {
		return err
	}
	if err := p.Apply(ctx, pl); err != nil {
		return err
	}
	return p.Verify(ctx, want(s))
}

// RoundTrip leads requests to any address of an API to the machine's own one.
func (m *machine) RoundTrip(req *http.Request) (*http.Response, error) {
	clone := req.Clone(req.Context())
	clone.URL.Host = m.api.Listener.Addr().String()
	return http.DefaultTransport.RoundTrip(clone)
}

// faulty makes a request one call of the faults.
type faulty struct {
	faults *providertest.Faults
	inner  http.RoundTripper
}

type runnerFunc func(context.Context, host.Cmd) (host.Output, error)

func (f runnerFunc) Run(ctx context.Context, cmd host.Cmd) (host.Output, error) { return f(ctx, cmd) }

func (f faulty) RoundTrip(req *http.Request) (*http.Response, error) {
	var res *http.Response
	run := f.faults.Runner(runnerFunc(func(context.Context, host.Cmd) (_ host.Output, err error) {
		res, err = f.inner.RoundTrip(req) //nolint:bodyclose // the caller closes it, or the lines below
		return host.Output{}, err
	}))
	_, err := run.Run(req.Context(), host.Cmd{Argv: []string{"http", req.Method, req.URL.RequestURI()}})
	if err != nil && res != nil {
		_ = res.Body.Close()
	}
	return res, err
}

// fakeCaddy is no caddy: it does to a folder what systemd and caddy do to a machine, and answers as its configuration says.
type fakeCaddy struct {
	root    string
	mu      sync.Mutex
	running bool
	loaded  string // our configuration; empty while it runs Debian's
	changed bool   // the Caddyfile is not Debian's
}

func (f *fakeCaddy) Run(_ context.Context, cmd host.Cmd) (host.Output, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	comm := filepath.Join(f.root, "/proc/77/comm")
	switch argv := cmd.Argv; {
	case argv[0] == "dpkg" && f.changed:
		return host.Output{Stdout: []byte("??5?????? c " + caddyFile + "\n"), Code: 1}, errors.New("exit code 1")
	case argv[0] == "dpkg":
		return host.Output{}, nil
	case argv[0] == "runuser":
		data, err := os.ReadFile(argv[len(argv)-1])
		if err == nil && strings.Contains(string(data), "10.66.66.66") {
			err = errors.New("caddy refuses it")
		}
		return host.Output{}, err
	case argv[0] == "systemctl" && argv[1] == "restart":
		f.running, f.loaded = true, ""
		if _, err := os.Stat(f.root + caddyDropIn); err == nil {
			data, err := os.ReadFile(f.root + caddyConf)
			if err != nil {
				f.running = false
				return host.Output{}, err
			}
			f.loaded = string(data)
		}
		return host.Output{}, errors.Join(os.MkdirAll(filepath.Dir(comm), 0o755), os.WriteFile(comm, []byte("caddy\n"), 0o644))
	case argv[0] == "systemctl" && argv[1] == "stop":
		f.running, f.loaded = false, ""
		return host.Output{}, os.RemoveAll(filepath.Dir(comm))
	case argv[0] == "systemctl":
		return host.Output{}, nil
	}
	return host.Output{Code: 127}, fmt.Errorf("no such program: %s", cmd.Argv[0])
}

// RoundTrip implements http.RoundTripper for the socket.
func (f *fakeCaddy) RoundTrip(req *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.running || f.loaded == "" {
		return nil, errors.New("no such socket")
	}
	w := httptest.NewRecorder()
	switch {
	case req.Host != adminName:
		w.WriteHeader(http.StatusForbidden)
	case req.Method == http.MethodGet && req.URL.Path == "/config/":
		_, _ = io.WriteString(w, f.loaded)
	case req.Method == http.MethodPost && req.URL.Path == "/load":
		data, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		if strings.Contains(string(data), "10.66.66.66") || !json.Valid(data) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"loading config: no"}`)
		} else {
			f.loaded = string(data)
		}
	}
	return w.Result(), nil
}

// ServeHTTP answers with what the first route for the host says.
func (f *fakeCaddy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var config struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes []struct {
						Match  []struct{ Host []string }
						Handle []struct {
							Status int `json:"status_code"`
						}
					}
				}
			}
		}
	}
	_ = json.Unmarshal([]byte(f.loaded), &config)
	server := "http"
	if r.TLS != nil {
		server = "https"
	}
	for _, route := range config.Apps.HTTP.Servers[server].Routes {
		if len(route.Match) == 0 || slices.Contains(route.Match[0].Host, r.Host) {
			w.WriteHeader(max(route.Handle[0].Status, http.StatusOK))
			return
		}
	}
}
