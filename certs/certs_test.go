package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
)

const day = 24 * time.Hour

func start() time.Time { return time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC) }

func newAuthority(t testing.TB) (*Authority, *clock.Fake, string) {
	t.Helper()
	clk := clock.NewFake(start())
	dir := filepath.Join(t.TempDir(), "ca")
	a, err := Create(dir, "projetpro", clk)
	if err != nil {
		t.Fatal(err)
	}
	return a, clk, dir
}

func newCSR(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := MakeCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, csr
}

func wantCode(t *testing.T, what string, err error, want errs.Code) {
	t.Helper()
	if got := errs.CodeOf(err); got != want {
		t.Errorf("%s: code = %q (%v), want %q", what, got, err, want)
	}
}

func verifyAt(a *Authority, issued *Issued, usage x509.ExtKeyUsage, now time.Time) error {
	chain, err := DecodeCerts(issued.ChainPEM)
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: a.RootPool(), Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

func TestAuthorityIsOnDiskAsDesigned(t *testing.T) {
	a, clk, dir := newAuthority(t)
	for file, mode := range map[string]os.FileMode{rootCertFile: 0o644, rootKeyFile: 0o600, issuingFile: 0o600} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, want mode %s", file, info, err, mode)
		}
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("folder has mode %s", info.Mode())
	}
	if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) != 1 {
		t.Errorf("creation left %v", left)
	}
	again, err := Open(dir, clk)
	if err != nil {
		t.Fatal(err)
	}
	if again.Fingerprint() != a.Fingerprint() || again.Site() != "projetpro" || !again.Issuing().Equal(a.Issuing()) {
		t.Error("the authority that was opened is not the one that was created")
	}
	if !strings.HasPrefix(a.Fingerprint(), "sha256:") || len(a.Fingerprint()) != len("sha256:")+64 {
		t.Errorf("fingerprint = %q", a.Fingerprint())
	}
	root, issuing := a.Root(), a.Issuing()
	if root.MaxPathLen != 1 || issuing.MaxPathLen != 0 || !issuing.MaxPathLenZero {
		t.Errorf("path lengths = %d, %d", root.MaxPathLen, issuing.MaxPathLen)
	}
	if !root.NotAfter.Equal(start().Add(RootLife)) || !issuing.NotAfter.Equal(start().Add(IssuingLife)) {
		t.Errorf("ends = %s, %s", root.NotAfter, issuing.NotAfter)
	}
}

func TestAuthorityIsNeverOverwritten(t *testing.T) {
	_, clk, dir := newAuthority(t)
	before, _ := os.ReadFile(filepath.Join(dir, issuingFile))
	_, err := Create(dir, "projetpro", clk)
	wantCode(t, "create over an authority", err, errs.Exists)
	if after, _ := os.ReadFile(filepath.Join(dir, issuingFile)); !bytes.Equal(before, after) {
		t.Error("the key was replaced")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Create(file, "projetpro", clk)
	wantCode(t, "create over a file", err, errs.Exists)
	_, err = Create(filepath.Join(t.TempDir(), "ca"), "Not A Label", clk)
	wantCode(t, "create for a bad site", err, errs.Invalid)
	if _, err := Create(t.TempDir(), "projetpro", clk); err != nil {
		t.Errorf("create in an empty folder: %v", err)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	_, clk, _ := newAuthority(t)
	_, _, other := newAuthority(t)
	foreign, err := os.ReadFile(filepath.Join(other, issuingFile))
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		damage func(dir string) error
		want   errs.Code
	}{
		"nothing there":         {func(dir string) error { return os.RemoveAll(dir) }, errs.NotFound},
		"key readable by group": {func(dir string) error { return os.Chmod(filepath.Join(dir, issuingFile), 0o640) }, errs.Precondition},
		"key of another": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, issuingFile), foreign, 0o600)
		}, errs.Precondition},
		"garbage": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, rootCertFile), []byte("garbage"), 0o600)
		}, errs.Precondition},
		"no root key is fine": {func(dir string) error { return os.Remove(filepath.Join(dir, rootKeyFile)) }, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, _, dir := newAuthority(t)
			if err := c.damage(dir); err != nil {
				t.Fatal(err)
			}
			_, err := Open(dir, clk)
			wantCode(t, "open", err, c.want)
			if err != nil && errs.HintOf(err) == "" {
				t.Errorf("%v has no hint", err)
			}
		})
	}
}

