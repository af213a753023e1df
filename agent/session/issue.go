package session

import (
	"context"
	"crypto/x509"

	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Issue asks the server for a certificate of a service of this node, over a connection of its own.
func (s *Session) Issue(ctx context.Context, purpose v1.Purpose, csr []byte) (*v1.IssueCertificateResponse, error) {
	const op = "ask for a service's certificate"
	config, id, err := s.clientTLS()
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	conn, err := enrol.Dial(id.Servers, 0, config)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	answer, err := v1.NewSessionServiceClient(conn).IssueCertificate(ctx, &v1.IssueCertificateRequest{Purpose: purpose, Csr: csr})
	if err != nil {
		return nil, errs.Wrap(op, errs.FromGRPC(err))
	}
	if mine, err := certs.DecodeCerts(id.RootPEM); err != nil || !sameRoot(mine, answer.GetRootPem()) {
		return nil, errs.Wrap(op, errs.New(errs.Internal, "the answer comes with another root"))
	}
	return answer, nil
}

func sameRoot(mine []*x509.Certificate, pem []byte) bool {
	theirs, err := certs.DecodeCerts(pem)
	return err == nil && len(theirs) == 1 && len(mine) > 0 && theirs[0].Equal(mine[0])
}
