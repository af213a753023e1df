// Package certs is the certificate authority of an infractl site.
//
// The authority has a root (ten years) and one issuing certificate under it (five years). All certificates are made from
// templates of this package: of a certificate request only the public key is honoured, never a name, a usage or a life.
// Keys live in the authority's folder, mode 0600, and nowhere else; none is in this repository.
//
// Every certificate is valid from 24 hours before it was made (see Backdate), and its life counts from when it was made.
package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"math/big"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// Lives of the certificates, counted from the moment they are made.
const (
	RootLife     = 10 * 365 * 24 * time.Hour
	IssuingLife  = 5 * 365 * 24 * time.Hour
	ServerLife   = 365 * 24 * time.Hour
	NodeLife     = 7 * 24 * time.Hour
	OperatorLife = 24 * time.Hour
	// MaxOperatorLife is the longest life that IssueOperator grants.
	MaxOperatorLife = 30 * 24 * time.Hour
)

// Backdate is how long before its making a certificate is already valid. A virtual machine that was just started or
// resumed may be hours behind (a clock kept in local time is off by up to 14); it must not call a fresh certificate "not
// yet valid", neither its own nor its server's. A certificate that starts early gives no right that its key did not have.
const Backdate = 24 * time.Hour

// MaxCSR is the largest certificate request that is looked at, in bytes of DER.
const MaxCSR = 4096

// Scheme is the scheme of the URI that names an identity: infractl://<site>/<kind>/<name>.
const Scheme = "infractl"

// ValidateName returns an Invalid error unless name is a DNS label: 1 to 63 lower-case letters, digits and inner hyphens.
// what says in the error what the name is for.
func ValidateName(what, name string) error {
	if isLabel(name) {
		return nil
	}
	if len(name) > 70 {
		name = name[:70] + "..."
	}
	return errs.New(errs.Invalid, "%s name %q is not a DNS label", what, name).
		WithHint("use 1 to 63 lower-case letters, digits and inner hyphens")
}

func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// SerialHex writes a serial number the one way that lists, notices and audit use: 32 lower-case hex digits.
func SerialHex(serial *big.Int) string {
	if serial == nil || serial.Sign() < 0 || serial.BitLen() > 128 {
		return ""
	}
	return hex.EncodeToString(serial.FillBytes(make([]byte, 16)))
}

// KeyHash returns the hash by which a certificate's key is bound to its identity: the lower-case hex SHA-256 of its
// SubjectPublicKeyInfo.
func KeyHash(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// RenewAt returns when cert should be replaced: after two thirds of its life, counted from when it was made.
func RenewAt(cert *x509.Certificate) time.Time {
	made := cert.NotBefore.Add(Backdate)
	if made.After(cert.NotAfter) {
		return cert.NotBefore
	}
	return made.Add(cert.NotAfter.Sub(made) / 3 * 2)
}
