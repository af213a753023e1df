package certs

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"testing"

	"github.com/infractl/infractl/internal/errs"
)

// TestParseIdentityIsStrict changes one thing at a time of a certificate that is right.
func TestParseIdentityIsStrict(t *testing.T) {
	uri := func(s string) []*url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return []*url.URL{u}
	}
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	server := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	operator := func(role ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs, c.Subject = uri("infractl://site/operator/jane"), pkix.Name{Organization: role}
		}
	}
	metrics := func(c *x509.Certificate) {
		c.URIs, c.ExtKeyUsage = uri("infractl://site/service/metrics@web1"), server
		c.DNSNames, c.IPAddresses = []string{"web1"}, []net.IP{net.IPv4(10, 0, 0, 1)}
	}
	named := func(s string) func(*x509.Certificate) { return func(c *x509.Certificate) { c.URIs = uri(s) } }
	cases := map[string]struct {
		change func(*x509.Certificate)
		ok     bool
	}{
		"node":                 {func(*x509.Certificate) {}, true},
		"operator":             {operator("infractl:viewer"), true},
		"server":               {func(c *x509.Certificate) { c.URIs, c.ExtKeyUsage = uri("infractl://site/server/a"), server }, true},
		"scraper":              {named("infractl://site/service/prometheus@web1"), true},
		"metrics page":         {func(c *x509.Certificate) { metrics(c) }, true},
		"metrics page, client": {named("infractl://site/service/metrics@web1"), false},
		"scraper that serves":  {func(c *x509.Certificate) { metrics(c); c.URIs = uri("infractl://site/service/prometheus@web1") }, false},
		"scraper with a role": {func(c *x509.Certificate) {
			operator("infractl:admin")(c)
			c.URIs = uri("infractl://site/service/prometheus@web1")
		}, false},
		"unknown service":        {named("infractl://site/service/grafana@web1"), false},
		"service of no node":     {named("infractl://site/service/prometheus"), false},
		"service, empty node":    {named("infractl://site/service/prometheus@"), false},
		"service, two nodes":     {named("infractl://site/service/prometheus@a@b"), false},
		"node like a service":    {named("infractl://site/node/prometheus@web1"), false},
		"authority":              {func(c *x509.Certificate) { c.IsCA = true }, false},
		"no URI":                 {func(c *x509.Certificate) { c.URIs = nil }, false},
		"two URIs":               {func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }, false},
		"other scheme":           {named("spiffe://site/node/web1"), false},
		"other kind":             {named("infractl://site/root/web1"), false},
		"no name":                {named("infractl://site/node/"), false},
		"no kind":                {named("infractl://site/web1"), false},
		"deeper path":            {named("infractl://site/node/web1/x"), false},
		"trailing slash":         {named("infractl://site/node/web1/"), false},
		"double slash":           {named("infractl://site//node/web1"), false},
		"upper case":             {named("infractl://site/node/WEB1"), false},
		"escape":                 {named("infractl://site/node/web%31"), false},
		"escaped slash":          {named("infractl://site/node%2Fweb1"), false},
		"query":                  {named("infractl://site/node/web1?role=admin"), false},
		"empty query":            {named("infractl://site/node/web1?"), false},
		"fragment":               {named("infractl://site/node/web1#x"), false},
		"port":                   {named("infractl://site:1/node/web1"), false},
		"user":                   {named("infractl://user@site/node/web1"), false},
		"no site":                {named("infractl:///node/web1"), false},
		"opaque":                 {named("infractl:site/node/web1"), false},
		"node with a role":       {func(c *x509.Certificate) { c.Subject.Organization = []string{"infractl:admin"} }, false},
		"node with a DNS name":   {func(c *x509.Certificate) { c.DNSNames = []string{"a"} }, false},
		"node with an address":   {func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(1, 2, 3, 4)} }, false},
		"node with a mail":       {func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b"} }, false},
		"node that may serve":    {func(c *x509.Certificate) { c.ExtKeyUsage = append(server, client...) }, false},
		"node with any usage":    {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, false},
		"node without usage":     {func(c *x509.Certificate) { c.ExtKeyUsage = nil }, false},
		"server for clients":     {named("infractl://site/server/a"), false},
		"operator without role":  {operator(), false},
		"operator, two roles":    {operator("infractl:viewer", "infractl:admin"), false},
		"operator, unknown role": {operator("infractl:root"), false},
		"operator, bare role":    {operator("admin"), false},
		"large serial":           {func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 130) }, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cert := &x509.Certificate{URIs: uri("infractl://site/node/web1"), ExtKeyUsage: client, SerialNumber: big.NewInt(7)}
			c.change(cert)
			id, err := ParseIdentity(cert)
			if c.ok != (err == nil) {
				t.Fatalf("identity %v, error %v, want ok %v", id, err, c.ok)
			}
			if err != nil && !errs.Is(err, errs.Unauthenticated) {
				t.Errorf("code = %q, want unauthenticated", errs.CodeOf(err))
			}
		})
	}
	_, err := ParseIdentity(nil)
	wantCode(t, "no certificate", err, errs.Unauthenticated)
}

func TestParseRole(t *testing.T) {
	for _, r := range Roles() {
		if got, err := ParseRole(string(r)); got != r || err != nil {
			t.Errorf("ParseRole(%q) = %q, %v", r, got, err)
		}
	}
	_, err := ParseRole("Admin")
	wantCode(t, "upper case", err, errs.Invalid)
}
