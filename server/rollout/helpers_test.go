package rollout_test

import (
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

func clearKnownBad(n *fleet.Node) error {
	n.KnownBad = nil
	return nil
}

func auditOf(action string) store.AuditFilter { return store.AuditFilter{Action: action} }
