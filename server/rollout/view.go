package rollout

import (
	"context"
	"net/netip"
	"time"

	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/revision"
)

// Revisions knows what is wanted; FromRevisions makes one.
type Revisions interface {
	// Current returns the newest site revision, 0 when there is none.
	Current(ctx context.Context) (uint64, error)
	// View returns what a revision wants, with the present resources. A view must not be changed.
	View(ctx context.Context, number uint64) (*View, error)
}

// View is what a rollout knows of one revision.
type View struct {
	// Revision and Resources number the wish.
	Revision, Resources uint64
	// Window is the time that a commit has to be confirmed.
	Window time.Duration
	// HaltAfter is how many nodes may fail before a rollout halts.
	HaltAfter int
	// Order are the names of the nodes.
	Order []string
	// Nodes are by name.
	Nodes map[string]ViewNode
	// Server is where sessions reach the server.
	Server netip.AddrPort
	// NotManaged are the sections of the site file that this version does not manage yet.
	NotManaged []string
	// Waves returns the order in which nodes change; nil means all nodes.
	Waves func(only []string) []site.Wave
}

// ViewNode is one node of a view.
type ViewNode struct {
	// Spec is the wish, Content its bytes, Digest their digest.
	Spec    *v1.HostSpec
	Content []byte
	Digest  string
	// Role is what the node is; budgets are by role.
	Role string
	// Address is where other nodes find it.
	Address netip.Addr
	// Critical says that never two such nodes change at once: router, relay, supervision, the server's own.
	Critical bool
	// Witnesses are the proofs that a lockout commit needs.
	Witnesses []site.Witness
}

// FromRevisions returns the Revisions that are kept in r.
func FromRevisions(r *revision.Revisions) Revisions { return revisions{r} }

type revisions struct{ *revision.Revisions }

func (r revisions) View(ctx context.Context, number uint64) (*View, error) {
	d, err := r.Derive(ctx, number)
	if err != nil {
		return nil, err
	}
	return ViewOf(d), nil
}

// ViewOf returns the view of what was derived.
func ViewOf(d *revision.Derived) *View {
	s := d.Site
	v := &View{
		Revision: d.Revision, Resources: d.Resources, Window: s.Rollout.Window, HaltAfter: s.Rollout.HaltAfter, Order: s.NodeNames(),
		Nodes: make(map[string]ViewNode, len(s.Nodes)), Waves: s.Waves, NotManaged: s.NotManaged,
	}
	if n := s.ServerNode(); n != nil {
		v.Server = netip.AddrPortFrom(n.MainAddress(), s.Server.Port)
	}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		spec := d.Specs[n.Name]
		v.Nodes[n.Name] = ViewNode{
			Spec: spec.Spec, Content: spec.Content, Digest: spec.Digest,
			Role: n.Role, Address: n.MainAddress(), Critical: critical(s, n), Witnesses: s.Witnesses(n.Name),
		}
	}
	return v
}

func critical(s *site.Site, n *site.Node) bool {
	switch n.Role {
	case site.RoleRouter, site.RoleRelay, site.RoleSupervision:
		return true
	}
	for _, name := range s.Server.Nodes {
		if name == n.Name {
			return true
		}
	}
	return false
}
