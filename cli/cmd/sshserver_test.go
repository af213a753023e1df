package cmd_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/probing/sshtest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// sshServer starts an SSH server that lets the account "operator" in with a key that it writes to a file: sshd KEYFILE
// The answers of the fake then know $SSHPORT and $HOSTKEY. With a second argument it trusts the fake's authority too.
func sshServer(ts *testscript.TestScript, neg bool, args []string) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	block, err := ssh.MarshalPrivateKey(key, "")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(block), 0o600))
	allowed, err := ssh.NewSignerFromKey(key)
	ts.Check(err)
	hostKey, err := sshtest.NewSigner()
	ts.Check(err)
	f := ts.Value(fakeKey{}).(*fake)
	own := sshtest.Only("operator", allowed.PublicKey())
	config := &ssh.ServerConfig{PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if cert, ok := key.(*ssh.Certificate); ok && len(args) > 1 {
			// As with sshd: what the authority says counts, whatever the account's own keys are.
			checker := &ssh.CertChecker{IsUserAuthority: f.isSSHAuthority}
			return nil, checker.CheckCert(meta.User(), cert)
		}
		return own(meta, key)
	}}
	server, err := sshtest.Start(hostKey, config)
	ts.Check(err)
	ts.Defer(server.Close)
	f.set("SSHPORT", strconv.Itoa(server.Port()))
	f.set("HOSTKEY", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(hostKey.PublicKey()))))
	_, port, err := net.SplitHostPort(f.addr)
	ts.Check(err)
	f.set("PORT", port)
}

// sshAuthority is the fake's authority for SSH certificates.
func (f *fake) sshAuthority() (ssh.Signer, error) {
	seed := sha256.Sum256([]byte(f.ca.Fingerprint()))
	return ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed[:]))
}

func (f *fake) isSSHAuthority(key ssh.PublicKey) bool {
	own, err := f.sshAuthority()
	return err == nil && string(key.Marshal()) == string(own.PublicKey().Marshal())
}

// signSSH makes a certificate, as the server does for accounts of the site.
func (f *fake) signSSH(r *v1.SignSshKeyRequest) (*v1.SignSshKeyResponse, error) {
	if r.GetPrincipal() != "operator" {
		return nil, errs.New(errs.Denied, "%q is not one of ssh.users", r.GetPrincipal())
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(r.GetPublicKey()))
	if err != nil {
		return nil, err
	}
	authority, err := f.sshAuthority()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	cert := &ssh.Certificate{Key: key, CertType: ssh.UserCert, KeyId: "infractl operator/anna 12", ValidPrincipals: []string{r.GetPrincipal()},
		ValidAfter: uint64(now.Add(-5 * time.Minute).Unix()), ValidBefore: uint64(now.Add(10 * time.Minute).Unix())}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		return nil, err
	}
	return &v1.SignSshKeyResponse{Certificate: string(ssh.MarshalAuthorizedKey(cert))}, nil
}
