//go:build lab

package operators

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/labtest"
)

var berta person

// TestPeople is one day of a site: each part stands on the one before it.
func TestPeople(t *testing.T) {
	berta = newPerson(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"the site is applied and hosts trust the authority", applied},
		{"a person logs in with a code", loginWithCode},
		{"a role holds from the next call on", roles},
		{"a certificate lets in through the relay", certificate},
		{"an expired and a foreign certificate do not", refusedCertificates},
		{"breaking the glass works and is told", breakGlass},
		{"without the server one's own key works", serverAway},
		{"removal cuts", removal},
	} {
		if !t.Run(part.name, part.run) {
			t.Fatal("the rest stands on this")
		}
	}
}

func applied(t *testing.T) {
	admin().run(t, 0, "", "apply", "-f", site.File, "--yes")
	out, err := site.Lab.VM(demo.Prod).Must(t.Context(), "/usr/sbin/sshd", "-T")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"trustedusercakeys /etc/ssh/infractl-user-ca.pub", "authorizedprincipalsfile none"} {
		if !strings.Contains(out, line+"\n") {
			t.Errorf("sshd -T has no %q", line)
		}
	}
}

func loginWithCode(t *testing.T) {
	out := admin().run(t, 0, "", "operator", "add", "berta", "--role", "viewer")
	code := regexp.MustCompile(`infractl-login1\.\S+`).FindString(out)
	if code == "" {
		t.Fatalf("no code: %s", out)
	}
	berta.run(t, 0, code+"\n", "login")
	if out := berta.run(t, 0, "", "whoami"); !strings.Contains(out, "berta, viewer of site projetpro") {
		t.Errorf("whoami: %s", out)
	}
	thief := newPerson(t)
	if out := thief.run(t, 11, code+"\n", "login"); !strings.Contains(out, "wrong, used, or has expired") {
		t.Errorf("a second use: %s", out)
	}
}

func roles(t *testing.T) {
	content, err := os.ReadFile(site.File)
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "site.yaml")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(content), "max_auth_tries: 4", "max_auth_tries: 5", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := berta.run(t, 11, "", "apply", "-f", changed, "--yes"); !strings.Contains(out, "role viewer") {
		t.Errorf("a viewer applies: %s", out)
	}
	if out := berta.run(t, 11, "", "ssh", demo.Prod, "--", "true"); !strings.Contains(out, "role viewer") {
		t.Errorf("a viewer logs in: %s", out)
	}
	admin().run(t, 0, "", "operator", "role", "berta", "operator")
	berta.run(t, 0, "", "apply", "-f", changed, "--yes")
}

func certificate(t *testing.T) {
	if out := berta.run(t, 0, "", "ssh", demo.Prod, "--", "hostname"); !strings.Contains(out, demo.Prod) {
		t.Fatalf("ssh: %s", out)
	}
	for _, node := range []string{demo.Relay, demo.Prod} {
		labtest.Eventually(t, 15*time.Second, "the login on "+node+" is in the audit log with its certificate", func() bool {
			for _, login := range entries(t, "ssh.login") {
				m := regexp.MustCompile(`^certificate of operator/berta, entry (\d+), serial (\d+)`).FindStringSubmatch(login.GetMessage())
				if login.GetActor() != "node/"+node || m == nil {
					continue
				}
				for _, issue := range entries(t, "ssh.certificate") {
					if fmt.Sprint(issue.GetSequence()) == m[1] && issue.GetActor() == "operator/berta" && issue.GetTarget() == "operator@"+node &&
						strings.HasPrefix(issue.GetMessage(), "serial "+m[2]+",") {
						return true
					}
				}
			}
			return false
		})
	}
	// Witnesses log in on every apply, and are not told of.
	for _, e := range entries(t, "ssh.login") {
		if strings.Contains(e.GetMessage(), "infractl-witness") {
			t.Errorf("a witness is in the log: %s", e.GetMessage())
		}
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "infractl-ssh-*")); len(left) > 0 {
		t.Errorf("keys were left behind: %v", left)
	}
}

