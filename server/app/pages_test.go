package app

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/discovery"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// get reads a page as Prometheus does: it checks the server's address and offers both protocols.
func (f *fixture) get(cert *tls.Certificate, path string) (int, string) {
	f.Helper()
	config := &tls.Config{RootCAs: f.app.authority.RootPool(), Time: f.clock.Now, NextProtos: []string{"h2", "http/1.1"}}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	resp, err := client.Get("https://" + f.app.Addresses().Sessions + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func metricsOf(address string, scraper bool) *v1.MetricsSpec {
	return &v1.MetricsSpec{ListenAddresses: []string{address}, Port: 9100, Scraper: scraper}
}

// issue asks for a certificate of a service as the machine.
func (m *machine) issue(purpose v1.Purpose) (*tls.Certificate, error) {
	m.f.Helper()
	key, csr := newKey(m.f)
	resp, err := v1.NewSessionServiceClient(m.conn).IssueCertificate(m.f.Context(), &v1.IssueCertificateRequest{Purpose: purpose, Csr: csr})
	if err != nil {
		return nil, err
	}
	list, err := certs.DecodeCerts(resp.GetCertificatePem())
	if err != nil {
		m.f.Fatal(err)
	}
	out := &tls.Certificate{PrivateKey: key, Leaf: list[0]}
	for _, c := range list {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out, nil
}

// watched is a site of two nodes, one of which reads the metrics of both.
func watched(t *testing.T) (f *fixture, watch, web *machine) {
	f = newFixture(t)
	admin := f.login("anna")
	wanted := []fleet.Wanted{
		{Name: "away", Role: "prod", Address: "10.0.0.9", Metrics: metricsOf("10.0.0.9", false)},
		{Name: "watch", Role: "supervision", Address: "10.0.0.1", Metrics: metricsOf("10.0.0.1", true)},
		{Name: "web", Role: "prod", Address: "10.0.0.2", Digest: "sha256:1", Metrics: metricsOf("fd00::2", false)},
	}
	f.wanted(wanted)
	return f, f.node(admin, "watch"), f.node(admin, "web")
}

func TestDiscoveryListsEnrolledNodesAndTheServer(t *testing.T) {
	f, watch, _ := watched(t)
	scraper, err := watch.issue(v1.Purpose_PURPOSE_SCRAPER)
	if err != nil {
		t.Fatal(err)
	}
	code, body := f.get(scraper, discovery.PathTargets)
	if code != http.StatusOK {
		t.Fatalf("code %d: %s", code, body)
	}
	var got []discovery.Group
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(f.app.Addresses().Sessions, ":")
	node := func(name, role, target string) discovery.Group {
		return discovery.Group{Targets: []string{target}, Labels: map[string]string{"node": name, "role": role, "site": testSite,
			"__scheme__": "https", "__metrics_path__": "/metrics", "__meta_infractl_kind": "node", "__meta_infractl_node": name,
			"__meta_infractl_role": role, "__meta_infractl_site": testSite}}
	}
	want := []discovery.Group{node("watch", "supervision", "10.0.0.1:9100"), node("web", "prod", "[fd00::2]:9100"),
		{Targets: []string{"127.0.0.1:" + port}, Labels: map[string]string{"job": "infractl-server", "role": "server", "site": testSite,
			"__scheme__": "https", "__metrics_path__": "/metrics", "__meta_infractl_kind": "server", "__meta_infractl_site": testSite}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMetricsPageShowsTheSite(t *testing.T) {
	f, watch, _ := watched(t)
	scraper, err := watch.issue(v1.Purpose_PURPOSE_SCRAPER)
	if err != nil {
		t.Fatal(err)
	}
	_, page := f.get(scraper, discovery.PathMetrics)
	for _, want := range []string{`infractl_certificate_not_after_seconds{which="server"}`, "infractl_sessions 0", "infractl_tasks_pending 0",
		`infractl_nodes{state="offline"} 2`, `infractl_nodes{state="wanted"} 1`, `infractl_node_in_sync{node="web"} 0`, `infractl_node_drift{node="web"} 0`,
		`infractl_node_certificate_not_after_seconds{node="web"}`, `infractl_rollouts{state="running"} 0`, "infractl_store_bytes ",
		"infractl_audit_entries_total ", `infractl_scrape_failed{part="nodes"} 0`, "go_goroutines "} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q on the page:\n%.3000s", want, page)
		}
	}
}

func TestPagesAreForScrapersAndOperators(t *testing.T) {
	f, watch, web := watched(t)
	scraper, err := watch.issue(v1.Purpose_PURPOSE_SCRAPER)
	if err != nil {
		t.Fatal(err)
	}
	viewer := f.operator("vera", certs.RoleViewer).cred.TLS
	auditor := f.operator("otto", certs.RoleAuditor).cred.TLS
	for name, c := range map[string]struct {
		cert *tls.Certificate
		path string
		want int
	}{
		"ScraperTargets":  {scraper, discovery.PathTargets, http.StatusOK},
		"ScraperMetrics":  {scraper, discovery.PathMetrics, http.StatusOK},
		"Viewer":          {viewer, discovery.PathMetrics, http.StatusOK},
		"Auditor":         {auditor, discovery.PathTargets, http.StatusOK},
		"Node":            {web.cred.TLS, discovery.PathMetrics, http.StatusForbidden},
		"WatchNodeItself": {watch.cred.TLS, discovery.PathTargets, http.StatusForbidden},
		"NoSuchPage":      {scraper, "/", http.StatusNotFound},
		"NodeNoSuchPage":  {web.cred.TLS, "/debug/pprof/", http.StatusForbidden},
		"NoCertificate":   {nil, discovery.PathMetrics, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got, body := f.get(c.cert, c.path); got != c.want {
				t.Errorf("code = %d, want %d: %s", got, c.want, body)
			}
		})
	}
	if got := f.refused(access.ReasonCaller); got != 3 {
		t.Errorf("%d refusals counted, want 3", got)
	}
}

func TestScraperLosesItsRightWithItsNode(t *testing.T) {
	f, watch, _ := watched(t)
	scraper, err := watch.issue(v1.Purpose_PURPOSE_SCRAPER)
	if err != nil {
		t.Fatal(err)
	}
	want := func(when string, code int) {
		t.Helper()
		if got, _ := f.get(scraper, discovery.PathTargets); got != code {
			t.Errorf("%s: code = %d, want %d", when, got, code)
		}
	}
	want("at first", http.StatusOK)
	f.wanted([]fleet.Wanted{{Name: "watch", Role: "supervision", Metrics: metricsOf("10.0.0.1", false)}})
	want("watched from elsewhere", http.StatusForbidden)
	f.wanted([]fleet.Wanted{{Name: "watch", Role: "supervision", Metrics: metricsOf("10.0.0.1", true)}})
	want("watched from here again", http.StatusOK)
	if _, err := f.app.fleet.UpdateNode(t.Context(), "watch", func(n *fleet.Node) error { n.Revoked = f.clock.Now(); return nil }); err != nil {
		t.Fatal(err)
	}
	want("node revoked", http.StatusForbidden)
}

func TestServicesCallNothing(t *testing.T) {
	f, watch, _ := watched(t)
	scraper, err := watch.issue(v1.Purpose_PURPOSE_SCRAPER)
	if err != nil {
		t.Fatal(err)
	}
	conn := f.dialMain(&mtls.Credential{TLS: scraper, RootPEM: f.app.authority.RootPEM()})
	for method, rule := range access.Methods() {
		if rule.Listener != access.Main {
			continue
		}
		err := conn.Invoke(t.Context(), method, &v1.GetStatusRequest{}, &v1.GetStatusResponse{})
		if !errs.Is(errs.FromGRPC(err), errs.Denied) {
			t.Errorf("%s: %v, want denied", method, err)
		}
	}
}

func TestCertificatesFollowTheRevision(t *testing.T) {
	f, watch, web := watched(t)
	page, err := web.issue(v1.Purpose_PURPOSE_METRICS)
	if err != nil {
		t.Fatal(err)
	}
	if err := page.Leaf.VerifyHostname("fd00::2"); err != nil {
		t.Error(err)
	}
	if err := page.Leaf.VerifyHostname("web"); err != nil {
		t.Error(err)
	}
	if len(page.Leaf.IPAddresses) != 1 {
		t.Errorf("addresses = %v", page.Leaf.IPAddresses)
	}
	if got, _ := f.get(page, discovery.PathMetrics); got != 0 {
		t.Error("a metrics page's certificate is let in as a client")
	}
	_, err = web.issue(v1.Purpose_PURPOSE_SCRAPER)
	wantCode(t, err, errs.Denied)
	_, err = watch.issue(v1.Purpose_PURPOSE_UNSPECIFIED)
	wantCode(t, err, errs.Invalid)
	f.wanted([]fleet.Wanted{{Name: "web", Role: "prod"}})
	_, err = web.issue(v1.Purpose_PURPOSE_METRICS)
	wantCode(t, err, errs.Precondition)
	_, err = watch.issue(v1.Purpose_PURPOSE_METRICS)
	wantCode(t, err, errs.Precondition)
}

func TestCertificatesAreBounded(t *testing.T) {
	_, _, web := watched(t)
	var err error
	for range 20 {
		if _, err = web.issue(v1.Purpose_PURPOSE_METRICS); err != nil {
			break
		}
	}
	wantCode(t, err, errs.Exhausted)
}

func TestUsageSaysWhoIsAway(t *testing.T) {
	f, watch, _ := watched(t)
	stream, _ := watch.mustOpen()
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			if task := m.GetTask(); task.GetUsage() != nil {
				_ = stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Result{Result: &v1.TaskResult{TaskId: task.GetId(),
					Outcome: &v1.TaskResult_Usage{Usage: &v1.UsageResult{Host: &v1.Usage{Cpu: 1.5, Cpus: 2}}}}}})
			}
		}
	}()
	api := v1.NewNodeServiceClient(f.operator("vera", certs.RoleViewer).conn)
	got, err := api.GetUsage(t.Context(), &v1.GetUsageRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.GetNodes()) != 2 || got.GetNodes()[0].GetUsage().GetHost().GetCpu() != 1.5 || got.GetNodes()[1].GetError() != "away" {
		t.Errorf("usage = %v", got)
	}
	_, err = api.GetUsage(t.Context(), &v1.GetUsageRequest{Nodes: []string{"nobody"}})
	wantCode(t, err, errs.NotFound)
	left, err := f.app.store.List(t.Context(), "task", store.ListOptions{})
	if err != nil || len(left) != 0 {
		t.Errorf("%d questions are kept, %v", len(left), err)
	}
}
