package jointoken

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/infractl/infractl/internal/errs"
)

const pin = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func sample() *Token {
	return &Token{Addresses: []string{"192.168.10.10:7444", "[fd00::1]:7444"}, Fingerprint: pin, Site: "projetpro",
		ID: "tok-1", Secret: NewSecret("s3cret-s3cret-s3cret")}
}

func TestRoundTrip(t *testing.T) {
	text, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse("\n " + text + "\n")
	if err != nil {
		t.Fatal(err)
	}
	want := sample()
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b Secret) bool { return a.Reveal() == b.Reveal() })); diff != "" {
		t.Error(diff)
	}
}

func TestParse(t *testing.T) {
	text := func(body string) string { return Prefix + base64.RawURLEncoding.EncodeToString([]byte(body)) }
	base := `{"addresses":["10.0.0.1:7444"],"fingerprint":"` + pin + `","site":"lab"`
	tests := []struct{ name, text, want string }{
		{"OKPendingLane", text(base + `}`), ""},
		{"OKWithSecret", text(base + `,"id":"a","secret":"0123456789abcdef"}`), ""},
		{"ErrEmpty", "", "does not begin"},
		{"ErrOtherVersion", "infractl2.e30", "does not begin"},
		{"ErrNotBase64", Prefix + "***", "not base64url"},
		{"ErrLineBreakInside", text(base + `}`)[:20] + "\n" + text(base + `}`)[20:], "not base64url"},
		{"ErrUnknownField", text(base + `,"role":"admin"}`), "cut or changed"},
		{"ErrTrailing", text(base + `}{}`), "follows"},
		{"ErrNoAddress", text(`{"addresses":[],"fingerprint":"` + pin + `","site":"lab"}`), "0 addresses"},
		{"ErrPortZero", text(`{"addresses":["10.0.0.1:0"],"fingerprint":"` + pin + `","site":"lab"}`), "not host:port"},
		{"ErrShortPin", text(`{"addresses":["10.0.0.1:1"],"fingerprint":"sha256:00","site":"lab"}`), "fingerprint"},
		{"ErrSiteName", text(`{"addresses":["10.0.0.1:1"],"fingerprint":"` + pin + `","site":"La b"}`), "DNS label"},
		{"ErrSecretWithoutID", text(base + `,"secret":"0123456789abcdef"}`), "its id"},
		{"ErrShortSecret", text(base + `,"id":"a","secret":"abc"}`), "its secret"},
		{"ErrTooLong", Prefix + strings.Repeat("A", MaxText), "more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(tt.text)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want Invalid with %q", err, tt.want)
			}
		})
	}
}

func TestSecretNeverPrinted(t *testing.T) {
	tok := sample()
	hidden := struct{ t *Token }{tok}
	data, err := json.Marshal(tok)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		fmt.Sprintf("%v %+v %#v %s %q %x", *tok, *tok, *tok, tok.Secret, tok.Secret, tok.Secret),
		fmt.Sprintf("%v %+v %#v", hidden, hidden, hidden), string(data),
	} {
		if strings.Contains(text, "s3cret") || strings.Contains(text, "733363726574") {
			t.Errorf("secret printed: %s", text)
		}
	}
}

func TestEveryEncodedTokenParses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tok := &Token{Fingerprint: pin, Site: rapid.StringMatching(`[a-z][a-z0-9]{0,20}`).Draw(t, "site"),
			ID:     rapid.StringMatching(`[A-Za-z0-9_-]{1,64}`).Draw(t, "id"),
			Secret: NewSecret(rapid.StringMatching(`[A-Za-z0-9_.-]{16,128}`).Draw(t, "secret"))}
		for range rapid.IntRange(1, MaxAddresses).Draw(t, "n") {
			tok.Addresses = append(tok.Addresses, fmt.Sprintf("10.0.0.%d:%d", rapid.IntRange(1, 254).Draw(t, "a"),
				rapid.IntRange(1, 65535).Draw(t, "p")))
		}
		text, err := tok.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got.Secret.Reveal() != tok.Secret.Reveal() || got.ID != tok.ID || !cmp.Equal(got.Addresses, tok.Addresses) {
			t.Errorf("got %+v, want %+v", got, tok)
		}
	})
}

func FuzzParse(f *testing.F) {
	text, err := sample().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(Prefix)
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := Parse(text)
		if err != nil {
			return
		}
		if _, err := tok.Encode(); err != nil {
			t.Errorf("parsed, but does not encode: %v", err)
		}
	})
}
