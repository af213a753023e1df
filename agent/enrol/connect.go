package enrol

import (
	"context"
	"crypto"
	"crypto/x509"
	"sync/atomic"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// callTimeout bounds one call of the enrolment service with its connection.
const callTimeout = 15 * time.Second

type signer = crypto.Signer

// pinned is a connection to an enrolment listener, checked by the root's fingerprint alone.
type pinned struct {
	*Conn
	v1.EnrolmentServiceClient
	chain atomic.Pointer[[]*x509.Certificate]
}

func dialPinned(addresses []string, first int, fingerprint, site string) (*pinned, error) {
	p := &pinned{}
	config := mtls.PinnedClientConfig(mtls.PinnedOptions{Fingerprint: fingerprint, Site: site,
		Chain: func(chain []*x509.Certificate) { p.chain.Store(&chain) }})
	conn, err := Dial(addresses, first, config)
	if err != nil {
		return nil, err
	}
	p.Conn, p.EnrolmentServiceClient = conn, v1.NewEnrolmentServiceClient(conn)
	return p, nil
}

// follow checks the server's certificates against the server's own time and corrects the clock. That time comes from a
// server whose chain ends in the pinned root, so that it is to be trusted more than a clock that nobody set yet.
func (p *pinned) follow(clk *Clock, server time.Time) error {
	chain := p.chain.Load()
	if chain == nil {
		return errs.New(errs.Unauthenticated, "the server has shown no certificate")
	}
	if err := mtls.CheckValidity(*chain, server); err != nil {
		return err
	}
	clk.Follow(server)
	return nil
}

// withTimeout bounds a call.
func withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callTimeout)
}
