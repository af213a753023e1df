// Package mtls builds the TLS configurations and gRPC options that server, agents and operators share, and keeps a
// client's credentials on disk.
//
// All connections are TLS 1.3 under the site's own authority (package certs). Time is injected: an agent whose machine has
// a wrong clock verifies with the server's time, and expiry is tested by moving a clock.
package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
)

// ServerOptions is what ServerConfig needs.
type ServerOptions struct {
	// Certificate returns the server's present certificate, with a chain that ends in the root: see ServerCertificate.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Roots holds the site's root alone.
	Roots *x509.CertPool
	// Site is the site whose identities are let in.
	Site string
	// Clock decides whether a client's certificate is valid now.
	Clock clock.Clock
	// RequireClient is set for the main listener. The enrolment listener asks for no client certificate at all.
	RequireClient bool
}

// ServerConfig returns the configuration of a listener. A client must have a certificate under the root, valid now, for
// client use, that names a node, an operator or a scraper of the site. Whether it was revoked is asked per call, not here: a revoked
// client must get through to be told so.
func ServerConfig(o ServerOptions) *tls.Config {
	cfg := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: o.Certificate,
		Time:           o.Clock.Now,
		NextProtos:     []string{"h2"},
		// Every handshake proves the client's key and checks its certificate afresh; a ticket would carry an old verdict.
		SessionTicketsDisabled: true,
	}
	if !o.RequireClient {
		return cfg
	}
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	cfg.ClientCAs = o.Roots
	// gRPC offers h2 alone. Whoever offers both speaks HTTP: Prometheus, or a person with curl.
	cfg.NextProtos = []string{"http/1.1", "h2"}
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		id, err := verified(state)
		if err != nil {
			return err
		}
		if id.Site != o.Site || !isClient(id) {
			return errs.New(errs.Unauthenticated, "%s is not a client of site %s", id.URI(), o.Site)
		}
		return nil
	}
	return cfg
}

// isClient reports whether an identity may connect; what it may do is decided later. Of services it is the scraper alone,
// whose use is HTTP.
func isClient(id certs.Identity) bool {
	service, _, _ := id.Service()
	return id.Kind == certs.KindNode || id.Kind == certs.KindOperator || service == certs.ServicePrometheus
}

func verified(state tls.ConnectionState) (certs.Identity, error) {
	if len(state.VerifiedChains) == 0 {
		return certs.Identity{}, errs.New(errs.Unauthenticated, "the peer has shown no certificate")
	}
	return certs.ParseIdentity(state.VerifiedChains[0][0])
}

// PeerIdentity returns who a gRPC call comes from, by the certificate that the handshake verified. It is Unauthenticated
// where there was none (the enrolment listener, a Unix socket). The caller still has to ask whether the certificate has
// expired since (Identity.NotAfter) or was revoked.
func PeerIdentity(ctx context.Context) (certs.Identity, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return certs.Identity{}, errs.New(errs.Unauthenticated, "the call has no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return certs.Identity{}, errs.New(errs.Unauthenticated, "the call did not come over TLS")
	}
	return verified(info.State)
}

// ClientOptions is what ClientConfig needs.
type ClientOptions struct {
	// RootPEM is the site's root certificate.
	RootPEM []byte
	// Certificate returns the client's present certificate; it is asked at each handshake.
	Certificate func() (*tls.Certificate, error)
	// Site is the site that the server must belong to.
	Site string
	// Server is the name of the server's identity; "" accepts any server of the site.
	Server string
	// Clock decides whether the server's certificate is valid now; agents give one that follows the server's time.
	Clock clock.Clock
}

// ClientConfig returns the configuration of agents and operators for the main listener. The server must show a chain under
// the root, valid now, for server use, whose leaf is infractl://<site>/server/<name>.
//
// The name or address that was dialled is not looked at. That is as strong as a check of host names: such a check ties a
// name that the user meant to a key that some authority vouches for, because a public authority vouches for everybody.
// Here the user means "the server of this site", the site's authority alone is trusted, and it gives that URI to nothing
// else. Whoever answers with such a certificate is the server, however it was reached, so that neither DNS nor an address
// that never changes is needed.
func ClientConfig(o ClientOptions) (*tls.Config, error) {
	list, err := certs.DecodeCerts(o.RootPEM)
	if err != nil {
		return nil, errs.Wrap("read root certificate", err)
	}
	roots := x509.NewCertPool()
	for _, c := range list {
		roots.AddCert(c)
	}
	cfg := clientBase(o.Clock.Now, func(presented []*x509.Certificate) error {
		_, err := verifyServer(presented, roots, o.Clock.Now(), o.Site, o.Server)
		return err
	})
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return o.Certificate() }
	return cfg, nil
}

