package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
)

// The files of an authority's folder. The issuing certificate and its key share one file, so that replacing both is one
// rename.
const (
	rootCertFile = "root.pem"    // public
	rootKeyFile  = "root.key"    // needed only to renew the issuing certificate; may be kept elsewhere
	issuingFile  = "issuing.pem" // certificate and key
)

// Authority issues certificates. Its methods may be called from many goroutines.
type Authority struct {
	dir   string
	site  string
	clock clock.Clock
	root  *x509.Certificate

	mu      sync.RWMutex
	issuing *x509.Certificate
	key     crypto.Signer
}

// Create makes a new authority for site in the folder dir and opens it. The folder appears complete or not at all, and an
// authority that exists already is never overwritten: dir must be absent or empty, anything else is Exists.
func Create(dir, site string, clk clock.Clock) (*Authority, error) {
	const op = "create certificate authority"
	if err := ValidateName("site", site); err != nil {
		return nil, errs.Wrap(op, err)
	}
	files, err := newAuthorityFiles(site, clk.Now())
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	parent := filepath.Dir(filepath.Clean(dir))
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, errs.Wrap(op, pathError(parent, err))
	}
	tmp, err := os.MkdirTemp(parent, ".ca.*") // mode 0700
	if err != nil {
		return nil, errs.Wrap(op, pathError(parent, err))
	}
	defer os.RemoveAll(tmp)
	for name, data := range files {
		if err := WriteFile(filepath.Join(tmp, name), data, fileMode(name)); err != nil {
			return nil, errs.Wrap(op, err)
		}
	}
	// rename(2) replaces an empty folder and fails on one that holds anything; os.Rename refuses the empty one too.
	if err := unix.Rename(tmp, dir); err != nil {
		if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTDIR) {
			return nil, &errs.Error{Op: op, Code: errs.Exists, Where: dir, Message: "the folder is not empty",
				Hint: "an authority is never overwritten; choose another folder, or move this one away"}
		}
		return nil, errs.Wrap(op, pathError(dir, err))
	}
	if err := syncDir(parent); err != nil {
		return nil, errs.Wrap(op, err)
	}
	return Open(dir, clk)
}

func fileMode(name string) os.FileMode {
	if name == rootCertFile {
		return 0o644
	}
	return 0o600
}

func newAuthorityFiles(site string, now time.Time) (map[string][]byte, error) {
	rootKey, err := NewKey()
	if err != nil {
		return nil, err
	}
	root, err := newRoot(site, rootKey, now)
	if err != nil {
		return nil, err
	}
	issuing, err := newIssuing(site, root, rootKey, now)
	if err != nil {
		return nil, err
	}
	rootKeyPEM, err := EncodeKey(rootKey)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{rootCertFile: EncodeCerts(root), rootKeyFile: rootKeyPEM, issuingFile: issuing}, nil
}

func caSubject(site, unit string) pkix.Name {
	return pkix.Name{Organization: []string{Scheme}, OrganizationalUnit: []string{unit}, CommonName: site}
}

