package probing

import (
	"context"
	"net"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// keysAtOnce is how many keys one connection tries: servers of the site end a connection after as few as two that they do not
// know.
const keysAtOnce = 2

// login logs in and runs "true". Only a host key that the server named is accepted. Keys are tried in order, further ones on
// further connections.
func (p *Prober) login(ctx context.Context, conn net.Conn, address string, probe *v1.Probe) outcome {
	if p.cfg.Keys == nil {
		return rejected(errs.New(errs.Precondition, "there is no key to log in with"))
	}
	keys, err := p.cfg.Keys(probe)
	if err != nil {
		return rejected(err)
	}
	pinned, err := parseHostKeys(probe.GetHostKeys())
	if err != nil {
		return rejected(err)
	}
	last := rejected(errs.New(errs.Precondition, "there is no key to log in with"))
	for some := range slices.Chunk(keys, keysAtOnce) {
		if conn == nil {
			if conn, err = dial(ctx, address); err != nil {
				return last
			}
		}
		var again bool
		last, again = loginWith(conn, address, probe.GetUser(), some, pinned)
		conn.Close()
		if !again || ctx.Err() != nil {
			break
		}
		conn = nil
	}
	return last
}

// loginWith logs in on one connection; again says that the right host refused these keys, so that others may be tried.
func loginWith(conn net.Conn, address, user string, keys []ssh.Signer, pinned []ssh.PublicKey) (saw outcome, again bool) {
	known := false
	client, channels, requests, err := ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User:              user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(keys...)},
		HostKeyAlgorithms: algorithms(pinned),
		HostKeyCallback: func(_ string, _ net.Addr, got ssh.PublicKey) error {
			known = slices.ContainsFunc(pinned, func(k ssh.PublicKey) bool { return string(k.Marshal()) == string(got.Marshal()) })
			if known {
				return nil
			}
			return errs.New(errs.Unauthenticated, "its host key %s is not one of the known ones", ssh.FingerprintSHA256(got))
		},
		ClientVersion: "SSH-2.0-infractl",
		Timeout:       MaxTimeout,
	})
	if err != nil {
		return rejected(err), known
	}
	c := ssh.NewClient(client, channels, requests)
	defer c.Close()
	session, err := c.NewSession()
	if err != nil {
		return rejected(errs.New(errs.Denied, "logged in, but no session: %w", err)), false
	}
	defer session.Close()
	started := time.Now()
	if err := session.Run("true"); err != nil {
		return rejected(errs.New(errs.Denied, "logged in, but the command failed: %w", err)), false
	}
	return open("logged in as " + user + ", command took " + time.Since(started).Round(time.Millisecond).String()), false
}

func parseHostKeys(lines []string) ([]ssh.PublicKey, error) {
	var keys []ssh.PublicKey
	for _, line := range lines {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, errs.New(errs.Invalid, "a given host key cannot be read")
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errs.New(errs.Precondition, "no host key is known for this host")
	}
	return keys, nil
}

// algorithms lists those of the known keys, so that the other side does not choose a key that is not among them.
func algorithms(keys []ssh.PublicKey) []string {
	var list []string
	for _, key := range keys {
		names := []string{key.Type()}
		if key.Type() == ssh.KeyAlgoRSA {
			names = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
		}
		for _, name := range names {
			if !slices.Contains(list, name) {
				list = append(list, name)
			}
		}
	}
	return list
}