// PinnedOptions is what PinnedClientConfig needs.
type PinnedOptions struct {
	// Fingerprint is that of the root, as certs.FingerprintOf writes it.
	Fingerprint string
	// Site is the site that the server must belong to.
	Site string
	// Chain is given the verified chain, leaf first and root last, during each successful handshake. Its times were not
	// checked: call CheckValidity once the server's time is known.
	Chain func([]*x509.Certificate)
}

// PinnedClientConfig returns the configuration for enrolment and a first login: the client has no certificate yet and
// knows only the root's fingerprint, and its clock may be wrong. The server must show a chain that ends in that root and a
// leaf that is a server of the site.
func PinnedClientConfig(o PinnedOptions) *tls.Config {
	return clientBase(nil, func(presented []*x509.Certificate) error {
		root := pinned(presented, o.Fingerprint)
		if root == nil {
			return errs.New(errs.Unauthenticated, "the server's root is not the one that the token pins").
				WithHint("the server was set up anew, or this is another server; make a new token on the right one")
		}
		if !root.IsCA || root.CheckSignatureFrom(root) != nil {
			return errs.New(errs.Unauthenticated, "the token pins a certificate that is no root")
		}
		roots := x509.NewCertPool()
		roots.AddCert(root)
		// A certificate is inside its own life when it begins, and so are those above it.
		chain, err := verifyServer(presented, roots, presented[0].NotBefore, o.Site, "")
		if err != nil {
			return err
		}
		if o.Chain != nil {
			o.Chain(chain)
		}
		return nil
	})
}

func pinned(presented []*x509.Certificate, fingerprint string) *x509.Certificate {
	for _, c := range presented {
		if certs.FingerprintOf(c) == fingerprint {
			return c
		}
	}
	return nil
}

// CheckValidity returns Unauthenticated unless each certificate of chain is valid at now.
func CheckValidity(chain []*x509.Certificate, now time.Time) error {
	for _, c := range chain {
		if err := validAt(c, now); err != nil {
			return err
		}
	}
	return nil
}

func validAt(c *x509.Certificate, now time.Time) error {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case now.Before(c.NotBefore):
		return errs.New(errs.Unauthenticated, "certificate %q is not valid before %s, and the clock says %s",
			c.Subject.CommonName, stamp(c.NotBefore), stamp(now)).WithHint("check the clocks of this machine and of the server")
	case now.After(c.NotAfter):
		return errs.New(errs.Unauthenticated, "certificate %q expired at %s, and the clock says %s",
			c.Subject.CommonName, stamp(c.NotAfter), stamp(now)).WithHint("check the clocks of this machine and of the server")
	}
	return nil
}

// clientBase switches the standard verification off and puts verify in its place; verify never sees an empty list.
func clientBase(now func() time.Time, verify func([]*x509.Certificate) error) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Time:               now,
		NextProtos:         []string{"h2"},
		InsecureSkipVerify: true, // replaced by VerifyConnection, which runs in every handshake
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errs.New(errs.Unauthenticated, "the server has shown no certificate")
			}
			return verify(state.PeerCertificates)
		},
	}
}

func verifyServer(presented []*x509.Certificate, roots *x509.CertPool, now time.Time, site, server string) ([]*x509.Certificate, error) {
	between := x509.NewCertPool()
	for _, c := range presented[1:] {
		between.AddCert(c)
	}
	chains, err := presented[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		if verr := CheckValidity(presented, now); verr != nil {
			return nil, verr // says which clock to look at
		}
		return nil, errs.New(errs.Unauthenticated, "the server's certificate is not under the site's root: %w", err)
	}
	id, err := certs.ParseIdentity(presented[0])
	if err != nil {
		return nil, err
	}
	if id.Kind != certs.KindServer || id.Site != site || (server != "" && id.Name != server) {
		return nil, errs.New(errs.Unauthenticated, "%s answered, which is not the server of site %s", id.URI(), site)
	}
	return chains[0], nil
}
