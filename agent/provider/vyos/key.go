package vyos

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/vyos"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Places of the tunnel's key. /config survives an upgrade of the image. 1.3 names a pair, and this is where it looks for it.
const (
	keyFile   = "/config/auth/infractl/wireguard.key"
	keyFile13 = "/config/auth/wireguard/default/private.key"
	pubFile13 = "/config/auth/wireguard/default/public.key"
)

// tunnelKey is the private key of the tunnel. It is printed nowhere.
type tunnelKey struct {
	path    string
	private string
	// missing says that the spec has a tunnel and there is no key yet.
	missing bool
}

// String hides the key.
func (tunnelKey) String() string { return "(key)" }

// GoString hides the key.
func (tunnelKey) GoString() string { return "(key)" }

// tunnelKey finds the key: in its file, else in the running configuration.
func (p *Provider) tunnelKey(spec *v1.HostSpec, version vyos.Version, have []vyos.Line) (tunnelKey, error) {
	k := tunnelKey{path: keyFile}
	if version == vyos.V13 {
		k.path = keyFile13
	}
	w := spec.GetRouter().GetWireguard()
	if w == nil {
		return k, nil
	}
	data, err := p.host.ReadFile(k.path)
	switch {
	case err == nil:
		k.private = strings.TrimSpace(string(data))
		if _, err := public(k.private); err != nil {
			return tunnelKey{path: k.path}, errs.New(errs.Precondition, "%s holds no key of WireGuard", k.path).WithHint("remove the file: a new key is made then, and every peer needs the new public half")
		}
		return k, nil
	case !errors.Is(err, fs.ErrNotExist):
		return k, errs.Wrap("read the tunnel's key", err)
	}
	if version != vyos.V13 {
		path := []string{"interfaces", "wireguard", w.GetInterface(), "private-key"}
		for _, l := range have {
			if len(l) == 5 && slices.Equal(l[:4], path) {
				k.private = l[4]
				return k, nil
			}
		}
	}
	k.missing = true
	return k, nil
}

// makeKey makes a key, which never leaves the router.
func (p *Provider) makeKey(k tunnelKey) error {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return errs.Wrap("make the tunnel's key", err)
	}
	private := base64.StdEncoding.EncodeToString(key.Bytes())
	if k.path == keyFile13 {
		pub := base64.StdEncoding.EncodeToString(key.PublicKey().Bytes())
		if _, err := p.host.WriteFile(pubFile13, []byte(pub+"\n"), 0o644); err != nil {
			return err
		}
	}
	_, err = p.host.WriteFile(k.path, []byte(private+"\n"), 0o600)
	return err
}

// public returns the public half of a key in base64.
func public(private string) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(private)
	if err != nil {
		return "", errs.New(errs.Invalid, "no key")
	}
	key, err := ecdh.X25519().NewPrivateKey(raw)
	if err != nil {
		return "", errs.New(errs.Invalid, "no key")
	}
	return base64.StdEncoding.EncodeToString(key.PublicKey().Bytes()), nil
}
