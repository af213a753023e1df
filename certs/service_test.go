package certs

import (
	"crypto/x509"
	"net"
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/errs"
)

func TestServiceTemplates(t *testing.T) {
	a, _, _ := newAuthority(t)
	_, csr := newCSR(t)
	page, err := a.IssueMetrics(csr, "web1", []net.IP{net.IPv4(10, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	scraper, err := a.IssueScraper(csr, "watch")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		issued  *Issued
		uri     string
		is, not x509.ExtKeyUsage
	}{
		{page, "infractl://projetpro/service/metrics@web1", x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		{scraper, "infractl://projetpro/service/prometheus@watch", x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	} {
		id, err := ParseIdentity(c.issued.Leaf)
		if err != nil || id.URI() != c.uri || id.Kind != KindService {
			t.Errorf("identity = %v, %v, want %s", id, err, c.uri)
		}
		if err := verifyAt(a, c.issued, c.is, start()); err != nil {
			t.Errorf("%s: %v", c.uri, err)
		}
		if verifyAt(a, c.issued, c.not, start()) == nil {
			t.Errorf("%s is good for the other side too", c.uri)
		}
		if got := c.issued.NotAfter.Sub(start()); got != NodeLife {
			t.Errorf("%s lives %s, want %s", c.uri, got, NodeLife)
		}
	}
	if err := page.Leaf.VerifyHostname("10.0.0.1"); err != nil {
		t.Error(err)
	}
	if err := page.Leaf.VerifyHostname("web1"); err != nil {
		t.Error(err)
	}
	if len(scraper.Leaf.DNSNames)+len(scraper.Leaf.IPAddresses) > 0 {
		t.Error("a scraper has other names")
	}
	if got, want := ServiceURI("projetpro", ServicePrometheus, "watch"), "infractl://projetpro/service/prometheus@watch"; got != want {
		t.Errorf("URI = %s, want %s", got, want)
	}
	service, node, ok := Identity{Kind: KindService, Name: "prometheus@watch"}.Service()
	if service != ServicePrometheus || node != "watch" || !ok {
		t.Errorf("service = %q of %q, %v", service, node, ok)
	}
}

func TestBadServicesAreRefused(t *testing.T) {
	a, _, _ := newAuthority(t)
	_, csr := newCSR(t)
	ip := []net.IP{net.IPv4(10, 0, 0, 1)}
	for name, issue := range map[string]func() (*Issued, error){
		"no address":        func() (*Issued, error) { return a.IssueMetrics(csr, "web1", nil) },
		"metrics, bad name": func() (*Issued, error) { return a.IssueMetrics(csr, "web1@x", ip) },
		"scraper, bad name": func() (*Issued, error) { return a.IssueScraper(csr, "") },
		"bad request":       func() (*Issued, error) { return a.IssueScraper(csr[:20], "web1") },
	} {
		_, err := issue()
		wantCode(t, name, err, errs.Invalid)
	}
	long := strings.Repeat("n", 63) // its name is longer than a common name may be
	issued, err := a.IssueScraper(csr, long)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := ParseIdentity(issued.Leaf); err != nil || id.Name != "prometheus@"+long || issued.Leaf.Subject.CommonName != "" {
		t.Errorf("identity = %v, %v", id, err)
	}
}
