//go:build lab

package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// realCaddy is Debian's caddy on loopback with ports of its own. There is no systemd here: its verbs do nothing.
type realCaddy struct {
	t           *testing.T
	dir         string
	http, https int
	env         []string
	cmd         *exec.Cmd
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// program starts one and ends it with the test.
func program(t *testing.T, env []string, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := os.CreateTemp(t.TempDir(), "out")
	must(t, err)
	cmd.Stdout, cmd.Stderr = out, out
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(out.Name())
			t.Logf("%s: %s", argv[0], text[max(0, len(text)-4000):])
		}
	})
	return cmd
}

func newRealCaddy(t *testing.T, env []string) *realCaddy {
	t.Helper()
	c := &realCaddy{t: t, dir: t.TempDir(), http: freePort(t), https: freePort(t), env: env}
	must(t, os.MkdirAll(c.dir+"/etc/caddy", 0o755))
	must(t, os.MkdirAll(c.dir+"/usr/bin", 0o755))
	must(t, os.WriteFile(c.dir+"/usr/bin/caddy", nil, 0o755))
	// The agent sees caddy's folder below its root, caddy as it is.
	must(t, os.MkdirAll(c.dir+filepath.Dir(c.storage()), 0o755))
	must(t, os.Symlink(c.storage(), c.dir+c.storage()))
	begin := filepath.Join(c.dir, "begin.json")
	text, err := json.Marshal(object{"admin": object{"listen": "unix/" + c.socket(), "origins": []string{adminName}, "config": object{"persist": false}}})
	must(t, err)
	must(t, os.WriteFile(begin, text, 0o644))
	c.start(begin)
	return c
}

func (c *realCaddy) socket() string { return filepath.Join(c.dir, "admin.sock") }

func (c *realCaddy) storage() string { return filepath.Join(c.dir, "storage") }

func (c *realCaddy) start(config string) {
	c.t.Helper()
	c.cmd = program(c.t, append([]string{"HOME=" + c.dir}, c.env...), "caddy", "run", "--config", config)
	for range 200 {
		if conn, err := net.Dial("unix", c.socket()); err == nil {
			_ = conn.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Fatal("caddy does not start")
}

func listens(t *testing.T, network string, port int) {
	t.Helper()
	for range 200 {
		if conn, err := net.Dial(network, fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = conn.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("nothing listens on %d", port)
}

func (c *realCaddy) stop() {
	_ = c.cmd.Process.Signal(os.Interrupt)
	_, _ = c.cmd.Process.Wait()
}

func (c *realCaddy) provider() *Provider {
	noSystemd := runnerFunc(func(context.Context, host.Cmd) (host.Output, error) { return host.Output{}, nil })
	return New(Config{Host: host.New(host.Config{Root: c.dir, Runner: noSystemd}), HTTPPort: c.http, HTTPSPort: c.https, Socket: c.socket(),
		Storage: c.storage(), Wait: 20 * time.Second})
}

// get asks for a path of a name; over TLS when secure is set.
func (c *realCaddy) get(name string, secure bool, headers ...string) (reply, error) {
	scheme, port := "http", c.http
	if secure {
		scheme, port = "https", c.https
	}
	client := &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, //nolint:gosec // a test
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", port))
			}}}
	req, err := http.NewRequest(http.MethodGet, scheme+"://"+name+"/x?y=1", nil)
	must(c.t, err)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	out := reply{status: res.StatusCode, header: res.Header, body: string(body)}
	if res.TLS != nil {
		out.issuer = res.TLS.PeerCertificates[0].Issuer.CommonName
	}
	return out, err
}

// reply is what caddy answered, and who made its certificate.
type reply struct {
	status       int
	header       http.Header
	body, issuer string
}

func (c *realCaddy) spec(hosts ...*v1.ProxyHostSpec) *v1.ProxySpec {
	s := specFor(DriverCaddy, nil, hosts...)
	s.ListenAddresses = []string{"127.0.0.1"}
	return s
}

func target(name, at string, internal bool, allow ...string) *v1.ProxyHostSpec {
	return &v1.ProxyHostSpec{Domains: []string{name}, Target: at, Scheme: "http", Internal: internal, Allow: allow}
}

func applyReal(t *testing.T, p *Provider, s *v1.ProxySpec) {
	t.Helper()
	ctx := context.Background()
	pl, err := p.Plan(ctx, want(s))
	must(t, err)
	must(t, p.Apply(ctx, pl))
	must(t, p.Verify(ctx, want(s)))
	if pl, err = p.Plan(ctx, want(s)); err != nil || len(pl.Changes) > 0 {
		t.Errorf("the second plan: %v, %v", pl.Changes, err)
	}
}

func TestRealCaddyServes(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s for=%s proto=%s host=%s", r.URL, r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Host)
	}))
	defer backend.Close()
	c := newRealCaddy(t, nil)
	p, at := c.provider(), backend.Listener.Addr().String()
	spec := c.spec(target("in.example.test", at, true), target("closed.example.test", at, true, "203.0.113.0/24"),
		target("down.example.test", fmt.Sprintf("127.0.0.1:%d", freePort(t)), true),
		target("later1.example.test", at, false), target("later2.example.test", at, false))
	spec.CertificatesPerWeek, spec.AcmeDirectory = 1, "https://127.0.0.1:1/dir" // nobody: it never comes
	applyReal(t, p, spec)
	for name, w := range map[string]struct {
		host    string
		secure  bool
		status  int
		header  string
		content string
	}{
		"plain is redirected":          {"in.example.test", false, 308, "https://in.example.test/x?y=1", ""},
		"target answers, client known": {"in.example.test", true, 200, "", "/x?y=1 for=127.0.0.1 proto=https host=in.example.test"},
		"not from that address":        {"closed.example.test", true, 403, "", "not served to your address"},
		"target down":                  {"down.example.test", true, 503, "", "momentanément indisponible"},
		"unknown name":                 {"other.example.test", false, 421, "", "not served here"},
		"waits for its certificate":    {"later2.example.test", false, 503, "", "being prepared"},
	} {
		res, err := c.get(w.host, w.secure, "X-Forwarded-For", "198.51.100.1")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if res.status != w.status || !strings.Contains(res.body, w.content) || res.header.Get("Location") != w.header {
			t.Errorf("%s: %d %q %s", name, res.status, res.header.Get("Location"), res.body)
		}
		if res.header.Get("Strict-Transport-Security") != "" {
			t.Errorf("%s: HSTS is on", name)
		}
		if w.status == 503 && res.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", name)
		}
	}
	if _, err := c.get("other.example.test", true); err == nil {
		t.Error("an unknown name got a certificate")
	}

	bad := c.spec(target("in.example.test", at, true))
	bad.ListenAddresses = []string{"203.0.113.77"} // not ours: caddy cannot listen there
	pl, err := p.Plan(context.Background(), want(bad))
	must(t, err)
	if err := p.Apply(context.Background(), pl); !errs.Is(err, errs.Invalid) {
		t.Errorf("a configuration that cannot work: %v", err)
	}
	must(t, p.Verify(context.Background(), want(spec)))

	c.stop() // a reboot
	c.start(c.dir + caddyConf)
	must(t, p.Verify(context.Background(), want(spec)))
	if out, err := exec.Command("caddy", "validate", "--config", c.dir+caddyConf).CombinedOutput(); err != nil {
		t.Errorf("caddy validate: %s", out)
	}
}

