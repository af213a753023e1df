package metrics

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// material is a certificate of a service with its key.
type material struct {
	key   crypto.Signer
	leaf  *x509.Certificate
	chain []byte // PEM
	root  []byte // PEM
	tls   *tls.Certificate
	roots *x509.CertPool
}

func newMaterial(key crypto.Signer, answer *v1.IssueCertificateResponse) (*material, error) {
	list, err := certs.DecodeCerts(answer.GetCertificatePem())
	if err != nil {
		return nil, err
	}
	roots, err := certs.DecodeCerts(answer.GetRootPem())
	if err != nil {
		return nil, err
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(list[0].PublicKey) {
		return nil, errs.New(errs.Internal, "the certificate is not for this key")
	}
	m := &material{key: key, leaf: list[0], chain: answer.GetCertificatePem(), root: answer.GetRootPem(),
		tls: &tls.Certificate{PrivateKey: key, Leaf: list[0]}, roots: x509.NewCertPool()}
	for _, c := range list {
		m.tls.Certificate = append(m.tls.Certificate, c.Raw)
	}
	for _, r := range roots {
		m.roots.AddCert(r)
	}
	return m, nil
}

// due reports whether it is time for a new certificate.
func (m *material) due(now time.Time) bool { return !now.Before(certs.RenewAt(m.leaf)) }

// keeper holds a certificate in memory and renews it.
type keeper struct {
	cfg     Config
	purpose v1.Purpose
	backoff enrol.Backoff

	mu   sync.Mutex
	have *material
	try  int
	next time.Time
	last error
}

func newKeeper(cfg Config, purpose v1.Purpose) *keeper {
	return &keeper{cfg: cfg, purpose: purpose, backoff: enrol.Backoff{Base: 2 * time.Second, Max: 5 * time.Minute}}
}

// follow asks for a certificate when there is none, when two thirds of its life are over, or when it has other addresses than
// it should. The error says why there is none that is right; an older one goes on serving.
func (k *keeper) follow(ctx context.Context, addresses []net.IP) error {
	now := k.cfg.Clock.Now()
	k.mu.Lock()
	have, next, last := k.have, k.next, k.last
	k.mu.Unlock()
	if have != nil && !have.due(now) && sameAddresses(have.leaf.IPAddresses, addresses) {
		return nil
	}
	if now.Before(next) && next.Sub(now) <= k.backoff.Max*2 { // a clock that was set back must not stop renewals
		return last
	}
	m, err := k.ask(ctx)
	if err == nil && !sameAddresses(m.leaf.IPAddresses, addresses) {
		// The server's revision is another than the stored one: what it gave serves meanwhile.
		err = errs.New(errs.Precondition, "the certificate is for other addresses than those of this host's spec")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if m != nil {
		k.have = m
	}
	k.last = err
	if err != nil {
		k.next = k.cfg.Clock.Now().Add(k.backoff.Delay(k.try, err))
		k.try++
		return err
	}
	k.try, k.next = 0, time.Time{}
	k.cfg.Log.Info("service certificate issued", "purpose", k.purpose, "not_after", m.leaf.NotAfter)
	return nil
}

func (k *keeper) ask(ctx context.Context) (*material, error) {
	issuer := k.cfg.Issuer()
	if issuer == nil {
		return nil, errs.New(errs.Unavailable, "there is no session with the server yet")
	}
	key, err := certs.NewKey()
	if err != nil {
		return nil, err
	}
	csr, err := certs.MakeCSR(key)
	if err != nil {
		return nil, err
	}
	answer, err := issuer.Issue(ctx, k.purpose, csr)
	if err != nil {
		return nil, err
	}
	return newMaterial(key, answer)
}

func (k *keeper) usable() bool { return k.current() != nil }

func (k *keeper) current() *material {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.have
}

func (k *keeper) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.have, k.next, k.last, k.try = nil, time.Time{}, nil, 0
}

func sameAddresses(a, b []net.IP) bool {
	text := func(list []net.IP) []string {
		var out []string
		for _, ip := range list {
			out = append(out, ip.String())
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	return slices.Equal(text(a), text(b))
}
