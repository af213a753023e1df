package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"

	"github.com/infractl/infractl/internal/errs"
)

const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
)

// maxPEM bounds what is read from a key or certificate file.
const maxPEM = 64 << 10

// NewKey makes an ECDSA P-256 key, the kind that the authority signs for agents, servers and operators.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return key, errs.Wrap("make key", err)
}

// MakeCSR returns the DER of a certificate request for key. Its subject is empty: the authority would drop it anyway.
func MakeCSR(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return der, errs.Wrap("make certificate request", err)
}

// EncodeKey returns key as PKCS #8 PEM.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errs.Wrap("encode key", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// DecodeKey reads the first key in data. Certificates before and after it are passed over.
func DecodeKey(data []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemKey {
			continue
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, errs.New(errs.Invalid, "the key cannot be read") // the cause may quote the key
		}
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
		return nil, errs.New(errs.Invalid, "the key cannot sign")
	}
	return nil, errs.New(errs.Invalid, "there is no private key")
}

// EncodeCerts returns certificates as PEM, in order.
func EncodeCerts(list ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range list {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.Raw}))
	}
	return out.Bytes()
}

// DecodeCerts reads all certificates in data, in order; other blocks are passed over. None is Invalid.
func DecodeCerts(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxPEM {
		return nil, errs.New(errs.Invalid, "certificates are larger than %d bytes", maxPEM)
	}
	var list []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemCertificate {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errs.New(errs.Invalid, "a certificate cannot be read: %w", err)
		}
		list = append(list, cert)
	}
	if len(list) == 0 {
		return nil, errs.New(errs.Invalid, "there is no certificate")
	}
	return list, nil
}

// WriteKey writes key to path, mode 0600, in one atomic step that is on disk when it returns. It replaces a former key.
func WriteKey(path string, key crypto.Signer) error {
	data, err := EncodeKey(key)
	if err != nil {
		return err
	}
	return WriteFile(path, data, 0o600)
}

// ReadKey reads a key that WriteKey wrote. A key that others may read is refused with Precondition.
func ReadKey(path string) (crypto.Signer, error) {
	data, err := ReadPrivate(path)
	if err != nil {
		return nil, errs.Wrap("read key", err)
	}
	key, err := DecodeKey(data)
	if err != nil {
		return nil, &errs.Error{Op: "read key", Code: errs.CodeOf(err), Where: path, Err: err}
	}
	return key, nil
}

// ReadPrivate reads a file that holds a key; where group or others have any right to it, it is refused with Precondition, and
// an absent one is NotFound.
func ReadPrivate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, pathError(path, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, errs.New(errs.Precondition, "the file holds a key and its mode is %04o", info.Mode().Perm()).
			At(path).WithHint("make a new key if others may have read it; then: chmod 600 %s", path)
	}
	return readBounded(path)
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxPEM {
		return nil, errs.New(errs.Invalid, "the file is larger than %d bytes", maxPEM).At(path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, pathError(path, err)
	}
	return data, nil
}

func pathError(path string, err error) error {
	code := errs.Internal
	if os.IsNotExist(err) {
		code = errs.NotFound
	}
	return errs.New(code, "%w", err).At(path)
}

// WriteFile writes data to path by way of a temporary file beside it: after a crash the file is the old or the new one,
// and when WriteFile returns the new one is on disk.
func WriteFile(path string, data []byte, mode os.FileMode) (err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return pathError(path, err)
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return pathError(path, err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return pathError(dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return pathError(dir, err)
	}
	return nil
}
