package rollout_test

import (
	"context"

	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

func clearKnownBad(n *fleet.Node) error {
	n.KnownBad = nil
	return nil
}

func auditOf(action string) store.AuditFilter { return store.AuditFilter{Action: action} }

// audited waits for the one entry of an action, which is written after what it tells of, and returns its message.
func (r *rig) audited(action string) string {
	r.t.Helper()
	var entries []store.AuditEntry
	r.eventually("an entry "+action, func() bool {
		var err error
		if entries, err = r.store.ListAudit(context.Background(), auditOf(action)); err != nil {
			r.t.Fatalf("audit: %v", err)
		}
		return len(entries) > 0
	})
	if len(entries) != 1 {
		r.t.Fatalf("%d entries %s, want one", len(entries), action)
	}
	return entries[0].Message
}
