package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// documentContext goes in front of what is signed, so that the signature can never pass for one over something else.
const documentContext = "infractl document v1\n"

// The lines around the signature of a document.
const (
	beginSignature = "-----BEGIN INFRACTL SIGNATURE-----"
	endSignature   = "-----END INFRACTL SIGNATURE-----"
)

// SignDocument returns a text with the authority's signature below it. The signer's certificate stands with it, so that whoever has the
// root certificate can check it without this server.
func (a *Authority) SignDocument(text []byte) (string, error) {
	a.mu.RLock()
	issuing, key := a.issuing, a.key
	a.mu.RUnlock()
	body := strings.TrimRight(string(text), "\n") + "\n"
	sig, err := key.Sign(rand.Reader, documentDigest(body), crypto.SHA256)
	if err != nil {
		return "", errs.Wrap("sign document", err)
	}
	enc := base64.StdEncoding
	return body + beginSignature + "\n" + enc.EncodeToString(sig) + "\n" + enc.EncodeToString(issuing.Raw) + "\n" + endSignature + "\n", nil
}

// VerifyDocument returns the text of a document that SignDocument made under the root of rootPEM; Unauthenticated for anything else.
// Times are not checked: a document is kept for years, and its signer's certificate ends before.
func VerifyDocument(rootPEM []byte, document string) (text string, err error) {
	refuse := func(why string) (string, error) {
		return "", errs.New(errs.Unauthenticated, "the document is not genuine: %s", why)
	}
	roots, err := DecodeCerts(rootPEM)
	if err != nil {
		return "", errs.Wrap("verify document", err)
	}
	body, rest, ok := strings.Cut(document, beginSignature+"\n")
	lines := strings.Split(rest, "\n")
	if !ok || len(lines) != 4 || lines[2] != endSignature || lines[3] != "" {
		return refuse("it has no signature")
	}
	sig, serr := base64.StdEncoding.DecodeString(lines[0])
	der, derr := base64.StdEncoding.DecodeString(lines[1])
	if serr != nil || derr != nil {
		return refuse("its signature cannot be read")
	}
	issuing, err := x509.ParseCertificate(der)
	if err != nil || !issuing.IsCA || issuing.CheckSignatureFrom(roots[0]) != nil {
		return refuse("its signer is not an issuing certificate under the root")
	}
	pub, ok := issuing.PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(pub, documentDigest(body), sig) {
		return refuse("it was changed")
	}
	return body, nil
}

func documentDigest(body string) []byte {
	sum := sha256.Sum256([]byte(documentContext + body))
	return sum[:]
}