func TestProfiles(t *testing.T) {
	a, _, _ := newAuthority(t)
	key, csr := newCSR(t)
	node, err := a.IssueNode(csr, "web1")
	if err != nil {
		t.Fatal(err)
	}
	operator, err := a.IssueOperator(csr, "jane", RoleAdmin, 0)
	if err != nil {
		t.Fatal(err)
	}
	server, err := a.IssueServer(key.Public(), "relay", []string{"infractl.projetpro.lab"}, []net.IP{net.IPv4(10, 0, 10, 4)})
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		issued *Issued
		want   Identity
		usage  x509.ExtKeyUsage
		life   time.Duration
		chain  int
	}{
		"node":     {node, Identity{Kind: KindNode, Name: "web1"}, x509.ExtKeyUsageClientAuth, NodeLife, 2},
		"operator": {operator, Identity{Kind: KindOperator, Name: "jane", Role: RoleAdmin}, x509.ExtKeyUsageClientAuth, OperatorLife, 2},
		"server":   {server, Identity{Kind: KindServer, Name: "relay"}, x509.ExtKeyUsageServerAuth, ServerLife, 3},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.want.Site, c.want.Serial, c.want.NotAfter = "projetpro", c.issued.Serial, start().Add(c.life)
			got, err := ParseIdentity(c.issued.Leaf)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("identity (-want +got):\n%s", diff)
			}
			if !c.issued.NotAfter.Equal(start().Add(c.life)) || !c.issued.Leaf.NotBefore.Equal(start().Add(-Backdate)) {
				t.Errorf("valid from %s to %s", c.issued.Leaf.NotBefore, c.issued.NotAfter)
			}
			if chain, err := DecodeCerts(c.issued.ChainPEM); err != nil || len(chain) != c.chain {
				t.Errorf("chain of %d, %v, want %d", len(chain), err, c.chain)
			}
			other := x509.ExtKeyUsageServerAuth + x509.ExtKeyUsageClientAuth - c.usage
			for _, try := range []struct {
				usage x509.ExtKeyUsage
				now   time.Time
				ok    bool
			}{
				{c.usage, start(), true},
				{other, start(), false},
				{c.usage, start().Add(-23 * time.Hour), true},
				{c.usage, start().Add(-25 * time.Hour), false},
				{c.usage, start().Add(c.life - time.Second), true},
				{c.usage, start().Add(c.life + time.Second), false},
			} {
				if err := verifyAt(a, c.issued, try.usage, try.now); (err == nil) != try.ok {
					t.Errorf("usage %d at %s: %v, want ok %v", try.usage, try.now, err, try.ok)
				}
			}
			if c.issued.Leaf.IsCA || len(c.issued.Serial) != 32 {
				t.Errorf("leaf: CA %v, serial %q", c.issued.Leaf.IsCA, c.issued.Serial)
			}
		})
	}
	if node.Serial == operator.Serial {
		t.Error("two certificates share a serial number")
	}
}