func newRoot(site string, key *ecdsa.PrivateKey, now time.Time) (*x509.Certificate, error) {
	tmpl := &x509.Certificate{
		Subject:               caSubject(site, "root"),
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(RootLife),
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return sign(tmpl, tmpl, key.Public(), key)
}

// newIssuing makes an issuing certificate and its key, as one PEM file.
func newIssuing(site string, root *x509.Certificate, rootKey crypto.Signer, now time.Time) ([]byte, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		Subject:               caSubject(site, "issuing"),
		NotBefore:             later(now.Add(-Backdate), root.NotBefore),
		NotAfter:              earlier(now.Add(IssuingLife), root.NotAfter),
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            0,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	cert, err := sign(tmpl, root, key.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	keyPEM, err := EncodeKey(key)
	if err != nil {
		return nil, err
	}
	return append(EncodeCerts(cert), keyPEM...), nil
}

// sign gives tmpl a random serial number of 128 bits and signs it.
func sign(tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return nil, errs.Wrap("make serial number", err)
	}
	tmpl.SerialNumber = new(big.Int).SetBytes(raw)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		return nil, errs.Wrap("sign certificate", err)
	}
	cert, err := x509.ParseCertificate(der)
	return cert, errs.Wrap("sign certificate", err)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Open opens the authority in dir. It checks that certificates and key belong together, but not that they are valid now:
// a server must start, and say what is wrong, with an expired authority too.
func Open(dir string, clk clock.Clock) (*Authority, error) {
	const op = "open certificate authority"
	data, err := readBounded(filepath.Join(dir, rootCertFile))
	if err != nil {
		if errs.Is(err, errs.NotFound) {
			err = &errs.Error{Code: errs.NotFound, Where: dir, Message: "there is no certificate authority", Err: err,
				Hint: "make one with: infractl-server init"}
		}
		return nil, errs.Wrap(op, err)
	}
	roots, err := DecodeCerts(data)
	if err != nil || len(roots) != 1 {
		return nil, errs.Wrap(op, damaged(dir, rootCertFile))
	}
	a := &Authority{dir: dir, site: roots[0].Subject.CommonName, clock: clk, root: roots[0]}
	if !a.root.IsCA || a.root.CheckSignatureFrom(a.root) != nil || ValidateName("site", a.site) != nil {
		return nil, errs.Wrap(op, damaged(dir, rootCertFile))
	}
	if data, err = ReadPrivate(filepath.Join(dir, issuingFile)); err != nil {
		return nil, errs.Wrap(op, err)
	}
	if err := a.setIssuing(data); err != nil {
		return nil, errs.Wrap(op, err)
	}
	return a, nil
}

func (a *Authority) setIssuing(data []byte) error {
	list, err := DecodeCerts(data)
	if err != nil || len(list) != 1 {
		return damaged(a.dir, issuingFile)
	}
	key, err := DecodeKey(data)
	if err != nil {
		return damaged(a.dir, issuingFile)
	}
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || !pub.Equal(list[0].PublicKey) || !list[0].IsCA || list[0].CheckSignatureFrom(a.root) != nil {
		return damaged(a.dir, issuingFile)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.issuing, a.key = list[0], key
	return nil
}

func damaged(dir, file string) error {
	return errs.New(errs.Precondition, "the file is damaged or does not belong to this authority").
		At(filepath.Join(dir, file)).WithHint("put the folder back from a backup of the server")
}

// Site returns the site whose authority this is.
func (a *Authority) Site() string { return a.site }

// Root returns the root certificate.
func (a *Authority) Root() *x509.Certificate { return a.root }

// RootPEM returns the root certificate as PEM. It is public.
func (a *Authority) RootPEM() []byte { return EncodeCerts(a.root) }

// RootPool returns a pool that trusts the root alone.
func (a *Authority) RootPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	return pool
}

// Issuing returns the present issuing certificate.
func (a *Authority) Issuing() *x509.Certificate {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.issuing
}

// Fingerprint returns the root's fingerprint, as join tokens carry it.
func (a *Authority) Fingerprint() string { return FingerprintOf(a.root) }

// FingerprintOf returns "sha256:" and the lower-case hex SHA-256 of the certificate's DER.
func FingerprintOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// RenewIssuing replaces issuing certificate and key once two thirds of its life are over, and reports whether it did.
// Certificates of the former one stay valid, since each is sent with its own chain. It needs the root's key: without it
// the error is Precondition.
func (a *Authority) RenewIssuing() (bool, error) {
	const op = "renew issuing certificate"
	now := a.clock.Now()
	if now.Before(RenewAt(a.Issuing())) {
		return false, nil
	}
	path := filepath.Join(a.dir, rootKeyFile)
	rootKey, err := ReadKey(path)
	if errs.Is(err, errs.NotFound) {
		err = errs.New(errs.Precondition, "the root's key is not here").At(path).
			WithHint("put root.key back for the renewal; the issuing certificate ends on %s",
				a.Issuing().NotAfter.UTC().Format(time.DateOnly))
	}
	if err != nil {
		return false, errs.Wrap(op, err)
	}
	if now.Before(a.root.NotBefore) || now.After(a.root.NotAfter) {
		return false, errs.Wrap(op, errs.New(errs.Precondition, "the root is not valid now").
			WithHint("check this machine's clock: it says %s", now.UTC().Format(time.RFC3339)))
	}
	data, err := newIssuing(a.site, a.root, rootKey, now)
	if err != nil {
		return false, errs.Wrap(op, err)
	}
	if err := WriteFile(filepath.Join(a.dir, issuingFile), data, 0o600); err != nil {
		return false, errs.Wrap(op, err)
	}
	return true, errs.Wrap(op, a.setIssuing(data))
}
