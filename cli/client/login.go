package client

import (
	"context"
	"crypto/x509"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/jointoken"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// redeemTries is how often a login is tried whose answer may have been lost: the server answers the same key alike.
const redeemTries = 3

// Redeem exchanges an operator's login code for an identity. The server must show a chain that ends in the root that the code
// pins. It returns the server's time, too.
func Redeem(ctx context.Context, code *jointoken.Token, key *KeyAndCSR, timeout time.Duration) (*v1.OperatorIdentity, time.Time, error) {
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	var failed error
	for range redeemTries {
		for _, addr := range code.Addresses {
			answer, chain, err := redeemAt(ctx, addr, code, key, timeout)
			if err == nil {
				now := answer.GetServerTime().AsTime()
				return answer.GetIdentity(), now, checkAnswer(answer, chain, code, now)
			}
			if ctx.Err() != nil {
				return nil, time.Time{}, ctx.Err()
			}
			failed = err
			if !errs.Is(err, errs.Unavailable) && !errs.Is(err, errs.Timeout) {
				return nil, time.Time{}, err
			}
		}
	}
	return nil, time.Time{}, failed
}

func redeemAt(ctx context.Context, addr string, code *jointoken.Token, key *KeyAndCSR, timeout time.Duration) (*v1.LoginOperatorResponse, []*x509.Certificate, error) {
	var mu sync.Mutex
	var chain []*x509.Certificate
	cfg := mtls.PinnedClientConfig(mtls.PinnedOptions{Fingerprint: code.Fingerprint, Site: code.Site, Chain: func(c []*x509.Certificate) {
		mu.Lock()
		defer mu.Unlock()
		chain = c
	}})
	conn, err := dial(ctx, addr, timeout, cfg)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*timeout)
	defer cancel()
	answer, err := v1.NewEnrolmentServiceClient(conn).LoginOperator(ctx, &v1.LoginOperatorRequest{CodeId: code.ID,
		CodeSecret: code.Secret.Reveal(), Csr: key.CSR}, grpc.WaitForReady(false))
	mu.Lock()
	defer mu.Unlock()
	return answer, chain, errs.FromGRPC(err)
}

// checkAnswer makes sure that the identity hangs on the root that the code pins, and that the server's certificates were good at
// its own time: this machine's clock may be wrong.
func checkAnswer(answer *v1.LoginOperatorResponse, chain []*x509.Certificate, code *jointoken.Token, now time.Time) error {
	if err := mtls.CheckValidity(chain, now); err != nil {
		return err
	}
	roots, err := certs.DecodeCerts(answer.GetIdentity().GetRootPem())
	if err != nil {
		return errs.Wrap("read the server's answer", err)
	}
	if len(roots) != 1 || certs.FingerprintOf(roots[0]) != code.Fingerprint || answer.GetIdentity().GetSite() != code.Site {
		return errs.New(errs.Unauthenticated, "the server's answer is not of the site that the code is for").WithHint("ask an admin for a new code")
	}
	return nil
}