// TestOnlyTheKeyOfARequestIsHonoured asks for everything that a request can ask for.
func TestOnlyTheKeyOfARequestIsHonoured(t *testing.T) {
	a, _, _ := newAuthority(t)
	key, plain := newCSR(t)
	uri, _ := url.Parse("infractl://projetpro/server/relay")
	greedy, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:         pkix.Name{CommonName: "root", Organization: []string{"infractl:admin"}},
		DNSNames:        []string{"infractl.projetpro.lab"},
		IPAddresses:     []net.IP{net.IPv4(10, 0, 10, 4)},
		URIs:            []*url.URL{uri},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}}}, // CA:TRUE
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	want, err := a.IssueNode(plain, "web1")
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.IssueNode(greedy, "web1")
	if err != nil {
		t.Fatal(err)
	}
	// All but the serial number, and with it the signature, must be the same.
	strip := func(c *x509.Certificate) []byte {
		return bytes.Replace(c.RawTBSCertificate, c.SerialNumber.Bytes(), make([]byte, len(c.SerialNumber.Bytes())), 1)
	}
	for len(got.Leaf.SerialNumber.Bytes()) != len(want.Leaf.SerialNumber.Bytes()) ||
		len(got.Leaf.RawTBSCertificate) != len(want.Leaf.RawTBSCertificate) {
		if got, err = a.IssueNode(greedy, "web1"); err != nil { // a serial number of another length
			t.Fatal(err)
		}
	}
	if !bytes.Equal(strip(got.Leaf), strip(want.Leaf)) {
		t.Error("the request's wishes show in the certificate")
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	a, _, _ := newAuthority(t)
	csrOf := func(key crypto.Signer, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		der, err := MakeCSR(key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	_, good := newCSR(t)
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p384CSR := csrOf(p384, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	rsaCSR := csrOf(rsaKey, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	edCSR := csrOf(edKey, err)
	cases := map[string]struct {
		csr  []byte
		node string
		want errs.Code
	}{
		"P-256":         {good, "web1", ""},
		"Ed25519":       {edCSR, "web1", ""},
		"P-384":         {p384CSR, "web1", errs.Invalid},
		"RSA":           {rsaCSR, "web1", errs.Invalid},
		"forged":        {forged, "web1", errs.Invalid},
		"garbage":       {[]byte("garbage"), "web1", errs.Invalid},
		"empty":         {nil, "web1", errs.Invalid},
		"too large":     {append(bytes.Clone(good), make([]byte, MaxCSR)...), "web1", errs.Invalid},
		"trailing data": {append(bytes.Clone(good), 0), "web1", errs.Invalid},
		"upper case":    {good, "Web1", errs.Invalid},
		"slash":         {good, "web1/operator", errs.Invalid},
		"empty name":    {good, "", errs.Invalid},
		"long name":     {good, strings.Repeat("a", 64), errs.Invalid},
		"longest name":  {good, strings.Repeat("a", 63), ""},
		"hyphen first":  {good, "-a", errs.Invalid},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := a.IssueNode(c.csr, c.node)
			wantCode(t, "issue", err, c.want)
		})
	}
	_, err = a.IssueOperator(good, "jane", "root", 0)
	wantCode(t, "unknown role", err, errs.Invalid)
	_, err = a.IssueOperator(good, "jane", RoleViewer, MaxOperatorLife+time.Second)
	wantCode(t, "too long a life", err, errs.Invalid)
	_, err = a.IssueOperator(good, "jane", RoleViewer, time.Second)
	wantCode(t, "too short a life", err, errs.Invalid)
	_, err = a.IssueServer(rsaKey.Public(), "relay", nil, nil)
	wantCode(t, "RSA server", err, errs.Invalid)
}

func TestAWrongClockIssuesNothing(t *testing.T) {
	a, clk, _ := newAuthority(t)
	_, csr := newCSR(t)
	clk.Advance(-2 * day)
	_, err := a.IssueNode(csr, "web1")
	wantCode(t, "two days before the authority", err, errs.Precondition)
	clk.Advance(day + 2*time.Hour) // 22 hours before: a certificate begins no earlier than its issuer
	issued, err := a.IssueNode(csr, "web1")
	if err != nil {
		t.Fatal(err)
	}
	if issued.Leaf.NotBefore.Before(a.Issuing().NotBefore) {
		t.Errorf("certificate begins at %s, its issuer at %s", issued.Leaf.NotBefore, a.Issuing().NotBefore)
	}
	clk.Advance(IssuingLife - 2*day)
	if issued, err = a.IssueNode(csr, "web1"); err != nil {
		t.Fatal(err)
	}
	if issued.NotAfter.After(a.Issuing().NotAfter) {
		t.Errorf("certificate ends at %s, its issuer at %s", issued.NotAfter, a.Issuing().NotAfter)
	}
	clk.Advance(4 * day)
	_, err = a.IssueNode(csr, "web1")
	wantCode(t, "after the issuing certificate", err, errs.Precondition)
}

func TestRenewAtTwoThirds(t *testing.T) {
	a, _, _ := newAuthority(t)
	_, csr := newCSR(t)
	node, _ := a.IssueNode(csr, "web1")
	operator, _ := a.IssueOperator(csr, "jane", RoleViewer, time.Hour)
	for what, c := range map[string]struct {
		cert *x509.Certificate
		want time.Duration
	}{
		"node":     {node.Leaf, NodeLife / 3 * 2},
		"operator": {operator.Leaf, 40 * time.Minute},
		"issuing":  {a.Issuing(), IssuingLife / 3 * 2},
	} {
		if got := RenewAt(c.cert).Sub(start()); got != c.want {
			t.Errorf("%s is renewed after %s, want %s", what, got, c.want)
		}
	}
}

func TestRenewIssuing(t *testing.T) {
	a, clk, dir := newAuthority(t)
	_, csr := newCSR(t)
	old := a.Issuing()
	clk.Advance(IssuingLife / 2)
	if done, err := a.RenewIssuing(); done || err != nil {
		t.Fatalf("renewed at half life: %v, %v", done, err)
	}
	clk.Advance(IssuingLife / 4)
	before, err := a.IssueNode(csr, "web1")
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(dir, rootKeyFile)
	if err := os.Rename(keyFile, keyFile+".away"); err != nil {
		t.Fatal(err)
	}
	_, err = a.RenewIssuing()
	wantCode(t, "renew without the root's key", err, errs.Precondition)
	if err := os.Rename(keyFile+".away", keyFile); err != nil {
		t.Fatal(err)
	}
	if done, err := a.RenewIssuing(); !done || err != nil {
		t.Fatalf("not renewed at three quarters: %v, %v", done, err)
	}
	if a.Issuing().Equal(old) {
		t.Error("the issuing certificate is the old one")
	}
	after, err := a.IssueNode(csr, "web1")
	if err != nil {
		t.Fatal(err)
	}
	for what, issued := range map[string]*Issued{"before": before, "after": after} {
		if err := verifyAt(a, issued, x509.ExtKeyUsageClientAuth, clk.Now()); err != nil {
			t.Errorf("certificate made %s the renewal: %v", what, err)
		}
	}
	again, err := Open(dir, clk)
	if err != nil || !again.Issuing().Equal(a.Issuing()) {
		t.Errorf("the renewal is not on disk: %v", err)
	}
}

func TestKeyFiles(t *testing.T) {
	key, _ := newCSR(t)
	path := filepath.Join(t.TempDir(), "key.pem")
	_, err := ReadKey(path)
	wantCode(t, "absent", err, errs.NotFound)
	if err := WriteKey(path, key); err != nil {
		t.Fatal(err)
	}
	got, err := ReadKey(path)
	if err != nil || !key.Equal(got) {
		t.Errorf("read %v, %v", got, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %s", info.Mode())
	}
	if err := os.Chmod(path, 0o604); err != nil {
		t.Fatal(err)
	}
	_, err = ReadKey(path)
	wantCode(t, "readable by others", err, errs.Precondition)
}

func TestRevocationList(t *testing.T) {
	var l RevocationList
	if l.IsRevoked("a") {
		t.Error("an empty list revokes")
	}
	l.Add("a", "b")
	l.Add("a")
	if !l.IsRevoked("a") || !l.IsRevoked("b") || l.IsRevoked("c") || l.Len() != 2 {
		t.Errorf("list of %d is wrong", l.Len())
	}
	l.Replace([]string{"c"})
	if l.IsRevoked("a") || !l.IsRevoked("c") {
		t.Error("replace did not replace")
	}
}
