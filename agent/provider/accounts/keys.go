package accounts

import (
	"crypto/rsa"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	minRSABits    = 3072
	maxKeyLine    = 16 << 10
	keyHeader     = "# Written by infractl; changes here are undone.\n"
	witnessPrefix = "infractl-witness:"
)

func validNode(name string) bool {
	return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$`).MatchString(name)
}

// keyLines are the lines of a key file that hold a key.
func keyLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return lines
}

// personKey checks a key of a person and returns its line: type, key, comment.
func personKey(account, line string) (string, error) {
	bad := func(format string, args ...any) error {
		return errs.New(errs.Invalid, format, args...).At("account " + account).
			WithHint("give the public key as ssh-keygen wrote it (ssh-keygen -t ed25519), without options")
	}
	if len(line) > maxKeyLine || strings.ContainsAny(line, "\n\r\x00") {
		return "", bad("an SSH key is too long or has more than one line")
	}
	key, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return "", bad("an SSH key cannot be read")
	}
	if len(options) > 0 || len(rest) > 0 {
		return "", bad("SSH key %s has options or a second line", ssh.FingerprintSHA256(key))
	}
	if err := strong(key); err != nil {
		return "", bad("SSH key %s: %s", ssh.FingerprintSHA256(key), err)
	}
	text := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	if comment != "" {
		text += " " + comment
	}
	return text, nil
}

// strong refuses what the sshd of infractl would not take.
func strong(key ssh.PublicKey) error {
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
		ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return nil
	case ssh.KeyAlgoRSA:
		holder, ok := key.(ssh.CryptoPublicKey)
		if !ok {
			break
		}
		if public, ok := holder.CryptoPublicKey().(*rsa.PublicKey); ok && public.N.BitLen() >= minRSABits {
			return nil
		}
		return errs.New(errs.Invalid, "an RSA key needs %d bits", minRSABits)
	}
	return errs.New(errs.Invalid, "keys of type %s are not taken", key.Type())
}

// witnessLine lets a witness log in from its addresses and run nothing.
func witnessLine(k *v1.WitnessKey) (string, error) {
	bad := func(format string, args ...any) error {
		return errs.New(errs.Invalid, format, args...).At("witness " + k.GetNode()).
			WithHint("this comes from the server; look at its log, and send a bug report")
	}
	if !validNode(k.GetNode()) {
		return "", bad("not a node's name")
	}
	if len(k.GetFrom()) == 0 {
		return "", bad("no address")
	}
	for _, from := range k.GetFrom() {
		if _, err := netip.ParseAddr(from); err == nil {
			continue
		}
		if _, err := netip.ParsePrefix(from); err != nil {
			return "", bad("%q is no address", from)
		}
	}
	if len(k.GetPublicKey()) > maxKeyLine {
		return "", bad("its key is too long")
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(k.GetPublicKey()))
	if err != nil || len(options) > 0 || len(rest) > 0 {
		return "", bad("its key cannot be read")
	}
	return `restrict,command="true",from="` + strings.Join(k.GetFrom(), ",") + `" ` +
		strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " " + witnessPrefix + k.GetNode(), nil
}

// witnessOf returns the node that a witness line belongs to.
func witnessOf(line string) (node string, ok bool) {
	_, node, ok = strings.Cut(line, " "+witnessPrefix)
	return node, ok
}

// sameKey compares what sshd looks at: options and key, not the comment.
func sameKey(a, b string) bool {
	ka, _, oa, _, errA := ssh.ParseAuthorizedKey([]byte(a))
	kb, _, ob, _, errB := ssh.ParseAuthorizedKey([]byte(b))
	if errA != nil || errB != nil {
		return a == b
	}
	return string(ka.Marshal()) == string(kb.Marshal()) && slices.Equal(oa, ob)
}

// shown is a key line for people: never the key itself.
func shown(line string) string {
	key, comment, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return "a line that is no key"
	}
	text := key.Type() + " " + ssh.FingerprintSHA256(key)
	if comment != "" {
		text += " " + comment
	}
	if len(options) > 0 {
		text = strings.Join(options, ",") + " " + text
	}
	return text
}

func keyFile(lines []string) []byte {
	return []byte(keyHeader + strings.Join(lines, "\n") + "\n")
}
