package access

import (
	"context"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
)

// identify asks the store about the caller, at every call: a connection outlives both its certificate and the
// trust in it.
func (g *Gate) identify(ctx context.Context, c Caller) (Caller, Reason, error) {
	if c.Identity.Kind == "" {
		return c, ReasonCaller, errs.New(errs.Unauthenticated, "the call comes without a certificate")
	}
	if !g.cfg.Clock.Now().Before(c.Identity.NotAfter) {
		return c, ReasonExpired, errs.New(errs.Unauthenticated, "the certificate of %s has expired", c.Actor)
	}
	revoked, err := g.cfg.Fleet.Revoked.Get(ctx, c.KeyHash)
	switch {
	case err == nil:
		err = RevokedError(g.cfg.Authority, c.Identity.Serial, c.KeyHash, revoked.Value.Identity)
		return c, ReasonRevoked, err
	case !errs.Is(err, errs.NotFound):
		return c, ReasonUnknown, errs.Wrap("look up revocation", err)
	}
	switch c.Identity.Kind {
	case certs.KindNode:
		return g.identifyNode(ctx, c)
	case certs.KindOperator:
		return g.identifyOperator(ctx, c)
	case certs.KindService: // nothing of it is stored; its node is looked up where it may do something at all
		return c, "", nil
	}
	return c, ReasonCaller, errs.New(errs.Denied, "%s is no client", c.Actor)
}

func (g *Gate) identifyNode(ctx context.Context, c Caller) (Caller, Reason, error) {
	n, err := g.cfg.Fleet.Node(ctx, c.Identity.Name)
	if err == nil && n.KeyHash == c.KeyHash {
		return c, "", nil
	}
	if err != nil && !errs.Is(err, errs.NotFound) {
		return c, ReasonUnknown, errs.Wrap("look up node", err)
	}
	// A server that was put back from an older backup sees this for a while. It is no revocation, and the agent goes on
	// trying.
	return c, ReasonUnknown, errs.New(errs.Precondition, "this server has no record of %s with this key", c.Actor).
		WithHint("put a newer copy of the server's data back, or enrol the machine anew: stop infractl-agent there, move "+
			"/var/lib/infractl/identity away, write a token (infractl token create --node %s) to /etc/infractl/join-token, start it",
			c.Identity.Name)
}

func (g *Gate) identifyOperator(ctx context.Context, c Caller) (Caller, Reason, error) {
	op, err := g.cfg.Fleet.Operators.Get(ctx, c.Identity.Name)
	if err == nil && op.Value.KeyHash == c.KeyHash && op.Value.Revoked.IsZero() {
		c.Identity.Role = op.Value.Role // the stored role holds at once, not only in the next certificate
		g.noteSeen(ctx, op.Value)
		return c, "", nil
	}
	if err != nil && !errs.Is(err, errs.NotFound) {
		return c, ReasonUnknown, errs.Wrap("look up operator", err)
	}
	return c, ReasonUnknown, g.unknownOperator(ctx, c)
}

// seenEvery is how far an operator's LastSeen may be behind: not every call is worth a write.
const seenEvery = 5 * time.Minute

func (g *Gate) noteSeen(ctx context.Context, op fleet.Operator) {
	now := g.cfg.Clock.Now()
	if now.Sub(op.LastSeen).Abs() < seenEvery {
		return
	}
	_, err := g.cfg.Fleet.Operators.Update(ctx, op.Name, func(o *fleet.Operator) error {
		o.LastSeen = now
		return nil
	})
	if err != nil {
		g.cfg.Log.Debug("last-seen time of an operator not written", "operator", op.Name, "error", err)
	}
}

// RevokedError is the answer to whoever holds a revoked certificate: the signed notice rides on it as a status detail, and
// is what makes an agent give its identity up. Its Signature is the whole of what certs.Authority.SignNotice returns, for
// certs.VerifyNotice; the other fields repeat it for people.
func RevokedError(authority *certs.Authority, serial, key, identity string) error {
	base := errs.New(errs.Revoked, "%s was revoked", identity).WithHint("enrol or log in again with a new key")
	signed, err := authority.SignNotice(serial, key)
	if err != nil {
		return errs.Wrap("sign revocation notice", err)
	}
	notice, err := certs.VerifyNotice(authority.RootPEM(), authority.Site(), serial, key, signed)
	if err != nil {
		return errs.Wrap("sign revocation notice", err)
	}
	st, err := status.Convert(errs.ToGRPC(base)).WithDetails(&v1.RevocationNotice{
		Site: notice.Site, Serial: notice.Serial, Time: timestamppb.New(notice.Time),
		Signature: signed, IssuerPem: certs.EncodeCerts(authority.Issuing()),
	})
	if err != nil {
		return errs.Wrap("sign revocation notice", err)
	}
	return st.Err()
}
