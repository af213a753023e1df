package mtls

import (
	"crypto"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
)

func (w *world) credential(t *testing.T) *Credential {
	t.Helper()
	key, err := certs.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := certs.MakeCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := w.ca.IssueNode(csr, "web1")
	if err != nil {
		t.Fatal(err)
	}
	cred, err := NewCredential(key, issued.ChainPEM, w.ca.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	return cred
}

// serials returns what the folder holds as current and as candidate.
func serials(t *testing.T, c *Credentials) (current, candidate string) {
	t.Helper()
	for _, x := range []struct {
		load func() (*Credential, error)
		into *string
	}{{c.Current, &current}, {c.Candidate, &candidate}} {
		cred, err := x.load()
		switch {
		case err == nil:
			*x.into = cred.Identity.Serial
		case !errs.Is(err, errs.NotFound):
			t.Fatal(err)
		}
	}
	return current, candidate
}

func TestCandidateReplacesCurrentOnlyWhenProven(t *testing.T) {
	w := newWorld(t)
	first, second, third := w.credential(t), w.credential(t), w.credential(t)
	dir := filepath.Join(t.TempDir(), "agent", "identity")
	c := NewCredentials(dir)
	expect := func(step, current, candidate string) {
		t.Helper()
		if a, b := serials(t, NewCredentials(dir)); a != current || b != candidate {
			t.Errorf("%s: current %q, candidate %q, want %q, %q", step, a, b, current, candidate)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect("empty", "", "")
	if err := c.Promote(); !errs.Is(err, errs.NotFound) {
		t.Errorf("promote of nothing: %v", err)
	}
	do(c.WriteCandidate(first))
	expect("enrolled", "", first.Identity.Serial)
	do(c.Promote())
	expect("proven", first.Identity.Serial, "")
	do(c.WriteCandidate(second))
	expect("renewed", first.Identity.Serial, second.Identity.Serial)
	do(c.DropCandidate())
	do(c.DropCandidate())
	expect("refused", first.Identity.Serial, "")
	do(c.WriteCandidate(second))
	do(c.WriteCandidate(third))
	do(c.Promote())
	expect("proven again", third.Identity.Serial, "")
	do(c.WriteCandidate(first))
	do(c.Remove())
	do(c.Remove())
	expect("revoked", "", "")
}

func TestStoredCredentialWorks(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	c := NewCredentials(dir)
	written := w.credential(t)
	if err := c.WriteCandidate(written); err != nil {
		t.Fatal(err)
	}
	read, err := c.Candidate()
	if err != nil {
		t.Fatal(err)
	}
	if read.Identity != written.Identity || string(read.RootPEM) != string(w.ca.RootPEM()) {
		t.Errorf("read %+v", read.Identity)
	}
	if key, ok := written.Key().(interface{ Equal(crypto.PrivateKey) bool }); !ok || !key.Equal(read.Key()) {
		t.Error("the key is another one")
	}
	if _, err := handshake(t, w.server(true), w.client(t, read.TLS, w.clock, "")); err != nil {
		t.Error(err)
	}
	path := filepath.Join(dir, candidateFile)
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %s", info.Mode())
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("files: %v", left)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Candidate(); !errs.Is(err, errs.Precondition) {
		t.Errorf("readable by all: %v", err)
	}
}

func TestDamagedCandidateNeverReplacesCurrent(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	c := NewCredentials(dir)
	good := w.credential(t)
	if err := c.WriteCandidate(good); err != nil {
		t.Fatal(err)
	}
	if err := c.Promote(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, currentFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"empty": nil, "cut off": whole[:len(whole)/2], "garbage": []byte("garbage")} {
		if err := os.WriteFile(filepath.Join(dir, candidateFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.Promote(); !errs.Is(err, errs.Invalid) || errs.HintOf(err) == "" {
			t.Errorf("%s: promote: %v", name, err)
		}
		if got, err := c.Current(); err != nil || got.Identity != good.Identity {
			t.Errorf("%s: current: %v", name, err)
		}
	}
}

func TestCredentialPartsMustBelongTogether(t *testing.T) {
	w, stranger := newWorld(t), newWorld(t)
	a, b := w.credential(t), w.credential(t)
	chain := func(c *Credential) []byte {
		data, err := c.encode()
		if err != nil {
			t.Fatal(err)
		}
		list, err := certs.DecodeCerts(data)
		if err != nil {
			t.Fatal(err)
		}
		return certs.EncodeCerts(list[:2]...)
	}
	if _, err := NewCredential(a.Key(), chain(a), w.ca.RootPEM()); err != nil {
		t.Error(err)
	}
	if _, err := NewCredential(a.Key(), chain(b), w.ca.RootPEM()); !errs.Is(err, errs.Invalid) {
		t.Errorf("key of another: %v", err)
	}
	if _, err := NewCredential(a.Key(), chain(a), stranger.ca.RootPEM()); !errs.Is(err, errs.Invalid) {
		t.Errorf("root of another: %v", err)
	}
	if _, err := NewCredential(a.Key(), nil, w.ca.RootPEM()); !errs.Is(err, errs.Invalid) {
		t.Errorf("no chain: %v", err)
	}
}

func TestExpiryGauge(t *testing.T) {
	w := newWorld(t)
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(NewExpiryCollector(
		ExpirySource{"server", w.cert.NotAfter},
		ExpirySource{"none", func() time.Time { return time.Time{} }},
	)); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) != 1 || families[0].GetName() != "infractl_certificate_not_after_seconds" || len(families[0].GetMetric()) != 1 {
		t.Fatalf("families: %v", families)
	}
	m := families[0].GetMetric()[0]
	if got, want := m.GetGauge().GetValue(), float64(start().Add(certs.ServerLife).Unix()); got != want || m.GetLabel()[0].GetValue() != "server" {
		t.Errorf("gauge = %v, want %v of the server", got, want)
	}
}
