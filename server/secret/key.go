package secret

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
)

// keyPrefix begins the text of a store key, so that people know what they look at.
const keyPrefix = "INFRACTL-STORE-KEY-1-"

// Key encrypts what the store keeps of secrets: XChaCha20-Poly1305, a random nonce per record.
type Key struct{ aead cipher.AEAD }

// CreateKey writes a new store key to path, mode 0600. Exists when there is one: it would make what it opens unreadable.
func CreateKey(path string) error {
	_, err := certs.ReadPrivate(path)
	if err == nil {
		return errs.New(errs.Exists, "there is a store key already").At(path)
	}
	if !errs.Is(err, errs.NotFound) {
		return err
	}
	raw := make([]byte, chacha20poly1305.KeySize)
	_, _ = rand.Read(raw) // it never fails
	return certs.WriteFile(path, []byte(keyPrefix+base64.RawURLEncoding.EncodeToString(raw)+"\n"), 0o600)
}

// OpenKey reads a store key. NotFound when there is none, Precondition when others may read it, Invalid when it is damaged.
func OpenKey(path string) (*Key, error) {
	const op = "read store key"
	text, err := certs.ReadPrivate(path)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	encoded, ok := strings.CutPrefix(strings.TrimSpace(string(text)), keyPrefix)
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	if !ok || err != nil || len(raw) != chacha20poly1305.KeySize {
		return nil, errs.Wrap(op, errs.New(errs.Invalid, "the file holds no store key").At(path).
			WithHint("put the store key of this server back: it is in each of its backups"))
	}
	aead, err := chacha20poly1305.NewX(raw)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	return &Key{aead: aead}, nil
}

// bound is the additional data of a record: a record that is moved under another name or version does not open.
func bound(name, version string) []byte {
	return []byte("infractl secret 1\x00" + name + "\x00" + version)
}

// seal encrypts a value for one place.
func (k *Key) seal(name, version string, v secret.Value) []byte {
	nonce := make([]byte, k.aead.NonceSize(), k.aead.NonceSize()+v.Len()+k.aead.Overhead())
	_, _ = rand.Read(nonce) // it never fails
	return k.aead.Seal(nonce, nonce, v.Reveal(), bound(name, version))
}

// open decrypts what seal made for the same place.
func (k *Key) open(name, version string, sealed []byte) (secret.Value, error) {
	n := k.aead.NonceSize()
	if len(sealed) < n {
		return secret.Value{}, errs.New(errs.Internal, "the record of secret %s, version %s, is cut short", name, version)
	}
	plain, err := k.aead.Open(nil, sealed[:n], sealed[n:], bound(name, version))
	if err != nil {
		return secret.Value{}, errs.New(errs.Internal, "the record of secret %s, version %s, does not open: it was changed, or the store key is another", name, version)
	}
	return secret.New(plain), nil
}
