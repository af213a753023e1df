package secret_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
)

const plain = "correct-horse-battery"

// shapes are the ways in which a value hangs in other things.
func shapes() map[string]any {
	v := secret.New([]byte(plain))
	type hidden struct{ value secret.Value }
	type shown struct{ Value secret.Value }
	type pointed struct{ Value *secret.Value }
	return map[string]any{
		"value": v, "pointer": &v, "hidden field": hidden{v}, "pointer to hidden": &hidden{v}, "shown field": shown{v},
		"pointed": pointed{&v}, "slice": []secret.Value{v}, "map": map[string]secret.Value{"a": v}, "any": []any{v, &v},
		"nested": struct{ in *hidden }{&hidden{v}},
	}
}

func leaks(t *testing.T, how string, text []byte) {
	t.Helper()
	for what, form := range map[string]string{"plain": plain, "bytes": fmt.Sprintf("%d", []byte(plain)), "hex": hex.EncodeToString([]byte(plain)),
		"base64": "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5", "Go bytes": fmt.Sprintf("%#v", []byte(plain))} {
		if bytes.Contains(bytes.ToLower(text), bytes.ToLower([]byte(form))) {
			t.Errorf("%s shows the value (%s): %s", how, what, text)
		}
	}
}

func TestAValueIsNeverPrinted(t *testing.T) {
	for shape, v := range shapes() {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %v", "%10.3s"} {
			args := []any{v}
			if strings.HasPrefix(verb, "%T") {
				args = []any{v, v}
			}
			leaks(t, "fmt "+verb+" of "+shape, fmt.Appendf(nil, verb, args...))
		}
		if out, err := json.Marshal(v); err == nil {
			leaks(t, "json of "+shape, out)
		}
		if out, err := yaml.Marshal(v); err == nil {
			leaks(t, "yaml of "+shape, out)
		}
		if out, err := xml.Marshal(v); err == nil {
			leaks(t, "xml of "+shape, out)
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "v", v)
		hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Trace}).Info("m", "v", v)
		hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Trace, JSONFormat: true}).Info("m", "v", v)
		leaks(t, "log of "+shape, log.Bytes())
		err := errs.Wrap("op", errs.New(errs.Invalid, "bad: %v", v).At(fmt.Sprint(v)).WithHint("try %s", v))
		leaks(t, "error of "+shape, []byte(err.Error()+errs.HintOf(err)+errs.ToGRPC(err).Error()))
	}
	leaks(t, "joined error", []byte(errors.Join(fmt.Errorf("%w %v", errs.New(errs.Denied, "x"), secret.New([]byte(plain)))).Error()))
}

func TestOnlyRevealGivesTheBytes(t *testing.T) {
	in := []byte(plain)
	v := secret.New(in)
	in[0] = 'X'
	got := v.Reveal()
	if string(got) != plain || v.Len() != len(plain) {
		t.Errorf("revealed %q", got)
	}
	got[0] = 'X'
	if string(v.Reveal()) != plain {
		t.Error("a revealed copy changes the value")
	}
	if zero := (secret.Value{}); zero.Reveal() != nil || zero.Len() != 0 || fmt.Sprint(zero) != "[redacted]" {
		t.Error("the zero value is not empty")
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]errs.Code{
		"db-root": "", "a": "", "0": "", strings.Repeat("a", 63): "",
		"": errs.Invalid, "-a": errs.Invalid, "a-": errs.Invalid, "A": errs.Invalid, "a_b": errs.Invalid, "a.b": errs.Invalid,
		"a/b": errs.Invalid, "a b": errs.Invalid, "a\n": errs.Invalid, strings.Repeat("a", 64): errs.Invalid, "é": errs.Invalid,
	} {
		if got := errs.CodeOf(secret.CheckName(name)); got != want {
			t.Errorf("%q: code %q, want %q", name, got, want)
		}
	}
}

func TestValues(t *testing.T) {
	for size, want := range map[int]errs.Code{0: errs.Invalid, 1: "", secret.MaxValue: "", secret.MaxValue + 1: errs.Invalid} {
		err := secret.CheckValue(secret.New(bytes.Repeat([]byte("q"), size)))
		if got := errs.CodeOf(err); got != want {
			t.Errorf("%d bytes: code %q, want %q", size, got, want)
		}
		if err != nil && strings.Contains(err.Error(), "qq") {
			t.Error("the error holds the value")
		}
	}
}