// TestRealCaddyGetsCertificates has pebble, the small ACME server of Let's Encrypt, as its authority.
func TestRealCaddyGetsCertificates(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	cert, private := dir+"/cert.pem", dir+"/key.pem"
	must(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}), 0o600))

	c := newRealCaddy(t, []string{"SSL_CERT_FILE=" + cert})
	acme, management, dns, web := freePort(t), freePort(t), freePort(t), freePort(t)
	config, err := json.Marshal(object{"pebble": object{"listenAddress": fmt.Sprintf("127.0.0.1:%d", acme), "certificate": cert, "privateKey": private,
		"managementListenAddress": fmt.Sprintf("127.0.0.1:%d", management), "httpPort": c.http, "tlsPort": c.https}})
	must(t, err)
	must(t, os.WriteFile(dir+"/pebble.json", config, 0o600))
	program(t, nil, "pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", fmt.Sprintf("127.0.0.1:%d", dns),
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-management", fmt.Sprintf("127.0.0.1:%d", web))
	program(t, []string{"PEBBLE_VA_NOSLEEP=1"}, "pebble", "-config", dir+"/pebble.json", "-dnsserver", fmt.Sprintf("127.0.0.1:%d", dns))
	listens(t, "tcp", acme)
	listens(t, "tcp", web)

	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	defer backend.Close()
	p := c.provider()
	spec := c.spec(target("one.example.test", backend.Listener.Addr().String(), false), target("two.example.test", backend.Listener.Addr().String(), false))
	spec.CertificatesPerWeek, spec.AcmeDirectory = 1, fmt.Sprintf("https://127.0.0.1:%d/dir", acme)
	applyReal(t, p, spec)
	started := time.Now()
	for {
		res, err := c.get("one.example.test", true)
		if err == nil && res.body == "hello" && strings.Contains(res.issuer, "Pebble") {
			t.Logf("a certificate of %s after %s", res.issuer, time.Since(started).Round(10*time.Millisecond))
			break
		}
		if time.Since(started) > time.Minute {
			t.Fatalf("no certificate: %v", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if _, err := c.get("two.example.test", true); err == nil {
		t.Error("a second certificate came within the week")
	}
	w := &work{driver: p.newCaddy()}
	if w.view, err = w.driver.look(context.Background(), spec); err != nil || !w.view.have["one.example.test"] || w.view.have["two.example.test"] {
		t.Errorf("certificates that are there: %v, %v", w.view.have, err)
	}
}
