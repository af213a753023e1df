// Package jointoken reads and writes the text that lets a machine join a site: where the enrolment listeners are, the
// fingerprint of the site's root, and a one-use secret.
//
// The text is one line: "infractl1." and base64url (no padding) of a JSON object. Reading is strict and bounded: the text
// comes from files that others wrote.
package jointoken

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
)

// Prefix begins every token; its number changes with the format.
const Prefix = "infractl1."

// Limits.
const (
	// MaxText is the longest text that is looked at, in bytes.
	MaxText = 4096
	// MaxAddresses is the largest number of addresses.
	MaxAddresses = 16
)

// Token is what the text holds.
type Token struct {
	// Addresses are host:port of the enrolment listeners, in order of preference. IP addresses work without DNS.
	Addresses []string
	// Fingerprint is that of the site's root, as certs.FingerprintOf writes it.
	Fingerprint string
	// Site is the site's name.
	Site string
	// ID names the token. Without id and secret the machine asks for the pending lane: a person must approve it.
	ID string
	// Secret proves that the machine was given the token.
	Secret Secret
}

// wire is the JSON object; field order is part of no promise.
type wire struct {
	Addresses   []string `json:"addresses"`
	Fingerprint string   `json:"fingerprint"`
	Site        string   `json:"site"`
	ID          string   `json:"id,omitempty"`
	Secret      string   `json:"secret,omitempty"`
}

// Encode returns the token's text. A token that Parse would refuse is Invalid.
func (t *Token) Encode() (string, error) {
	if err := t.validate(); err != nil {
		return "", errs.Wrap("write join token", err)
	}
	text, err := t.text(Prefix)
	return text, errs.Wrap("write join token", err)
}

func (t *Token) text(prefix string) (string, error) {
	data, err := json.Marshal(wire{t.Addresses, t.Fingerprint, t.Site, t.ID, t.Secret.Reveal()})
	if err != nil {
		return "", err
	}
	text := prefix + base64.RawURLEncoding.EncodeToString(data)
	if len(text) > MaxText {
		return "", errs.New(errs.Invalid, "it has more than %d bytes", MaxText)
	}
	return text, nil
}

// Parse reads a token's text; white space around it is passed over. Anything that is not exactly a token is Invalid, and
// the error never quotes the text.
func Parse(text string) (*Token, error) {
	t, err := parse(text, Prefix, "make a new one with: infractl token create --node NAME")
	return t, errs.Wrap("read join token", err)
}

func parse(text, prefix, hint string) (*Token, error) {
	refuse := func(format string, args ...any) (*Token, error) {
		return nil, errs.New(errs.Invalid, format, args...).WithHint("%s", hint)
	}
	if len(text) > MaxText {
		return refuse("it has more than %d bytes", MaxText)
	}
	body, ok := strings.CutPrefix(strings.TrimSpace(text), prefix)
	if !ok {
		return refuse("it does not begin with %q", prefix)
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || strings.ContainsAny(body, "\r\n") { // the decoder passes over line ends
		return refuse("it is cut or changed: not base64url")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var w wire
	if err := dec.Decode(&w); err != nil {
		return refuse("it is cut or changed, or made by a newer version")
	}
	if dec.InputOffset() != int64(len(data)) {
		return refuse("something follows its content")
	}
	t := &Token{Addresses: w.Addresses, Fingerprint: w.Fingerprint, Site: w.Site, ID: w.ID, Secret: NewSecret(w.Secret)}
	return t, t.validate()
}

func (t *Token) validate() error {
	if n := len(t.Addresses); n == 0 || n > MaxAddresses {
		return errs.New(errs.Invalid, "it has %d addresses, not 1 to %d", n, MaxAddresses)
	}
	for _, a := range t.Addresses {
		if err := CheckAddress(a); err != nil {
			return err
		}
	}
	if !matches(`^sha256:[0-9a-f]{64}$`, t.Fingerprint) {
		return errs.New(errs.Invalid, "its fingerprint is not sha256: and 64 hexadecimal digits")
	}
	if err := certs.ValidateName("site", t.Site); err != nil {
		return err
	}
	if t.ID == "" && t.Secret.Empty() {
		return nil
	}
	if !matches(`^[A-Za-z0-9_-]{1,64}$`, t.ID) {
		return errs.New(errs.Invalid, "its id is not 1 to 64 letters, digits, - and _")
	}
	if !matches(`^[A-Za-z0-9_.-]{16,128}$`, t.Secret.Reveal()) {
		return errs.New(errs.Invalid, "its secret is not 16 to 128 letters, digits, -, . and _")
	}
	return nil
}

func matches(pattern, text string) bool {
	ok, err := regexp.MatchString(pattern, text)
	return ok && err == nil
}

// CheckAddress returns Invalid unless address is host:port with a port of 1 to 65535.
func CheckAddress(address string) error {
	if len(address) > 262 {
		return errs.New(errs.Invalid, "an address has more than 262 bytes")
	}
	h, port, err := net.SplitHostPort(address)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || h == "" || strings.ContainsAny(h, " /\\@") {
		return errs.New(errs.Invalid, "address %q is not host:port", address)
	}
	return nil
}
