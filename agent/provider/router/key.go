package router

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io/fs"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// KeyDir holds the tunnel's private key, readable by root alone. It is made on the router, once, and is in no snapshot, report or
// backup of the server.
const KeyDir = "/var/lib/infractl/wireguard"

func keyFile(device string) string { return KeyDir + "/" + device + ".key" }

// privateKey reads the key of an interface; errors.Is(err, fs.ErrNotExist) where none was made.
func privateKey(h *host.Host, device string) (text, public string, err error) {
	data, err := h.ReadFile(keyFile(device))
	if err != nil {
		return "", "", err
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(data)))
	if err == nil {
		var key *ecdh.PrivateKey
		if key, err = ecdh.X25519().NewPrivateKey(raw); err == nil {
			return base64.StdEncoding.EncodeToString(raw), base64.StdEncoding.EncodeToString(key.PublicKey().Bytes()), nil
		}
	}
	// The cause would quote the key.
	return "", "", errs.New(errs.Precondition, "the tunnel's key can't be read").At(keyFile(device)).
		WithHint("move it away, and the next apply makes another; every peer then needs a new configuration")
}

// ensureKey makes the key where there is none.
func ensureKey(h *host.Host, device string) error {
	_, _, err := privateKey(h, device)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := h.Mkdir(KeyDir, 0o700); err != nil {
		return err
	}
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return errs.Wrap("make the tunnel's key", err)
	}
	_, err = h.WriteFile(keyFile(device), []byte(base64.StdEncoding.EncodeToString(key.Bytes())+"\n"), 0o600)
	return errs.Wrap("write the tunnel's key", err)
}
