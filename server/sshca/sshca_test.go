package sshca

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/server/store/sqlite"
)

func open(t *testing.T, dir string) (*Authority, *clock.Fake) {
	t.Helper()
	clk := clock.NewFake(time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC))
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Clock: clk, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	a, err := Open(Config{Dir: dir, Records: s, Clock: clk})
	if err != nil {
		t.Fatal(err)
	}
	return a, clk
}

func publicKey(t *testing.T) (ssh.PublicKey, string) {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(ssh.MarshalAuthorizedKey(key))
}

func TestTheKeyIsMadeOnceAndKeptPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ssh-ca")
	a, _ := open(t, dir)
	b, _ := open(t, dir)
	if a.PublicKey() != b.PublicKey() || !strings.HasPrefix(a.PublicKey(), "ssh-ed25519 ") {
		t.Errorf("%s, then %s", a.PublicKey(), b.PublicKey())
	}
	info, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	var res site.Resources
	if err := a.Resources(t.Context(), &res); err != nil || !cmp.Equal(res.UserCAKeys, []string{a.PublicKey()}) {
		t.Errorf("resources %v, %v", res, err)
	}
	if err := os.Chmod(filepath.Join(dir, keyFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Ensure(dir); errs.CodeOf(err) != errs.Precondition {
		t.Errorf("a key that others may read: %v", err)
	}
}

// checker judges certificates as sshd does.
func checker(a *Authority, clk *clock.Fake) *ssh.CertChecker {
	return &ssh.CertChecker{Clock: clk.Now, SupportedCriticalOptions: []string{"source-address"},
		IsUserAuthority: func(k ssh.PublicKey) bool { return string(k.Marshal()) == string(a.signer.PublicKey().Marshal()) }}
}

func TestCertificates(t *testing.T) {
	a, clk := open(t, t.TempDir())
	key, _ := publicKey(t)
	text, notAfter, err := a.Sign(Request{Key: key, KeyID: "infractl operator/anna 7", Serial: 3, Principal: "operator", From: []string{"10.0.10.4"}})
	if err != nil {
		t.Fatal(err)
	}
	parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	cert := parsed.(*ssh.Certificate)
	if diff := cmp.Diff(map[string]string{"permit-pty": ""}, cert.Extensions); diff != "" {
		t.Errorf("extensions (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"source-address": "10.0.10.4"}, cert.CriticalOptions); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
	if cert.KeyId != "infractl operator/anna 7" || cert.Serial != 3 || !notAfter.Equal(clk.Now().Add(Life)) {
		t.Errorf("%+v until %s", cert, notAfter)
	}
	check := checker(a, clk)
	if err := check.CheckCert("operator", cert); err != nil {
		t.Errorf("fresh: %v", err)
	}
	if err := check.CheckCert("root", cert); err == nil {
		t.Error("good for another account")
	}
	clk.Advance(-4 * time.Minute)
	if err := check.CheckCert("operator", cert); err != nil {
		t.Errorf("on a host that is four minutes behind: %v", err)
	}
	clk.Advance(4*time.Minute + Life)
	if err := check.CheckCert("operator", cert); err == nil {
		t.Error("good after its end")
	}
}

func TestForwardingIsForTheRelayOnly(t *testing.T) {
	a, _ := open(t, t.TempDir())
	key, _ := publicKey(t)
	text, _, err := a.Sign(Request{Key: key, Principal: "operator", Forward: true})
	if err != nil {
		t.Fatal(err)
	}
	parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"permit-pty": "", "permit-port-forwarding": ""}
	if diff := cmp.Diff(want, parsed.(*ssh.Certificate).Extensions); diff != "" {
		t.Errorf("extensions (-want +got):\n%s", diff)
	}
}

func TestSerialsAreCounted(t *testing.T) {
	a, _ := open(t, t.TempDir())
	for want := uint64(1); want < 4; want++ {
		if got, err := a.Serial(t.Context()); err != nil || got != want {
			t.Errorf("got %d, %v, want %d", got, err, want)
		}
	}
}

func TestOnlyPlainStrongKeysAreSigned(t *testing.T) {
	a, _ := open(t, t.TempDir())
	key, good := publicKey(t)
	if _, err := ParseKey(good); err != nil {
		t.Errorf("a good one: %v", err)
	}
	cert, _, err := a.Sign(Request{Key: key, Principal: "operator"})
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	short, err := ssh.NewPublicKey(&small.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "no key": "ssh-ed25519 nothing", "options": `command="true" ` + good, "two": good + good, "a certificate": cert,
		"short RSA": string(ssh.MarshalAuthorizedKey(short)), "long": good + strings.Repeat(" ", maxKey),
	} {
		if _, err := ParseKey(text); errs.CodeOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
