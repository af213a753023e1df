// Package secret holds a value that must never be seen: it prints as "[redacted]" wherever it can be printed, and only Reveal
// gives its bytes.
package secret

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"regexp"

	"github.com/infractl/infractl/internal/errs"
)

const redacted = "[redacted]"

// Limits of a secret.
const (
	// MaxName is the longest name, in bytes.
	MaxName = 63
	// MaxValue is the largest value, in bytes.
	MaxValue = 64 << 10
)

// Value is a secret value. It redacts itself with fmt (every verb), in JSON, YAML and text, in slog and hclog, and inside errors.
// The bytes are behind a function, because fmt follows pointers of hidden fields for some verbs and never calls a function: what it
// shows by reflection is an address. The zero Value is empty.
type Value struct{ reveal func() []byte }

// New returns a copy of data as a Value.
func New(data []byte) Value {
	own := bytes.Clone(data)
	return Value{reveal: func() []byte { return own }}
}

// Reveal returns a copy of the bytes. Callers encrypt them, send them over mTLS to whom they are for, or write them for the
// program that uses them, and nothing else.
func (v Value) Reveal() []byte {
	if v.reveal == nil {
		return nil
	}
	return bytes.Clone(v.reveal())
}

// Len returns the number of bytes.
func (v Value) Len() int {
	if v.reveal == nil {
		return 0
	}
	return len(v.reveal())
}

// Format implements fmt.Formatter for every verb.
func (v Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String implements fmt.Stringer.
func (v Value) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (v Value) GoString() string { return redacted }

// MarshalText implements encoding.TextMarshaler, and so covers JSON and YAML.
func (v Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer.
func (v Value) LogValue() slog.Value { return slog.StringValue(redacted) }

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// CheckName returns Invalid unless name may name a secret: 1 to MaxName small letters, digits and hyphens, no hyphen at either
// end.
func CheckName(name string) error {
	if len(name) > MaxName || !namePattern.MatchString(name) {
		return errs.New(errs.Invalid, "%.80q cannot name a secret", name).
			WithHint("1 to %d small letters, digits and hyphens, such as db-root", MaxName)
	}
	return nil
}

// CheckValue returns Invalid unless a value has 1 byte to MaxValue bytes. The error says how many it has, and nothing else.
func CheckValue(v Value) error {
	switch n := v.Len(); {
	case n == 0:
		return errs.New(errs.Invalid, "the secret is empty")
	case n > MaxValue:
		return errs.New(errs.Invalid, "the secret has %d bytes, more than %d", n, MaxValue)
	}
	return nil
}
