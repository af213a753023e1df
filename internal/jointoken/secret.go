package jointoken

import (
	"fmt"
	"io"
)

const redacted = "[redacted]"

// Secret holds a token's secret and prints as "[redacted]" wherever it may be printed: with fmt, in a log, as JSON. The
// text is behind a function, so that even a field that fmt prints by reflection shows an address only (some verbs follow
// pointers, none calls a function).
type Secret struct{ text func() string }

// NewSecret returns text as a Secret.
func NewSecret(text string) Secret { return Secret{text: func() string { return text }} }

// Reveal returns the text. Callers send it to the server over pinned TLS, compare it, or write it for the machine it is
// meant for, and nothing else.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return s.text()
}

// Empty reports whether there is no secret.
func (s Secret) Empty() bool { return s.Reveal() == "" }

// Format implements fmt.Formatter for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String implements fmt.Stringer.
func (s Secret) String() string { return redacted }

// MarshalText implements encoding.TextMarshaler, and so covers JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
