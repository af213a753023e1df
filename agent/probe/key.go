package probe

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// KeyFile returns the file of the witness key below the agent's state folder.
func KeyFile(dir string) string { return path.Join(dir, "witness", "key") }

// Key returns the key with which this agent proves logins, and makes it at the first call. It opens nothing but logins
// that run "true".
func Key(h *host.Host, dir string) (ssh.Signer, error) {
	file := KeyFile(dir)
	data, err := h.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = makeKey(h, file)
	}
	if err != nil {
		return nil, errs.Wrap("read witness key", err)
	}
	key, err := ssh.ParsePrivateKey(data)
	if err != nil {
		// The cause may quote the key.
		return nil, errs.New(errs.Invalid, "the witness key cannot be read").At(file).
			WithHint("remove the file; the agent makes a new key when it starts")
	}
	return key, nil
}

func makeKey(h *host.Host, file string) ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, "infractl witness")
	if err != nil {
		return nil, err
	}
	data := pem.EncodeToMemory(block)
	if err := h.Mkdir(path.Dir(file), 0o700); err != nil {
		return nil, err
	}
	_, err = h.WriteFile(file, data, 0o600)
	return data, err
}

// PublicKey returns the public half of key in authorized_keys form, without a comment or line end.
func PublicKey(key ssh.Signer) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))
}
