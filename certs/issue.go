package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// Issued is a certificate that was just made.
type Issued struct {
	// Leaf is the certificate.
	Leaf *x509.Certificate
	// ChainPEM is the certificate and the issuing one, and for a server the root too: a client that knows only the root's
	// fingerprint must be shown the root.
	ChainPEM []byte
	// Serial is the serial number as SerialHex writes it.
	Serial string
	// NotAfter is when it expires.
	NotAfter time.Time
}

// IssueNode makes the certificate of a node (or probe) for the public key of a request: client use only, NodeLife.
// A request that is too large, badly signed or of another key type is Invalid.
func (a *Authority) IssueNode(csrDER []byte, node string) (*Issued, error) {
	pub, err := publicKey(csrDER)
	if err != nil {
		return nil, errs.Wrap("issue node certificate", err)
	}
	issued, err := a.issue(pub, Identity{Kind: KindNode, Name: node}, NodeLife, nil, nil)
	return issued, errs.Wrap("issue node certificate", err)
}

// IssueOperator makes the certificate of an operator, like IssueNode. A ttl of zero means OperatorLife; more than
// MaxOperatorLife is Invalid.
func (a *Authority) IssueOperator(csrDER []byte, name string, role Role, ttl time.Duration) (*Issued, error) {
	const op = "issue operator certificate"
	if _, err := ParseRole(string(role)); err != nil {
		return nil, errs.Wrap(op, err)
	}
	if ttl == 0 {
		ttl = OperatorLife
	}
	if ttl < time.Minute || ttl > MaxOperatorLife {
		return nil, errs.Wrap(op, errs.New(errs.Invalid, "a life of %s is not between 1m and %s", ttl, MaxOperatorLife))
	}
	pub, err := publicKey(csrDER)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	issued, err := a.issue(pub, Identity{Kind: KindOperator, Name: name, Role: role}, ttl, nil, nil)
	return issued, errs.Wrap(op, err)
}

// IssueServer makes the certificate of the server called name: server use only, ServerLife. dnsNames and ips are put in
// for clients that are not ours (Prometheus); our own look at the URI.
func (a *Authority) IssueServer(pub crypto.PublicKey, name string, dnsNames []string, ips []net.IP) (*Issued, error) {
	const op = "issue server certificate"
	if err := checkKey(pub); err != nil {
		return nil, errs.Wrap(op, err)
	}
	for _, n := range dnsNames {
		if len(n) == 0 || len(n) > 253 {
			return nil, errs.Wrap(op, errs.New(errs.Invalid, "%.70q is not a DNS name", n))
		}
	}
	issued, err := a.issue(pub, Identity{Kind: KindServer, Name: name}, ServerLife, dnsNames, ips)
	return issued, errs.Wrap(op, err)
}

// maxCommonName is the limit of X.509.
const maxCommonName = 64

// issue fills the one template that all leaves come from.
func (a *Authority) issue(pub crypto.PublicKey, id Identity, life time.Duration, dns []string, ips []net.IP) (*Issued, error) {
	if _, _, service := id.Service(); !service {
		if err := ValidateName(string(id.Kind), id.Name); err != nil {
			return nil, err
		}
	}
	id.Site = a.site
	uri, err := url.Parse(id.URI())
	if err != nil {
		return nil, err
	}
	a.mu.RLock()
	issuing, key := a.issuing, a.key
	a.mu.RUnlock()
	now := a.clock.Now()
	if err := checkIssuing(issuing, now); err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: id.Name},
		// A chain must be valid as a whole at some time, so a leaf never begins before the certificate that signs it.
		NotBefore:             later(now.Add(-Backdate), issuing.NotBefore),
		NotAfter:              earlier(now.Add(life), issuing.NotAfter),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:                  []*url.URL{uri},
	}
	if len(id.Name) > maxCommonName {
		tmpl.Subject.CommonName = "" // for people only; the URI has the name
	}
	chain := []*x509.Certificate{nil, issuing}
	if id.isServer() {
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		tmpl.DNSNames, tmpl.IPAddresses = dns, ips
	}
	switch id.Kind {
	case KindServer:
		chain = append(chain, a.root)
	case KindOperator:
		tmpl.Subject.Organization = []string{rolePrefix + string(id.Role)}
	}
	leaf, err := sign(tmpl, issuing, pub, key)
	if err != nil {
		return nil, err
	}
	chain[0] = leaf
	return &Issued{Leaf: leaf, ChainPEM: EncodeCerts(chain...), Serial: SerialHex(leaf.SerialNumber), NotAfter: leaf.NotAfter}, nil
}

// checkIssuing refuses to issue with a clock that cannot be right, so that it leaves no certificates of odd lives behind.
func checkIssuing(issuing *x509.Certificate, now time.Time) error {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	if now.Before(issuing.NotBefore) {
		return errs.New(errs.Precondition, "the server's clock (%s) is before the making of the authority", stamp(now)).
			WithHint("set the server's clock; the authority is valid from %s", stamp(issuing.NotBefore))
	}
	if !now.Before(issuing.NotAfter) {
		return errs.New(errs.Precondition, "the issuing certificate ended on %s", stamp(issuing.NotAfter)).
			WithHint("the server's clock says %s; if that is right, put root.key back and restart the server", stamp(now))
	}
	return nil
}

// publicKey returns all that is taken from a request.
func publicKey(csrDER []byte) (crypto.PublicKey, error) {
	if len(csrDER) > MaxCSR {
		return nil, errs.New(errs.Invalid, "the certificate request is larger than %d bytes", MaxCSR)
	}
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the certificate request cannot be read: %w", err)
	}
	if err := checkKey(csr.PublicKey); err != nil { // before its signature: some key types are slow to verify
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, errs.New(errs.Invalid, "the certificate request is not signed by its own key: %w", err)
	}
	return csr.PublicKey, nil
}

func checkKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	}
	return errs.New(errs.Invalid, "the key is neither ECDSA P-256 nor Ed25519")
}
