package enrol

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Refresh asks the enrolment listener for the server's time and corrects the clock. If the certificate has expired by that
// time, it proves that it holds the bound key and stores the new identity as the candidate; renewed says so. Errors keep
// the status that came over gRPC, for a notice of revocation may be in it.
func (s *Store) Refresh(ctx context.Context, id *Identity, fingerprint *v1.HostFingerprint, try int) (renewed bool, err error) {
	const op = "recover the identity"
	roots, err := certs.DecodeCerts(id.RootPEM)
	if err != nil {
		return false, errs.Wrap(op, err)
	}
	root := certs.FingerprintOf(roots[0])
	conn, err := dialPinned(id.Enrol, try, root, id.Identity.Site)
	if err != nil {
		return false, errs.Wrap(op, err)
	}
	defer conn.Close()
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	challenge, err := conn.Challenge(ctx, &v1.ChallengeRequest{Node: id.Identity.Name})
	if err != nil {
		return false, errs.Wrap(op, errs.FromGRPC(err))
	}
	if challenge.GetServerTime() == nil {
		return false, errs.Wrap(op, errs.New(errs.Internal, "the server's answer has no time"))
	}
	if err := conn.follow(s.clock, challenge.GetServerTime().AsTime()); err != nil {
		return false, errs.Wrap(op, err)
	}
	if err := s.SaveClock(); err != nil {
		return false, errs.Wrap(op, err)
	}
	if !s.clock.Now().After(id.Leaf.NotAfter) {
		return false, nil
	}
	csr, err := certs.MakeCSR(id.Key())
	if err != nil {
		return false, errs.Wrap(op, err)
	}
	counter := s.JoinCounter()
	signature, err := id.Key().Sign(rand.Reader, RecoverDigest(id.Identity.Name, challenge.GetNonce(), counter), crypto.SHA256)
	if err != nil {
		return false, errs.Wrap(op, err)
	}
	answer, err := conn.Recover(ctx, &v1.RecoverRequest{Node: id.Identity.Name, Nonce: challenge.GetNonce(), Csr: csr,
		Signature: signature, JoinCounter: counter, Fingerprint: fingerprint})
	if err != nil {
		return false, errs.Wrap(op, errs.FromGRPC(err))
	}
	given := answer.GetIdentity()
	if given.GetSite() != id.Identity.Site || given.GetNode() != id.Identity.Name {
		return false, errs.Wrap(op, errs.New(errs.Internal, "the server's answer is for another node"))
	}
	if len(given.GetEnrolAddresses()) == 0 {
		given.EnrolAddresses = id.Enrol
	}
	if _, err := s.Propose(id.Key(), given, root, answer.GetJoinCounter()); err != nil {
		return false, errs.Wrap(op, err)
	}
	return true, nil
}

// RecoverDigest is what a RecoverRequest signs.
func RecoverDigest(node string, nonce []byte, counter uint64) []byte {
	text := append([]byte("infractl recover\n"+node+"\n"), nonce...)
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(text, counter))
	return sum[:]
}
