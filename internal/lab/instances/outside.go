package instances

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
)

// Addresses of the outside world, all of the VM "internet".
const (
	resolver  = "203.0.113.1"
	authority = "203.0.113.7"
	// outsideWeb is a web server of somebody: what an instance may reach.
	outsideWeb = "203.0.113.9"
	// sitePublic is where the world reaches the site: the router's outside address.
	sitePublic = "192.168.8.30"
)

// CustomDomain is a customer's own domain, whose names all lead to the site.
const CustomDomain = "customer.example"

// Files on the VM "internet".
const (
	rootsFile = "/var/lib/lab-outside/roots.pem"
	acmeFile  = "/etc/lab-outside/acme.pem"
)

// outside is the outside world: who tells names, who signs certificates, and a web server.
type outside struct {
	certificate, key []byte // of the authority's own TLS
}

// newOutside makes the key of the authority's door.
func newOutside() (*outside, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, errs.Wrap("make the authority's key", err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of the lab"}, IPAddresses: []net.IP{net.ParseIP(authority)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, errs.Wrap("make the authority's certificate", err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errs.Wrap("make the authority's key", err)
	}
	return &outside{certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})}, nil
}

// The registrar's zones: the platform's names and a customer's lead to the site, as `infractl dns list --public` says.
const (
	zoneHead = "$TTL 60\n@ IN SOA ns.registrar.example. admin.registrar.example. 1 3600 600 86400 60\n@ IN NS ns.registrar.example.\n"
	named    = `options { directory "/var/cache/bind"; listen-on { 203.0.113.0/24; 127.0.0.1; }; listen-on-v6 { none; }; recursion no; allow-query { any; }; dnssec-validation no; };
zone "projetpro.example" { type primary; file "/etc/lab-outside/projetpro.zone"; };
zone "` + CustomDomain + `" { type primary; file "/etc/lab-outside/customer.zone"; };
`
	acmeUnit = `[Unit]
Description=ACME authority of the lab
After=named.service

[Service]
Environment=PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0
ExecStart=/usr/bin/pebble -config /etc/lab-outside/acme.json -dnsserver ` + resolver + `:53
Restart=on-failure
`
	webUnit = `[Unit]
Description=a web server somewhere

[Service]
ExecStart=/usr/bin/busybox httpd -f -p ` + outsideWeb + `:443 -h /usr/share/common-licenses
`
)

// install puts the outside world onto the VM "internet", and its authority's certificate into the trust of the proxy's node.
func (o *outside) install(cfg *lab.Config) {
	file := func(path string, content string) lab.File {
		return lab.File{Guest: path, Mode: 0o644, Content: []byte(content)}
	}
	internet := cfg.VM(demo.Internet)
	internet.Files = append(internet.Files,
		file("/etc/bind/named.conf", named),
		file("/etc/lab-outside/projetpro.zone", zoneHead+"*.dolibarr IN A "+sitePublic+"\n"),
		file("/etc/lab-outside/customer.zone", zoneHead+"* IN A "+sitePublic+"\n"),
		file(acmeFile, string(o.certificate)),
		lab.File{Guest: "/etc/lab-outside/acme.key", Mode: 0o644, Content: o.key},
		file("/etc/lab-outside/acme.json", fmt.Sprintf(`{"pebble": {"listenAddress": "%s:14000", "managementListenAddress": "%s:15000",
 "certificate": %q, "privateKey": "/etc/lab-outside/acme.key", "httpPort": 80, "tlsPort": 443}}`, authority, authority, acmeFile)),
		file("/etc/systemd/system/lab-acme.service", acmeUnit),
		file("/etc/systemd/system/lab-web.service", webUnit),
		file("/etc/resolv.conf", "nameserver "+resolver+"\n"))
	proxy := cfg.VM(services)
	proxy.Files = append(proxy.Files, file("/usr/local/share/ca-certificates/lab-acme.crt", string(o.certificate)))
}

// startOutside starts it, and keeps the authority's root for whoever asks from there.
func (f *Fleet) startOutside(ctx context.Context) error {
	if _, err := f.Lab.VM(services).Must(ctx, "update-ca-certificates"); err != nil {
		return err
	}
	internet := f.Lab.VM(demo.Internet)
	if _, err := internet.Must(ctx, "systemctl", "start", "named.service", "lab-acme.service", "lab-web.service"); err != nil {
		return err
	}
	_, err := internet.Must(ctx, "sh", "-c", fmt.Sprintf(`mkdir -p /var/lib/lab-outside && for i in $(seq 50); do
 curl -sf --max-time 5 --cacert %s https://%s:15000/roots/0 -o %s && exit 0; sleep 0.2; done; exit 1`, acmeFile, authority, rootsFile))
	return errs.Wrap("get the authority's root", err)
}