// refusedCertificates logs in on the relay with certificates made here: by the server's key, long ago, and by another key.
func refusedCertificates(t *testing.T) {
	data, err := site.Lab.VM(demo.Relay).ReadFile(t.Context(), "/var/lib/infractl-server-keys/ssh-ca/user.key")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	_, foreign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, tt := range []struct {
		name        string
		ca          any
		after, till time.Time
		principal   string
		want        int
	}{
		{"fresh", key, now.Add(-time.Minute), now.Add(time.Minute), "operator", 0},
		{"expired", key, now.Add(-11 * time.Minute), now.Add(-time.Minute), "operator", 255},
		{"of another authority", foreign, now.Add(-time.Minute), now.Add(time.Minute), "operator", 255},
		{"for another account", key, now.Add(-time.Minute), now.Add(time.Minute), "root", 255},
	} {
		if got := loginOnRelay(t, tt.ca, tt.principal, tt.after, tt.till); got != tt.want {
			t.Errorf("%s: code %d, want %d", tt.name, got, tt.want)
		}
	}
}

func loginOnRelay(t *testing.T, ca any, principal string, after, till time.Time) int {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(ca)
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	subject, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	cert := &ssh.Certificate{Key: subject, CertType: ssh.UserCert, KeyId: "test", ValidPrincipals: []string{principal},
		ValidAfter: uint64(after.Unix()), ValidBefore: uint64(till.Unix())}
	if err := cert.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+"-cert.pub", ssh.MarshalAuthorizedKey(cert), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := site.Lab.Namespace(demo.Operator).Exec(ctx, "ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i", file, "-p", "202", "operator@10.0.10.4", "true")
	if err != nil {
		t.Fatal(err)
	}
	return r.Code
}

func breakGlass(t *testing.T) {
	if out := berta.run(t, 0, "", "ssh", demo.Prod, "--break-glass", "--", "hostname"); !strings.Contains(out, demo.Prod) {
		t.Fatalf("ssh: %s", out)
	}
	told(t, demo.Prod, 1)
}

// told waits until so many logins with keys of people's own on a node are in the audit log.
func told(t *testing.T, node string, want int) {
	t.Helper()
	labtest.Eventually(t, 30*time.Second, fmt.Sprintf("%d broken glasses on %s are in the audit log", want, node), func() bool {
		n := 0
		for _, e := range entries(t, "ssh.login") {
			if e.GetActor() == "node/"+node && strings.HasPrefix(e.GetMessage(), "break-glass: key SHA256:") && strings.HasPrefix(e.GetTarget(), "operator") {
				n++
			}
		}
		return n == want
	})
}

func serverAway(t *testing.T) {
	relay := site.Lab.VM(demo.Relay)
	if _, err := relay.Must(t.Context(), "systemctl", "stop", "infractl-server.service"); err != nil {
		t.Fatal(err)
	}
	out := berta.run(t, 0, "", "ssh", demo.Prod, "--", "hostname")
	if !strings.Contains(out, demo.Prod) || !strings.Contains(out, "break-glass") {
		t.Errorf("ssh: %s", out)
	}
	if _, err := relay.Must(t.Context(), "systemctl", "start", "infractl-server.service"); err != nil {
		t.Fatal(err)
	}
	told(t, demo.Prod, 2) // the agent kept it until the server was back
}

func removal(t *testing.T) {
	admin().run(t, 1, "", "operator", "remove", "demo")
	admin().run(t, 0, "", "operator", "remove", "berta")
	if out := berta.run(t, 11, "", "whoami"); !strings.Contains(out, "revoked") {
		t.Errorf("whoami: %s", out)
	}
	berta.run(t, 11, "", "ssh", demo.Prod, "--", "true")
	var found bool
	for _, e := range entries(t, "RemoveOperator") {
		found = found || e.GetTarget() == "berta" && e.GetResult() == "ok"
	}
	if !found {
		t.Error("the removal is not in the audit log")
	}
}
