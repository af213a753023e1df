package cmd

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// certificate is what a test asks for.
type certificate struct {
	after, till time.Duration // from now
	principal   string
	from        string
	forward     bool
}

// TestCertificatesThroughARealRelay logs in with the command line that infractl ssh builds for certificates, through real
// servers that trust an authority and no key of anybody's.
func TestCertificatesThroughARealRelay(t *testing.T) {
	program := sshdProgram(t)
	if program == "" {
		return
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ca, public := signer(t)
	caFile := filepath.Join(dir, "ca.pub")
	if err := os.WriteFile(caFile, []byte(public), 0o600); err != nil {
		t.Fatal(err)
	}
	trust := []string{"TrustedUserCAKeys " + caFile, "AuthorizedPrincipalsFile none", "AllowTcpForwarding local", "LogLevel VERBOSE"}
	relay := startSSHD(t, program, "127.0.0.1", "none", trust...)
	node := startSSHD(t, program, "127.0.0.2", "none", trust...)
	known := filepath.Join(dir, "known")
	var content string
	for _, s := range []sshd{relay, node} {
		lines, err := knownHosts(s.place, []string{s.hostKey})
		if err != nil {
			t.Fatal(err)
		}
		content += lines
	}
	if err := os.WriteFile(known, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	good := certificate{after: -time.Minute, till: time.Minute, principal: me.Username}
	through := good
	through.forward = true
	foreign, _ := signer(t)
	with := func(change func(*certificate)) certificate { c := good; change(&c); return c }
	for name, tt := range map[string]struct {
		relay, node certificate
		ca          ssh.Signer
		ok          bool
	}{
		"good":                    {through, good, ca, true},
		"from the relay only":     {through, with(func(c *certificate) { c.from = "127.0.0.0/8" }), ca, true},
		"from elsewhere":          {through, with(func(c *certificate) { c.from = "10.0.10.4" }), ca, false},
		"expired":                 {through, with(func(c *certificate) { c.after, c.till = -time.Hour, -time.Second }), ca, false},
		"not yet valid":           {through, with(func(c *certificate) { c.after = 30 * time.Second }), ca, false},
		"another account":         {through, with(func(c *certificate) { c.principal = "somebody" }), ca, false},
		"another authority":       {through, good, foreign, false},
		"no way through a target": {good, good, ca, false},
	} {
		t.Run(name, func(t *testing.T) {
			pass, err := makePass(t, map[bool]ssh.Signer{true: ca, false: tt.ca}, tt.relay, tt.node)
			if err != nil {
				t.Fatal(err)
			}
			defer pass.remove()
			argv := buildSSH([]netip.AddrPort{relay.place, node.place}, known, []string{"echo", "$SSH_CONNECTION"}, sshOptions{user: me.Username}, pass)
			out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
			if (err == nil) != tt.ok || tt.ok && !strings.Contains(string(out), "127.0.0.2 "+port(node.place)) {
				t.Errorf("got %q, %v", out, err)
			}
		})
	}
	// What agents look for in the journal: package logins of the agent reads these lines.
	line := regexp.MustCompile(`(?m)^Accepted publickey for \S+ from 127\.0\.0\.1 port \d+ ssh2: ED25519-CERT SHA256:\S{43} ID infractl operator/anna 12 ` +
		`\(serial 7\) CA ED25519 SHA256:\S{43}\r?$`)
	if !line.MatchString(node.log.String()) {
		t.Errorf("sshd tells of logins in another form:\n%s", node.log.String())
	}
}

func signer(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s, string(ssh.MarshalAuthorizedKey(s.PublicKey()))
}

// makePass writes a key with certificates for relay and node; by says who signs that of the relay (true) and of the node.
func makePass(t *testing.T, by map[bool]ssh.Signer, hops ...certificate) (*sshPass, error) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for i, c := range hops {
		cert := &ssh.Certificate{Key: key, Serial: 7, CertType: ssh.UserCert, KeyId: "infractl operator/anna 12", ValidPrincipals: []string{c.principal},
			ValidAfter: uint64(time.Now().Add(c.after).Unix()), ValidBefore: uint64(time.Now().Add(c.till).Unix()),
			Permissions: ssh.Permissions{Extensions: map[string]string{"permit-pty": ""}, CriticalOptions: map[string]string{}}}
		if c.forward {
			cert.Extensions["permit-port-forwarding"] = ""
		}
		if c.from != "" {
			cert.CriticalOptions["source-address"] = c.from
		}
		if err := cert.SignCert(rand.Reader, by[i == 0]); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(ssh.MarshalAuthorizedKey(cert)))
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	p := &sshPass{}
	return p, p.write(pem.EncodeToMemory(block), lines)
}
