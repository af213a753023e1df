package metrics

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const watcher = "infractl://site/service/prometheus@watch"

// rig is a service with a real authority in the server's place.
type rig struct {
	*testing.T
	ca    *certs.Authority
	clock *clock.Fake
	root  string
	svc   *Service

	mu        sync.Mutex
	addresses []net.IP
	issued    int
	away      bool
}

// Issue implements Issuer.
func (r *rig) Issue(_ context.Context, purpose v1.Purpose, csr []byte) (*v1.IssueCertificateResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return nil, errs.New(errs.Unavailable, "the server is away")
	}
	r.issued++
	issued, err := r.ca.IssueMetrics(csr, "web", r.addresses)
	if purpose == v1.Purpose_PURPOSE_SCRAPER {
		issued, err = r.ca.IssueScraper(csr, "watch")
	}
	if err != nil {
		return nil, err
	}
	return &v1.IssueCertificateResponse{CertificatePem: issued.ChainPEM, RootPem: r.ca.RootPEM(), NotAfter: timestamppb.New(issued.NotAfter)}, nil
}

func (r *rig) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.issued
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, clock: clock.NewFake(time.Now()), root: t.TempDir(), addresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	var err error
	if r.ca, err = certs.Create(filepath.Join(t.TempDir(), "ca"), "site", r.clock); err != nil {
		t.Fatal(err)
	}
	r.restart()
	return r
}

// restart makes a new service in the same machine, as a restarted agent does.
func (r *rig) restart() {
	h := host.New(host.Config{Root: r.root})
	r.svc = New(Config{Host: h, StateDir: "/var/lib/infractl", Spec: func() *v1.MetricsSpec { return nil },
		Issuer: func() Issuer { return r }, Registry: prometheus.NewRegistry(), Clock: r.clock, Log: hclog.NewNullLogger()})
	r.Cleanup(func() { r.svc.listen(nil) })
}

func freePort(t *testing.T) uint32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

func specAt(port uint32, addresses ...string) *v1.MetricsSpec {
	return &v1.MetricsSpec{ListenAddresses: addresses, Port: port, Clients: []string{watcher}}
}

// client makes a client certificate and reads the page with it.
func (r *rig) client(issue func(csr []byte) (*certs.Issued, error)) *tls.Certificate {
	r.Helper()
	key, err := certs.NewKey()
	if err != nil {
		r.Fatal(err)
	}
	csr, err := certs.MakeCSR(key)
	if err != nil {
		r.Fatal(err)
	}
	issued, err := issue(csr)
	if err != nil {
		r.Fatal(err)
	}
	list, err := certs.DecodeCerts(issued.ChainPEM)
	if err != nil {
		r.Fatal(err)
	}
	out := &tls.Certificate{PrivateKey: key, Leaf: list[0]}
	for _, c := range list {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out
}

func (r *rig) scraper(node string) *tls.Certificate {
	return r.client(func(csr []byte) (*certs.Issued, error) { return r.ca.IssueScraper(csr, node) })
}

func (r *rig) get(cert *tls.Certificate, port uint32, change ...func(*tls.Config)) (int, string) {
	r.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(r.ca.Root())
	config := &tls.Config{RootCAs: roots, Time: r.clock.Now}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	for _, c := range change {
		c(config)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get("https://127.0.0.1:" + strconv.Itoa(int(port)) + "/metrics")
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestPageHasNodeExportersMetrics(t *testing.T) {
	r, port := newRig(t), freePort(t)
	r.svc.follow(t.Context(), specAt(port, "127.0.0.1"))
	code, body := r.get(r.scraper("watch"), port)
	if code != http.StatusOK {
		t.Fatalf("code = %d: %s", code, body)
	}
	for _, want := range []string{"node_memory_MemTotal_bytes ", "node_cpu_seconds_total{", "node_load1 ", `node_scrape_collector_success{collector="cpu"} 1`,
		"process_resident_memory_bytes ", "go_goroutines ", "node_exporter_build_info{", "promhttp_metric_handler_requests_total{",
		`infractl_agent_metrics_refused_total{reason="client"} 0`, "infractl_agent_containers_omitted 0"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q on the page", want)
		}
	}
}

func TestPageIsForTheNamedClientOnly(t *testing.T) {
	r, port := newRig(t), freePort(t)
	r.svc.follow(t.Context(), specAt(port, "127.0.0.1"))
	node := r.client(func(csr []byte) (*certs.Issued, error) { return r.ca.IssueNode(csr, "watch") })
	admin := r.client(func(csr []byte) (*certs.Issued, error) { return r.ca.IssueOperator(csr, "anna", certs.RoleAdmin, 0) })
	old := func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }
	for name, c := range map[string]struct {
		cert   *tls.Certificate
		change []func(*tls.Config)
		want   int
	}{
		"ScraperOfAnotherNode": {r.scraper("other"), nil, http.StatusForbidden},
		"Node":                 {node, nil, http.StatusForbidden},
		"Operator":             {admin, nil, http.StatusForbidden},
		"NoCertificate":        {nil, nil, 0},
		"OldTLS":               {r.scraper("watch"), []func(*tls.Config){old}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got, body := r.get(c.cert, port, c.change...); got != c.want {
				t.Errorf("code = %d, want %d: %.200s", got, c.want, body)
			}
		})
	}
	_, body := r.get(r.scraper("watch"), port)
	if !strings.Contains(body, `infractl_agent_metrics_refused_total{reason="client"} 3`) {
		t.Error("refusals are not counted")
	}
}

