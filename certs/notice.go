package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
)

// noticeContext goes in front of what is signed, so that the signature can never pass for one over something else.
const noticeContext = "infractl revocation notice v1\n"

// maxNotice is the largest notice that is looked at, in bytes.
const maxNotice = 8192

// Notice is what a revoked identity is told, and the one thing that makes it give itself up.
type Notice struct {
	Site string `json:"site"`
	// Serial is the serial number of the revoked certificate, as SerialHex writes it; empty where only its key is known.
	Serial string `json:"serial"`
	// Key is the hash of the revoked key, as KeyHash writes it: what was revoked is the key, and with it each certificate
	// that was made for it. An agent that lost the answer to a renewal holds an older one than its server thinks.
	Key string `json:"key"`
	// Time is when the notice was signed, by the server's clock.
	Time time.Time `json:"time"`
}

type signedNotice struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
	Issuing   []byte `json:"issuing"`
}

// SignNotice returns the signed notice "you are revoked" for the certificate with this serial number and the key with this
// hash.
func (a *Authority) SignNotice(serial, keyHash string) ([]byte, error) {
	const op = "sign revocation notice"
	payload, err := json.Marshal(Notice{Site: a.site, Serial: serial, Key: keyHash, Time: a.clock.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	a.mu.RLock()
	issuing, key := a.issuing, a.key
	a.mu.RUnlock()
	sig, err := key.Sign(rand.Reader, noticeDigest(payload), crypto.SHA256)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	out, err := json.Marshal(signedNotice{Payload: payload, Signature: sig, Issuing: issuing.Raw})
	return out, errs.Wrap(op, err)
}

// VerifyNotice reads a notice and returns nil error only if it was signed by an issuing certificate under the root of
// rootPEM and is about exactly this site, and this serial number or key. Times are not checked: the receiver's clock may be
// wrong, and what was revoked once stays so. Anything else is Unauthenticated: it must not be acted on.
func VerifyNotice(rootPEM []byte, site, serial, keyHash string, data []byte) (Notice, error) {
	refuse := func(why string) (Notice, error) {
		return Notice{}, errs.New(errs.Unauthenticated, "revocation notice is not genuine: %s", why)
	}
	roots, err := DecodeCerts(rootPEM)
	if err != nil {
		return Notice{}, errs.Wrap("verify revocation notice", err)
	}
	if len(data) > maxNotice {
		return refuse("too large")
	}
	var env signedNotice
	if strictjson.Unmarshal(data, &env) != nil {
		return refuse("it cannot be read")
	}
	issuing, err := x509.ParseCertificate(env.Issuing)
	if err != nil || !issuing.IsCA || issuing.CheckSignatureFrom(roots[0]) != nil {
		return refuse("its signer is not an issuing certificate under the root")
	}
	pub, ok := issuing.PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(pub, noticeDigest(env.Payload), env.Signature) {
		return refuse("wrong signature")
	}
	var n Notice
	if strictjson.Unmarshal(env.Payload, &n) != nil {
		return refuse("its content cannot be read")
	}
	if n.Site != site || (serial == "" || n.Serial != serial) && (keyHash == "" || n.Key != keyHash) {
		return refuse("it is about another certificate")
	}
	return n, nil
}

func noticeDigest(payload []byte) []byte {
	sum := sha256.Sum256(append([]byte(noticeContext), payload...))
	return sum[:]
}
