package mtls

import (
	"crypto"
	"crypto/tls"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
)

// ServerCertificateConfig is what a ServerCertificate needs.
type ServerCertificateConfig struct {
	// Issue makes a certificate for a public key: certs.Authority.IssueServer with the server's present names.
	Issue func(crypto.PublicKey) (*certs.Issued, error)
	// Clock decides when it is time to renew.
	Clock clock.Clock
	// Logger is told of renewals, and of failed ones.
	Logger hclog.Logger
}

// ServerCertificate is the server's certificate. It lives in memory alone: the server has the authority at hand, so it
// makes a new key and certificate when it starts, and again after two thirds of the certificate's life, during whatever
// handshake comes then. Clients know the root, so that nothing changes for them.
type ServerCertificate struct {
	cfg ServerCertificateConfig

	mu      sync.Mutex
	cert    *tls.Certificate
	renewAt time.Time
}

// renewRetry is how long a failed renewal waits before the next try.
const renewRetry = time.Minute

// NewServerCertificate makes the first certificate.
func NewServerCertificate(cfg ServerCertificateConfig) (*ServerCertificate, error) {
	s := &ServerCertificate{cfg: cfg}
	return s, s.Reissue()
}

// Reissue makes a new key and certificate now: the server's names have changed.
func (s *ServerCertificate) Reissue() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reissue()
}

func (s *ServerCertificate) reissue() error {
	const op = "make server certificate"
	key, err := certs.NewKey()
	if err != nil {
		return errs.Wrap(op, err)
	}
	issued, err := s.cfg.Issue(key.Public())
	if err != nil {
		return errs.Wrap(op, err)
	}
	chain, err := certs.DecodeCerts(issued.ChainPEM)
	if err != nil {
		return errs.Wrap(op, err)
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	s.cert, s.renewAt = cert, certs.RenewAt(chain[0])
	s.cfg.Logger.Info("server certificate made", "serial", issued.Serial, "not_after", issued.NotAfter)
	return nil
}

// Get is the GetCertificate of a tls.Config. It renews when it is time; if that fails, the present certificate serves on.
func (s *ServerCertificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.cfg.Clock.Now(); !now.Before(s.renewAt) {
		if err := s.reissue(); err != nil {
			s.renewAt = now.Add(renewRetry)
			s.cfg.Logger.Error("server certificate not renewed", "error", err, "not_after", s.cert.Leaf.NotAfter)
		}
	}
	return s.cert, nil
}

// NotAfter returns when the present certificate expires.
func (s *ServerCertificate) NotAfter() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cert.Leaf.NotAfter
}