func TestPageStartsMovesAndStops(t *testing.T) {
	r, first, second := newRig(t), freePort(t), freePort(t)
	want := func(when string, port uint32, code int) {
		t.Helper()
		if got, body := r.get(r.scraper("watch"), port); got != code {
			t.Errorf("%s: code = %d, want %d: %.200s", when, got, code, body)
		}
	}
	want("before", first, 0)
	r.svc.follow(t.Context(), specAt(first, "127.0.0.1"))
	want("started", first, http.StatusOK)
	r.svc.follow(t.Context(), specAt(second, "127.0.0.1"))
	want("moved, the old port", first, 0)
	want("moved, the new port", second, http.StatusOK)
	r.svc.follow(t.Context(), nil)
	want("stopped", second, 0)
	if r.count() != 1 {
		t.Errorf("%d certificates were issued, want 1", r.count())
	}
}

func TestAddressThatComesLateIsTriedAgain(t *testing.T) {
	r, port := newRig(t), freePort(t)
	r.addresses = []net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP("192.0.2.7")}
	spec := specAt(port, "192.0.2.7", "127.0.0.1") // the first one is nobody's
	r.svc.follow(t.Context(), spec)
	if got := r.svc.Listening(); len(got) != 1 {
		t.Errorf("listening on %v", got)
	}
	if got := r.svc.Warnings(); len(got) != 1 || !strings.Contains(got[0], "cannot listen on 192.0.2.7") {
		t.Errorf("warnings = %q", got)
	}
	taken, err := net.Listen("tcp", "127.0.0.2:"+strconv.Itoa(int(port)))
	if err != nil {
		t.Fatal(err)
	}
	r.addresses = []net.IP{net.IPv4(127, 0, 0, 2)}
	r.svc.follow(t.Context(), specAt(port, "127.0.0.2"))
	if got := r.svc.Listening(); len(got) != 0 {
		t.Errorf("listening on %v while the port is taken", got)
	}
	taken.Close()
	r.svc.follow(t.Context(), specAt(port, "127.0.0.2"))
	if got := r.svc.Listening(); len(got) != 1 {
		t.Errorf("listening on %v once the port is free", got)
	}
}

func TestCertificateIsRenewedAndFollowsAddresses(t *testing.T) {
	r, port := newRig(t), freePort(t)
	spec := specAt(port, "127.0.0.1")
	for range 3 {
		r.svc.follow(t.Context(), spec)
	}
	if r.count() != 1 {
		t.Errorf("%d certificates at first, want 1", r.count())
	}
	r.clock.Advance(5 * 24 * time.Hour)
	r.away = true
	r.svc.follow(t.Context(), spec)
	if got := r.svc.Listening(); len(got) != 1 {
		t.Error("a page whose certificate is still good was closed because the server is away")
	}
	r.away = false
	r.clock.Advance(time.Hour)
	r.svc.follow(t.Context(), spec)
	if r.count() != 2 {
		t.Errorf("%d certificates after two thirds of the life, want 2", r.count())
	}
	r.addresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(127, 0, 0, 2)}
	r.svc.follow(t.Context(), specAt(port, "127.0.0.1", "127.0.0.2"))
	if r.count() != 3 {
		t.Errorf("%d certificates after a new address, want 3", r.count())
	}
}

func TestScraperFilesFollowTheSpec(t *testing.T) {
	r := newRig(t)
	write := func(name, text string) {
		path := filepath.Join(r.root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/passwd", "root:x:0:0::/root:/bin/sh\nprometheus:x:"+strconv.Itoa(os.Getuid())+":"+strconv.Itoa(os.Getgid())+"::/:/bin/false\n")
	spec := specAt(freePort(t), "127.0.0.1")
	spec.Scraper = true
	r.svc.follow(t.Context(), spec)
	dir := filepath.Join(r.root, "var/lib/infractl/scrape")
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, ScrapeCert), filepath.Join(dir, ScrapeKey))
	if err != nil {
		t.Fatal(err)
	}
	if code, body := r.get(&pair, spec.GetPort()); code != http.StatusOK {
		t.Errorf("code = %d: %s", code, body)
	}
	if info, err := os.Stat(filepath.Join(dir, ScrapeKey)); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("the key's mode is %v, %v", info.Mode(), err)
	}
	before := r.count()
	r.restart()
	r.svc.scraper.follow(t.Context(), true)
	if r.count() != before {
		t.Error("a restarted agent asks for a certificate that it has")
	}
	r.svc.follow(t.Context(), specAt(spec.GetPort(), "127.0.0.1"))
	if _, err := os.Stat(filepath.Join(dir, ScrapeKey)); !os.IsNotExist(err) {
		t.Errorf("the key is still there: %v", err)
	}
}

func TestScraperFilesBelongToWhoReadsThem(t *testing.T) {
	for name, c := range map[string]struct {
		passwd, owner string
		want          int
		bad           bool
	}{
		"DebiansUser":     {"prometheus:x:120:125::/:/bin/false\n", "", 120, false},
		"ContainersUser":  {"root:x:0:0::/root:/bin/sh\n", "", 65534, false},
		"NamedByNumber":   {"prometheus:x:120:125::/:/bin/false\n", "65534\n", 65534, false},
		"NamedByName":     {"prometheus:x:120:125::/:/bin/false\nscrape:x:7:8::/:/bin/false\n", "scrape", 7, false},
		"NamedButMissing": {"prometheus:x:120:125::/:/bin/false\n", "nobody-here", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			h := host.New(host.Config{Root: r.root})
			if _, err := h.WriteFile("/etc/passwd", []byte(c.passwd), 0o644); err != nil {
				t.Fatal(err)
			}
			if c.owner != "" {
				if _, err := h.WriteFile("/var/lib/infractl/scrape/owner", []byte(c.owner), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			uid, _, err := r.svc.scraper.owner()
			if uid != c.want || (err != nil) != c.bad {
				t.Errorf("owner = %d, %v, want %d", uid, err, c.want)
			}
		})
	}
}
