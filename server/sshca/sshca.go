// Package sshca is the authority for logins by SSH: it holds one key, which every host trusts, and makes certificates of some
// minutes with it, each for one account.
package sshca

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/server/store"
)

// Life is how long a certificate is good for. A session that is open by then stays open.
const Life = 10 * time.Minute

// Backdate is how long before its making a certificate is already valid: a host's clock may be behind.
const Backdate = 5 * time.Minute

// maxKey bounds the text of a public key, in bytes: an RSA key of 16384 bits fits.
const maxKey = 8 << 10

const minRSABits = 3072

// keyFile is the private key's file in the authority's folder.
const keyFile = "user.key"

// kindSerial is the kind of the one record that counts certificates.
const kindSerial store.Kind = "ssh-serial"

// Config is what an Authority needs.
type Config struct {
	// Dir is the folder of the key; it is made with the key where there is none.
	Dir string
	// Records holds the counter of serial numbers.
	Records store.Records
	Clock   clock.Clock
}

// Authority makes certificates. Its methods may be called from many goroutines.
type Authority struct {
	signer  ssh.Signer
	public  string
	clock   clock.Clock
	serials *store.Table[serial]
}

type serial struct {
	Last uint64 `json:"last"`
}

// Open returns the authority in a folder. A server of an older version has none: it is made then.
func Open(cfg Config) (*Authority, error) {
	const op = "open SSH authority"
	key, err := Ensure(cfg.Dir)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		return nil, errs.Wrap(op, errs.New(errs.Invalid, "the key cannot sign").At(cfg.Dir))
	}
	return &Authority{signer: signer, public: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), clock: cfg.Clock,
		serials: store.NewTable(cfg.Records, kindSerial, store.JSON[serial]())}, nil
}

// Ensure returns the key in a folder and makes it, an Ed25519 one, where there is none. A file that others may read is refused.
func Ensure(dir string) (crypto.Signer, error) {
	path := filepath.Join(dir, keyFile)
	key, err := certs.ReadKey(path)
	if !errs.Is(err, errs.NotFound) {
		return key, err
	}
	_, fresh, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errs.New(errs.Internal, "%w", err).At(dir)
	}
	return fresh, certs.WriteKey(path, fresh)
}

// PublicKey returns the key that hosts trust, in authorized_keys form.
func (a *Authority) PublicKey() string { return a.public }

// Resources implements revision.Source.
func (a *Authority) Resources(_ context.Context, into *site.Resources) error {
	into.UserCAKeys = []string{a.public}
	return nil
}

// Serial returns the next serial number; none is given twice.
func (a *Authority) Serial(ctx context.Context) (uint64, error) {
	const name = "last"
	for {
		it, err := a.serials.Get(ctx, name)
		if err != nil && !errs.Is(err, errs.NotFound) {
			return 0, errs.Wrap("count SSH certificates", err)
		}
		next := serial{Last: it.Value.Last + 1}
		_, err = a.serials.Put(ctx, name, next, it.Revision)
		if err == nil {
			return next.Last, nil
		}
		if !errs.Is(err, errs.Conflict) && !errs.Is(err, errs.Exists) || ctx.Err() != nil {
			return 0, errs.Wrap("count SSH certificates", err)
		}
	}
}

// Request says what a certificate is to be.
type Request struct {
	// Key is the caller's public key, as ParseKey returned it.
	Key ssh.PublicKey
	// KeyID is what sshd writes into its log at each login.
	KeyID string
	// Serial is from Authority.Serial.
	Serial uint64
	// Principal is the one account.
	Principal string
	// Forward lets the session open connections onwards, which the relay does for the hosts behind it.
	Forward bool
	// From are the addresses that logins may come from; empty means any.
	From []string
}

// Sign makes a certificate and returns it in authorized_keys form, with its end.
func (a *Authority) Sign(r Request) (text string, notAfter time.Time, err error) {
	now := a.clock.Now()
	notAfter = now.Add(Life).Truncate(time.Second)
	cert := &ssh.Certificate{
		Key: r.Key, Serial: r.Serial, CertType: ssh.UserCert, KeyId: r.KeyID, ValidPrincipals: []string{r.Principal},
		ValidAfter: uint64(now.Add(-Backdate).Unix()), ValidBefore: uint64(notAfter.Unix()),
		// Nothing else: no agent or X11 forwarding, no user rc.
		Permissions: ssh.Permissions{Extensions: map[string]string{"permit-pty": ""}, CriticalOptions: map[string]string{}},
	}
	if r.Forward {
		cert.Extensions["permit-port-forwarding"] = ""
	}
	if len(r.From) > 0 {
		cert.CriticalOptions["source-address"] = strings.Join(r.From, ",")
	}
	if err := cert.SignCert(rand.Reader, a.signer); err != nil {
		return "", time.Time{}, errs.Wrap("sign SSH key", err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert))), notAfter, nil
}

// ParseKey reads one public key in authorized_keys form: a key alone, no options, no certificate, RSA from 3072 bits.
func ParseKey(text string) (ssh.PublicKey, error) {
	refuse := func(why string) (ssh.PublicKey, error) {
		return nil, errs.New(errs.Invalid, "the SSH key %s", why).WithHint("ssh-keygen -t ed25519 makes one that is taken")
	}
	if len(text) > maxKey {
		return refuse("is too long")
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil || len(options) > 0 || len(rest) > 0 {
		return refuse("is not one public key in authorized_keys form")
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256:
	case ssh.KeyAlgoRSA:
		holder, ok := key.(ssh.CryptoPublicKey)
		if !ok {
			return refuse("cannot be read")
		}
		if k, ok := holder.CryptoPublicKey().(*rsa.PublicKey); !ok || k.N.BitLen() < minRSABits {
			return refuse("is an RSA key of less than 3072 bits")
		}
	default:
		return refuse("is of a kind that is not taken")
	}
	return key, nil
}
