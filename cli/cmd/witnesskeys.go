package cmd

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// A commit waits while a certificate is asked for, so it is not waited for long; one that could not be had is asked for again
// later, one that was had is used until shortly before its end.
const (
	passTimeout = 2 * time.Second
	passRetry   = 30 * time.Second
	passSpare   = time.Minute
)

// witnessPass is a certificate for one account of one node, or why there is none; it counts until a time.
type witnessPass struct {
	signer ssh.Signer
	err    error
	until  time.Time
}

// loginKeys are the keys for the logins of one look: a certificate where the server gives one, then the operator's own keys for a
// host that does not trust the authority. A key that was named is used alone, as in infractl ssh.
type loginKeys struct {
	w      *witness
	passes map[string]ssh.Signer // by account

	mu sync.Mutex
	// certified are probes, by id, in whose login the certificate was taken.
	certified map[string]bool
}

// loginKeys asks for the certificates before anything is opened: a probe has no time to wait for the server.
func (w *witness) loginKeys(ctx context.Context, req *v1.WitnessRequest) *loginKeys {
	k := &loginKeys{w: w, passes: map[string]ssh.Signer{}, certified: map[string]bool{}}
	if w.people == nil || w.identity != "" {
		return k
	}
	asked := map[string]bool{}
	for _, p := range req.GetProbes() {
		account := p.GetUser()
		if p.GetKind() != v1.ProbeKind_PROBE_KIND_SSH_LOGIN || account == "" || asked[account] {
			continue
		}
		asked[account] = true
		pass, fresh := w.pass(ctx, account, req.GetNode())
		if pass.err == nil {
			k.passes[account] = pass.signer
		} else if fresh {
			w.note("note: no SSH certificate for %s@%s, so that your own key is used: %v", account, req.GetNode(), pass.err)
		}
	}
	return k
}

// pass returns the certificate for an account of a node, and whether the server was asked for it now.
func (w *witness) pass(ctx context.Context, account, node string) (pass witnessPass, fresh bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := account + "@" + node
	if have, ok := w.passes[key]; ok && time.Now().Before(have.until) {
		return have, false
	}
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	if pass.signer, pass.err = certifiedSigner(ctx, w.people, account, node); pass.err == nil {
		pass.until = time.Now().Add(passLife(pass.signer))
	} else {
		pass.until = time.Now().Add(passRetry)
	}
	if w.passes == nil {
		w.passes = map[string]witnessPass{}
	}
	w.passes[key] = pass
	return pass, true
}

// passLife is how long a certificate is used. Its length counts, not its end: that is by the server's clock.
func passLife(s ssh.Signer) time.Duration {
	cert, ok := s.PublicKey().(*ssh.Certificate)
	if !ok || cert.ValidBefore <= cert.ValidAfter || cert.ValidBefore-cert.ValidAfter > 24*3600 {
		return passRetry
	}
	// Half of it may lie in the past: it is valid from before it was made.
	return max(passRetry, time.Duration(cert.ValidBefore-cert.ValidAfter)*time.Second/2-passSpare)
}

// certifiedSigner makes a key in memory and has the server sign it.
func certifiedSigner(ctx context.Context, people v1.OperatorServiceClient, account, node string) (ssh.Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, errs.Wrap("make SSH key", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, errs.Wrap("make SSH key", err)
	}
	answer, err := people.SignSshKey(ctx, &v1.SignSshKeyRequest{
		PublicKey: string(ssh.MarshalAuthorizedKey(signer.PublicKey())), Principal: account, Node: node})
	if err != nil {
		return nil, errs.FromGRPC(err)
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(answer.GetCertificate()))
	cert, ok := public.(*ssh.Certificate)
	if err != nil || !ok {
		return nil, errs.New(errs.Invalid, "the server's answer is no SSH certificate")
	}
	certified, err := ssh.NewCertSigner(cert, signer)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the server's certificate is for another key")
	}
	return certified, nil
}

// signers are the keys for the login of a probe.
func (k *loginKeys) signers(p *v1.Probe) ([]ssh.Signer, error) {
	own, err := k.w.own()
	pass := k.passes[p.GetUser()]
	if pass == nil {
		return own, err
	}
	return append([]ssh.Signer{&takenSigner{Signer: pass, taken: func() { k.take(p.GetId()) }}}, own...), nil
}

func (k *loginKeys) take(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.certified[id] = true
}

// by says with what a login went well, as the audit log will.
func (k *loginKeys) by(p *v1.Probe, o *v1.ProbeObservation) string {
	if p.GetKind() != v1.ProbeKind_PROBE_KIND_SSH_LOGIN || o.GetOutcome() != v1.ProbeOutcome_PROBE_OUTCOME_OPEN {
		return ""
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.certified[p.GetId()] {
		return ", with a certificate"
	}
	return ", with your own key (break-glass)"
}

// takenSigner tells when it signs: a server lets a client sign with a key that it takes, and with no other.
type takenSigner struct {
	ssh.Signer
	taken func()
}

// Sign implements ssh.Signer.
func (s *takenSigner) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	s.taken()
	return s.Signer.Sign(r, data)
}

// own loads the operator's SSH keys at the first login.
func (w *witness) own() ([]ssh.Signer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.keys == nil {
		keys, err := loadSSHKeys(w.identity)
		if err != nil {
			return nil, err
		}
		w.keys = keys
		for _, n := range keys.notes {
			w.note("%s", n)
		}
	}
	return w.keys.signers, nil
}
