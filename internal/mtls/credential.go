package mtls

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
)

// Credential is all that a client needs to prove who it is and to know its server.
type Credential struct {
	// Identity is what the certificate says.
	Identity certs.Identity
	// Leaf is the client's certificate.
	Leaf *x509.Certificate
	// TLS is the certificate with its chain and key, ready for a handshake.
	TLS *tls.Certificate
	// RootPEM is the site's root.
	RootPEM []byte
}

// Key returns the credential's key.
func (c *Credential) Key() crypto.Signer { return c.TLS.PrivateKey.(crypto.Signer) }

// NewCredential puts key, the chain that the authority returned, and the root together, and checks that they belong
// together. Times are not checked.
func NewCredential(key crypto.Signer, chainPEM, rootPEM []byte) (*Credential, error) {
	chain, err := certs.DecodeCerts(chainPEM)
	if err != nil {
		return nil, errs.Wrap("read certificate", err)
	}
	roots, err := certs.DecodeCerts(rootPEM)
	if err != nil {
		return nil, errs.Wrap("read root certificate", err)
	}
	if len(roots) != 1 {
		return nil, errs.New(errs.Invalid, "there is more than one root certificate")
	}
	return newCredential(key, chain, roots[0])
}

func newCredential(key crypto.Signer, chain []*x509.Certificate, root *x509.Certificate) (*Credential, error) {
	leaf := chain[0]
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(leaf.PublicKey) {
		return nil, errs.New(errs.Invalid, "the certificate is not for this key")
	}
	id, err := certs.ParseIdentity(leaf)
	if err != nil {
		return nil, err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return nil, errs.New(errs.Invalid, "the certificate is not under the root: %w", err)
	}
	pair := &tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return &Credential{Identity: id, Leaf: leaf, TLS: pair, RootPEM: certs.EncodeCerts(root)}, nil
}

// encode writes key, chain and root as one PEM text, the root last.
func (c *Credential) encode() ([]byte, error) {
	data, err := certs.EncodeKey(c.Key())
	if err != nil {
		return nil, err
	}
	for _, der := range c.TLS.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		data = append(data, certs.EncodeCerts(cert)...)
	}
	return append(data, c.RootPEM...), nil
}

func decodeCredential(data []byte) (*Credential, error) {
	key, err := certs.DecodeKey(data)
	if err != nil {
		return nil, err
	}
	list, err := certs.DecodeCerts(data)
	if err != nil {
		return nil, err
	}
	if len(list) < 2 {
		return nil, errs.New(errs.Invalid, "certificate or root is missing")
	}
	return newCredential(key, list[:len(list)-1], list[len(list)-1])
}

// The files of a credential folder.
const (
	currentFile   = "identity.pem"
	candidateFile = "identity.candidate.pem"
)

// Credentials is the folder in which a client keeps its credential. A new one is first written beside the current one, as
// the candidate; the first connection that succeeds with it promotes it, and until then both are there. Whatever stops in
// between, there is a credential that worked or one that is about to be tried.
type Credentials struct{ dir string }

// NewCredentials returns the folder dir, which need not exist yet.
func NewCredentials(dir string) *Credentials { return &Credentials{dir: dir} }

// Current returns the credential that has worked, or NotFound.
func (c *Credentials) Current() (*Credential, error) { return c.load(currentFile) }

// Candidate returns the credential that is still to be proven, or NotFound. A client that starts tries it first, and the
// current one when the server refuses it.
func (c *Credentials) Candidate() (*Credential, error) { return c.load(candidateFile) }

// WriteCandidate stores cred beside the current one; it is on disk when this returns. A former candidate is replaced.
func (c *Credentials) WriteCandidate(cred *Credential) error {
	const op = "write candidate credential"
	data, err := cred.encode()
	if err != nil {
		return errs.Wrap(op, err)
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return errs.Wrap(op, errs.New(errs.Internal, "%w", err).At(c.dir))
	}
	return errs.Wrap(op, certs.WriteFile(c.path(candidateFile), data, 0o600))
}

// Promote makes the candidate the current credential, after a first success with it. Without a candidate it is NotFound.
func (c *Credentials) Promote() error {
	const op = "promote credential"
	if _, err := c.Candidate(); err != nil { // never let a damaged file replace one that works
		return errs.Wrap(op, err)
	}
	if err := os.Rename(c.path(candidateFile), c.path(currentFile)); err != nil {
		return errs.Wrap(op, errs.New(errs.Internal, "%w", err).At(c.dir))
	}
	return errs.Wrap(op, c.sync())
}

// DropCandidate removes the candidate, if there is one: the server has refused it.
func (c *Credentials) DropCandidate() error {
	return errs.Wrap("drop candidate credential", c.remove(candidateFile))
}

// Remove forgets current and candidate: the identity was revoked, or the operator logs out.
func (c *Credentials) Remove() error {
	err := c.remove(candidateFile)
	if err == nil {
		err = c.remove(currentFile)
	}
	return errs.Wrap("remove credential", err)
}

func (c *Credentials) path(file string) string { return filepath.Join(c.dir, file) }

func (c *Credentials) remove(file string) error {
	if err := os.Remove(c.path(file)); err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return errs.New(errs.Internal, "%w", err).At(c.path(file))
	}
	return c.sync()
}

func (c *Credentials) sync() error {
	d, err := os.Open(c.dir)
	if err != nil {
		return errs.New(errs.Internal, "%w", err).At(c.dir)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return errs.New(errs.Internal, "%w", err).At(c.dir)
	}
	return nil
}

func (c *Credentials) load(file string) (*Credential, error) {
	const op = "read credential"
	path := c.path(file)
	data, err := certs.ReadPrivate(path)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	cred, err := decodeCredential(data)
	if err != nil {
		return nil, &errs.Error{Op: op, Code: errs.Invalid, Where: path, Err: err,
			Hint: "the file is damaged; remove it, then enrol or log in again"}
	}
	return cred, nil
}
