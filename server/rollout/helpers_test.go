package rollout_test

import "github.com/infractl/infractl/server/fleet"

func clearKnownBad(n *fleet.Node) error {
	n.KnownBad = nil
	return nil
}
