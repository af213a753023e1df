package sessiontest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// RevokedError is the answer to the certificate with the given serial number once it was revoked, with its signed notice.
func (s *Server) RevokedError(t testing.TB, serial string) error {
	return s.RevokedKeyError(t, serial, "")
}

// RevokedKeyError is the same for a key, whatever certificate was made for it.
func (s *Server) RevokedKeyError(t testing.TB, serial, key string) error {
	t.Helper()
	signed, err := s.Authority.SignNotice(serial, key)
	if err != nil {
		t.Fatal(err)
	}
	st, err := status.New(codes.PermissionDenied, "revoked").WithDetails(&v1.RevocationNotice{Site: Site, Serial: serial,
		Time: timestamppb.New(s.Clock.Now()), Signature: signed})
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

// Challenge implements the service.
func (s *Server) Challenge(context.Context, *v1.ChallengeRequest) (*v1.ChallengeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nonce = make([]byte, 32)
	if _, err := rand.Read(s.nonce); err != nil {
		return nil, err
	}
	return &v1.ChallengeResponse{Nonce: s.nonce, ServerTime: timestamppb.New(s.Clock.Now())}, nil
}

// Recover implements the service. It checks the signature with the request's key and the counter, and nothing else.
func (s *Server) Recover(_ context.Context, r *v1.RecoverRequest) (*v1.RecoverResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.RecoverError != nil {
		return nil, errs.ToGRPC(s.RecoverError)
	}
	csr, err := x509.ParseCertificateRequest(r.GetCsr())
	if err != nil {
		return nil, err
	}
	text := append([]byte("infractl recover\n"+r.GetNode()+"\n"), s.nonce...)
	digest := sha256.Sum256(binary.BigEndian.AppendUint64(text, r.GetJoinCounter()))
	if !bytes.Equal(r.GetNonce(), s.nonce) || !ecdsa.VerifyASN1(csr.PublicKey.(*ecdsa.PublicKey), digest[:], r.GetSignature()) {
		return nil, errs.ToGRPC(errs.New(errs.Unauthenticated, "wrong signature"))
	}
	if r.GetJoinCounter() != s.counter {
		return nil, errs.ToGRPC(errs.New(errs.Denied, "join counter %d, not %d", r.GetJoinCounter(), s.counter))
	}
	given, err := s.Issue(r.GetCsr(), r.GetNode())
	if err != nil {
		return nil, err
	}
	s.counter++
	s.recovers++
	return &v1.RecoverResponse{Identity: given, JoinCounter: s.counter, ServerTime: timestamppb.New(s.Clock.Now())}, nil
}
