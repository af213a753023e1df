package jointoken

import (
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/errs"
)

func TestLoginCodes(t *testing.T) {
	tok := &Token{Addresses: []string{"10.0.10.4:7444"}, Fingerprint: "sha256:" + strings.Repeat("a", 64), Site: "projetpro",
		ID: "0123456789", Secret: NewSecret("a-secret-of-enough-length")}
	text, err := EncodeLogin(tok)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseLogin(" " + text + "\n")
	if err != nil || got.Secret.Reveal() != tok.Secret.Reveal() || got.ID != tok.ID || got.Site != tok.Site {
		t.Errorf("got %+v, %v", got, err)
	}
	if !IsLogin("\n"+text) || IsLogin("ABCDE-FGHIJ-KLMNO-PQRST") {
		t.Error("the two kinds of codes are mixed up")
	}
	join, err := tok.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{"a join token": join, "cut": text[:len(text)-3], "nothing": "",
		"something behind it": text + "x y"} {
		if _, err := ParseLogin(bad); errs.CodeOf(err) != errs.Invalid || strings.Contains(err.Error(), tok.Secret.Reveal()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse(text); errs.CodeOf(err) != errs.Invalid {
		t.Errorf("a login code is no join token: %v", err)
	}
	tok.ID, tok.Secret = "", NewSecret("")
	if _, err := EncodeLogin(tok); errs.CodeOf(err) != errs.Invalid {
		t.Errorf("without a secret: %v", err)
	}
}
