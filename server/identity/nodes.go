package identity

import (
	"context"
	"strings"
	"time"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// Nodes is the NodeService.
type Nodes struct {
	v1.UnimplementedNodeServiceServer
	cfg      Config
	measured measurements
}

// NewNodes returns the service.
func NewNodes(cfg Config) *Nodes { return &Nodes{cfg: cfg} }

// minPrefix is the shortest beginning of an enrolment id that names one.
const minPrefix = 4

// waiting returns the enrolment that waits under an id, a beginning of it that names just one, or a node's name.
func (s *Nodes) waiting(ctx context.Context, text string) (store.Item[fleet.Enrolment], error) {
	items, err := s.cfg.Fleet.Enrolments.List(ctx, store.ListOptions{})
	if err != nil {
		return store.Item[fleet.Enrolment]{}, err
	}
	var found []store.Item[fleet.Enrolment]
	for _, it := range items {
		en := it.Value
		if en.State != fleet.EnrolmentIssued &&
			(en.Node == text || (len(text) >= minPrefix && strings.HasPrefix(en.ID, text))) {
			found = append(found, it)
		}
	}
	switch len(found) {
	case 0:
		return store.Item[fleet.Enrolment]{}, errs.New(errs.NotFound, "no machine waits as %.64q", text).WithHint("infractl node list")
	case 1:
		return found[0], nil
	default:
		return store.Item[fleet.Enrolment]{}, errs.New(errs.Invalid, "%d machines wait as %.64q", len(found), text).
			WithHint("give more of the enrolment id; infractl node list -o json shows it")
	}
}

// ApproveNode implements NodeService. Besides an enrolment it takes the id of a machine that was set aside, which puts that
// machine in the node's place, and the name of a node whose join counter this server is behind of.
func (s *Nodes) ApproveNode(ctx context.Context, req *v1.ApproveNodeRequest) (*v1.ApproveNodeResponse, error) {
	id := req.GetEnrolmentId()
	if id == "" || len(id) > 64 {
		return nil, errs.New(errs.Invalid, "name the enrolment").WithHint("infractl node list")
	}
	if a, err := s.aside(ctx, id); err == nil {
		return s.approveAside(ctx, a)
	} else if !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	it, err := s.waiting(ctx, id)
	if errs.Is(err, errs.NotFound) {
		if n, nerr := s.cfg.Fleet.UpdateNode(ctx, id, func(n *fleet.Node) error { n.JumpEpoch = -1; return nil }); nerr == nil {
			return &v1.ApproveNodeResponse{Node: s.message(n)}, nil
		}
	}
	if err != nil {
		return nil, err
	}
	name := it.Value.Node
	if req.GetName() != "" {
		name = req.GetName()
	}
	if err := certs.ValidateName("node", name); err != nil {
		return nil, err
	}
	if n, err := s.cfg.Fleet.Node(ctx, name); err == nil && n.IsRevoked() {
		return nil, errs.New(errs.Precondition, "the node was revoked").At("node "+name).
			WithHint("to let a new machine have its name: infractl node forget %s", name)
	}
	updated, err := s.cfg.Fleet.Enrolments.Update(ctx, it.Name, func(en *fleet.Enrolment) error {
		if en.State == fleet.EnrolmentIssued {
			return errs.New(errs.Conflict, "it has an identity by now")
		}
		en.State, en.Node = fleet.EnrolmentApproved, name
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &v1.ApproveNodeResponse{Node: s.pendingMessage(updated.Value)}, nil
}

func (s *Nodes) aside(ctx context.Context, id string) (fleet.SetAside, error) {
	all, err := s.cfg.Fleet.AllSetAsides(ctx)
	if err != nil {
		return fleet.SetAside{}, err
	}
	for _, a := range all {
		if a.ID == id {
			return a, nil
		}
	}
	return fleet.SetAside{}, errs.New(errs.NotFound, "no machine is set aside as %.64q", id)
}

// approveAside puts a machine that was set aside in the node's place; the other one is set aside when it comes next.
func (s *Nodes) approveAside(ctx context.Context, a fleet.SetAside) (*v1.ApproveNodeResponse, error) {
	n, err := s.cfg.Fleet.UpdateNode(ctx, a.Node, func(n *fleet.Node) error {
		if a.Fingerprint.M != nil {
			n.Fingerprint = a.Fingerprint
		}
		if a.Counter != 0 {
			n.KnownCounter, n.JoinCounter = a.Counter, max(a.Counter, n.JoinCounter)
		}
		n.Alarm, n.FormerBoots = "", nil
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Fleet.SetAsides.Delete(ctx, a.ID, store.Any); err != nil {
		return nil, err
	}
	s.cfg.Hub.Cut(a.Node)
	return &v1.ApproveNodeResponse{Node: s.message(n)}, nil
}

// ClearNode implements NodeService. Without a hash it also clears the node's alarm and its count of recoveries.
func (s *Nodes) ClearNode(ctx context.Context, req *v1.ClearNodeRequest) (*v1.ClearNodeResponse, error) {
	var cleared []string
	_, err := s.cfg.Fleet.UpdateNode(ctx, req.GetName(), func(n *fleet.Node) error {
		cleared = nil
		var kept []fleet.KnownBad
		for _, bad := range n.KnownBad {
			if req.GetHash() == "" || (len(req.GetHash()) >= minPrefix && strings.HasPrefix(bad.Hash, req.GetHash())) {
				cleared = append(cleared, bad.Hash)
			} else {
				kept = append(kept, bad)
			}
		}
		n.KnownBad = kept
		if req.GetHash() == "" {
			n.Alarm, n.Recoveries = "", 0
		}
		return nil
	})
	if err != nil {
		return nil, unknownNode(req.GetName(), err)
	}
	return &v1.ClearNodeResponse{Cleared: cleared}, nil
}

// RevokeNode implements NodeService: the key is withdrawn for good, and with it every certificate made for it.
func (s *Nodes) RevokeNode(ctx context.Context, req *v1.RevokeNodeRequest) (*v1.RevokeNodeResponse, error) {
	if len(req.GetReason()) > 500 {
		return nil, errs.New(errs.Invalid, "the reason has more than 500 bytes")
	}
	err := fleet.Retry(ctx, func() error {
		it, err := s.cfg.Fleet.NodeTable.Get(ctx, req.GetName())
		if err != nil {
			return err
		}
		n := it.Value
		if n.IsRevoked() {
			return nil
		}
		n.Revoked, n.RevokedReason = s.cfg.Clock.Now(), req.GetReason()
		node, err := s.cfg.Fleet.NodeTable.PutOp(n.Name, n, it.Revision)
		if err != nil {
			return err
		}
		rev, err := s.cfg.Fleet.Revoked.PutOp(n.KeyHash, fleet.Revocation{Identity: "node/" + n.Name, Time: n.Revoked,
			Reason: req.GetReason()}, store.Any)
		if err != nil {
			return err
		}
		return s.cfg.Fleet.Write(ctx, node, rev)
	})
	if err != nil {
		return nil, unknownNode(req.GetName(), err)
	}
	s.cfg.Hub.Cut(req.GetName())
	s.cfg.Log.Warn("node revoked", "node", req.GetName(), "operator", callerName(ctx), "reason", req.GetReason())
	return &v1.RevokeNodeResponse{}, nil
}

// ForgetNode implements NodeService. That the key was revoked is never forgotten.
func (s *Nodes) ForgetNode(ctx context.Context, req *v1.ForgetNodeRequest) (*v1.ForgetNodeResponse, error) {
	name := req.GetName()
	if a, err := s.aside(ctx, name); err == nil {
		return &v1.ForgetNodeResponse{}, s.cfg.Fleet.SetAsides.Delete(ctx, a.ID, store.Any)
	}
	it, err := s.cfg.Fleet.NodeTable.Get(ctx, name)
	if errs.Is(err, errs.NotFound) {
		en, err := s.waiting(ctx, name)
		if err != nil {
			return nil, err
		}
		return &v1.ForgetNodeResponse{}, s.cfg.Fleet.Enrolments.Delete(ctx, en.Name, en.Revision)
	}
	if err != nil {
		return nil, err
	}
	if !it.Value.IsRevoked() {
		return nil, errs.New(errs.Precondition, "the node still has its identity").At("node "+name).
			WithHint("infractl node revoke %s", name)
	}
	ops := []store.Op{store.Delete{Kind: fleet.KindNode, Name: name, Expect: it.Revision}}
	if it.Value.EnrolmentID != "" {
		ops = append(ops, store.Delete{Kind: fleet.KindEnrolment, Name: it.Value.EnrolmentID, Expect: store.Any})
	}
	asides, err := s.cfg.Fleet.SetAsidesOf(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, a := range asides {
		ops = append(ops, store.Delete{Kind: fleet.KindSetAside, Name: a.ID, Expect: store.Any})
	}
	return &v1.ForgetNodeResponse{}, s.cfg.Fleet.Write(ctx, ops...)
}

func unknownNode(name string, err error) error {
	if errs.Is(err, errs.NotFound) {
		return errs.New(errs.NotFound, "no node %.64q has enrolled", name).WithHint("infractl node list")
	}
	return err
}

// seen returns when a node was last heard, and its skew, whichever of memory and record is newer.
func (s *Nodes) seen(n fleet.Node) (time.Time, time.Duration) {
	if at, skew := s.cfg.Hub.LastSeen(n.Name); !at.IsZero() && (!at.Before(n.LastSeen) || n.LastSeen.After(s.cfg.Clock.Now())) {
		return at, skew
	}
	return n.LastSeen, n.Skew
}
