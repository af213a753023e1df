package identity

import (
	"context"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
)

// ResumeNode implements NodeService: a node that was paused after a restore of the server is managed again. What the server
// wants now is applied to it by the next rollout, even where the node once kept something newer.
func (s *Nodes) ResumeNode(ctx context.Context, req *v1.ResumeNodeRequest) (*v1.ResumeNodeResponse, error) {
	n, err := s.cfg.Fleet.Resume(ctx, req.GetName())
	if err != nil {
		return nil, unknownNode(req.GetName(), err)
	}
	s.cfg.Hub.Touched(req.GetName())
	s.cfg.Log.Info("node resumed", "node", req.GetName(), "operator", callerName(ctx))
	return &v1.ResumeNodeResponse{Node: s.message(n)}, nil
}

// restoredState says how a node stands after a restore of the server; it changes nothing where there was none.
func restoredState(m *v1.Node, n fleet.Node) {
	switch {
	case n.Paused != "":
		m.State, m.Message = v1.NodeState_NODE_STATE_CONFLICT_PAUSED, n.Held()
	case !n.Awaited.IsZero():
		m.State = v1.NodeState_NODE_STATE_AWAITING_RECONNECT
	}
}
