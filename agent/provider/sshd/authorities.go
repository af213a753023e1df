package sshd

import (
	"errors"
	"io/fs"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// maxAuthorities bounds how many keys may let people in; there are two while one replaces another.
const maxAuthorities = 16

// checkAuthorities refuses what is not a key alone: the lines go into a file that sshd reads.
func checkAuthorities(keys []string) error {
	if len(keys) > maxAuthorities {
		return errs.New(errs.Invalid, "%d authorities for SSH certificates, more than %d", len(keys), maxAuthorities).At("ssh")
	}
	for _, line := range keys {
		if _, ok := authority(line); !ok {
			return errs.New(errs.Invalid, "an authority for SSH certificates is not a public key alone").At("ssh").
				WithHint("look at the server's log")
		}
	}
	return nil
}

// authority returns a line with a key as we write it.
func authority(line string) (string, bool) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(options) > 0 || len(rest) > 0 {
		return "", false
	}
	if _, cert := key.(*ssh.Certificate); cert {
		return "", false
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), true
}

// authorities is the file of those that are trusted: the wanted ones and, while widening, those that sshd trusts now.
func (p *Provider) authorities(wanted []string, widening bool, now effective) (host.File, error) {
	var lines []string
	for _, line := range wanted {
		if text, ok := authority(line); ok {
			lines = merge(lines, []string{text})
		}
	}
	if file := now.first("trustedusercakeys"); widening && file != "" && file != "none" {
		data, err := p.host.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return host.File{}, errs.Wrap("read the authorities that sshd trusts", err)
		}
		for line := range strings.Lines(string(data)) {
			if text, ok := authority(line); ok { // sshd passes over the rest, too
				lines = merge(lines, []string{text})
			}
		}
	}
	if len(lines) == 0 {
		return host.File{Path: caFile, Absent: true}, nil
	}
	return p.file(caFile, header+strings.Join(lines, "\n")+"\n", 0o644), nil
}
