package proxy

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"path"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// publicDirectory is the directory of the authority that is meant where the site names none.
const publicDirectory = "https://acme-v02.api.letsencrypt.org/directory"

// judge looks at a served chain as a browser would: the certificate is for the name, is valid now, is no stand-in, and comes from whom it
// should. A private authority, whose root this host need not know, is reported and no fault.
func (p *Provider) judge(d *door, h *Host, name string, chain []*x509.Certificate) (said string, err error) {
	leaf, now := chain[0], p.cfg.Clock.Now()
	wrong := func(format string, args ...any) (string, error) {
		return "", errs.New(errs.Precondition, format, args...).WithHint("%s", d.certificateHint())
	}
	switch {
	case leaf.VerifyHostname(name) != nil:
		return wrong("the certificate that is served for it is for other names: %.100q", leaf.DNSNames)
	case now.After(leaf.NotAfter):
		return wrong("its certificate ended at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return wrong("its certificate is not valid before %s: are the clocks right?", leaf.NotBefore.UTC().Format(time.RFC3339))
	case bytes.Equal(leaf.RawIssuer, leaf.RawSubject):
		return wrong("its certificate is signed by itself: a stand-in, which no browser takes")
	}
	options := x509.VerifyOptions{DNSName: name, CurrentTime: now, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	local, err := p.localRoot()
	if err != nil {
		return "", err
	}
	options.Roots = local
	_, ownErr := leaf.Verify(options)
	switch ours := local != nil && ownErr == nil; {
	case h.Certificate == Internal && !ours:
		return wrong("its certificate is not of the proxy's own authority")
	case h.Certificate == Internal:
		return "of the proxy's own authority: browsers must be told of it", nil
	case ours:
		return wrong("its certificate is of the proxy's own authority, which no browser knows")
	}
	if options.Roots, err = p.cfg.Roots(); err != nil {
		return "", errs.Wrap("read this host's authorities", err)
	}
	_, err = leaf.Verify(options)
	switch private := d.spec.GetAcmeDirectory() != "" && d.spec.GetAcmeDirectory() != publicDirectory; {
	case err == nil:
		return "", nil
	case private && errors.As(err, new(x509.UnknownAuthorityError)):
		return "of a private authority, which this host does not know", nil
	}
	return wrong("its certificate is not trusted: %s", err)
}

// localRoot is the root of caddy's own authority; nil while there is none.
func (p *Provider) localRoot() (*x509.CertPool, error) {
	data, err := p.host.ReadFile(path.Join(p.cfg.Storage, "pki", "authorities", "local", "root.crt"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errs.Wrap("read the root of the proxy's own authority", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, nil
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil // caddy makes another one
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return pool, nil
}
