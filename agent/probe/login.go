package probe

import (
	"net"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// login logs in with the witness key and runs "true". Only a host key that the server named is accepted.
func (p *Prober) login(conn net.Conn, address string, probe *v1.Probe) outcome {
	if p.cfg.Key == nil {
		return rejected(errs.New(errs.Precondition, "this agent has no witness key"))
	}
	key, err := p.cfg.Key()
	if err != nil {
		return rejected(err)
	}
	pinned, err := parseHostKeys(probe.GetHostKeys())
	if err != nil {
		return rejected(err)
	}
	client, channels, requests, err := ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User:              probe.GetUser(),
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyAlgorithms: algorithms(pinned),
		HostKeyCallback: func(_ string, _ net.Addr, got ssh.PublicKey) error {
			if slices.ContainsFunc(pinned, func(k ssh.PublicKey) bool { return string(k.Marshal()) == string(got.Marshal()) }) {
				return nil
			}
			return errs.New(errs.Unauthenticated, "its host key %s is not one of the known ones", ssh.FingerprintSHA256(got))
		},
		ClientVersion: "SSH-2.0-infractl",
		Timeout:       MaxTimeout,
	})
	if err != nil {
		return rejected(err)
	}
	c := ssh.NewClient(client, channels, requests)
	defer c.Close()
	session, err := c.NewSession()
	if err != nil {
		return rejected(errs.New(errs.Denied, "logged in, but no session: %w", err))
	}
	defer session.Close()
	started := time.Now()
	if err := session.Run("true"); err != nil {
		return rejected(errs.New(errs.Denied, "logged in, but the command failed: %w", err))
	}
	return open("logged in as " + probe.GetUser() + ", command took " + time.Since(started).Round(time.Millisecond).String())
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
