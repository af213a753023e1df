package access

import (
	"context"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// unknownOperator is the answer to an operator whose key this server does not know: somebody who was removed, or who logged in
// after the backup that the server was restored from.
func (g *Gate) unknownOperator(ctx context.Context, c Caller) error {
	err := errs.New(errs.Unauthenticated, "this server has no record of %s with this key", c.Actor)
	state, serr := g.cfg.Fleet.ServerState(ctx)
	if serr != nil || state.Restore == nil {
		return err.WithHint("ask an admin for a login code: infractl operator add %s; then: infractl login", c.Identity.Name)
	}
	return err.WithHint("the server was restored from a backup of %s, which knows no later login: log in again with an admin code "+
		"(on the server: infractl-server admin-code), or with a code from an admin (infractl operator add %s); then: infractl login",
		state.Restore.Backup.UTC().Format(time.RFC3339), c.Identity.Name)
}
