package session

import (
	"context"

	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// confirmer asks over a connection of its own, made for each call and closed after it: the session's connection proves
// nothing after a firewall change.
type confirmer struct{ session *Session }

// Confirm implements Confirmer.
func (c confirmer) Confirm(ctx context.Context, req *v1.ConfirmRequest) (*v1.ConfirmResponse, error) {
	const op = "confirm"
	config, id, err := c.session.clientTLS()
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	conn, err := enrol.Dial(id.Servers, 0, config)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	defer conn.Close()
	response, err := v1.NewSessionServiceClient(conn).Confirm(ctx, req)
	if err != nil {
		return nil, errs.Wrap(op, errs.FromGRPC(err))
	}
	return response, nil
}
