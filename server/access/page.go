package access

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// Page decides who may read a page over HTTP on the main listener: operators of any role, and the scraper of a node for
// which scrapes returns true. state is that of the connection, whose handshake has verified the certificate. What is refused
// is counted and audited; the error says why.
func (g *Gate) Page(ctx context.Context, state tls.ConnectionState, addr, page string, scrapes func(ctx context.Context, node string) (bool, error)) error {
	c := Caller{Address: addr}
	if host, _, err := net.SplitHostPort(addr); err == nil {
		c.Address = host
	}
	c.Actor = "address/" + c.Address
	if len(state.VerifiedChains) > 0 {
		leaf := state.VerifiedChains[0][0]
		if id, err := certs.ParseIdentity(leaf); err == nil {
			c.Identity, c.KeyHash, c.Actor = id, certs.KeyHash(leaf), id.String()
		}
	}
	c, reason, err := g.identify(ctx, c)
	if err == nil {
		reason, err = g.mayRead(ctx, c, scrapes)
	}
	if err != nil {
		g.cfg.Recorder.Refused(ctx, reason, store.AuditEntry{Actor: c.Actor, Role: string(c.Identity.Role), Source: c.Address,
			Action: "GET " + page, Node: c.node(), Result: string(errs.CodeOf(err)), Message: err.Error()})
	}
	return err
}

func (g *Gate) mayRead(ctx context.Context, c Caller, scrapes func(context.Context, string) (bool, error)) (Reason, error) {
	if c.Identity.Kind == certs.KindOperator {
		return "", nil
	}
	service, node, ok := c.Identity.Service()
	if !ok || service != certs.ServicePrometheus {
		return ReasonCaller, errs.New(errs.Denied, "%s may not read this page", c.Actor)
	}
	n, err := g.cfg.Fleet.Node(ctx, node)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return ReasonUnknown, errs.Wrap("look up node", err)
	}
	if err != nil || n.IsRevoked() {
		return ReasonRevoked, errs.New(errs.Denied, "%s is a service of a node that is gone or revoked", c.Actor)
	}
	may, err := scrapes(ctx, node)
	if err != nil {
		return ReasonUnknown, err
	}
	if !may {
		return ReasonCaller, errs.New(errs.Denied, "the site's metrics are not read from %s", node)
	}
	return "", nil
}
