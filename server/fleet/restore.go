package fleet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// Restore is when the server's state was put back from a backup, and what that backup knew.
type Restore struct {
	// Time is when it was put back, Backup when the backup was made, by the server's clock of then.
	Time   time.Time `json:"time"`
	Backup time.Time `json:"backup"`
	// ID names the backup.
	ID string `json:"id"`
	// SiteRevision and ResourceRevision were the newest.
	SiteRevision     uint64 `json:"site_revision"`
	ResourceRevision uint64 `json:"resource_revision"`
}

// Restored begins a new epoch: join counters may jump forward once, and nothing is applied to any node before it was heard.
func (f *Fleet) Restored(ctx context.Context, r Restore) error {
	const op = "mark the restore"
	items, err := f.NodeTable.List(ctx, store.ListOptions{})
	if err != nil {
		return errs.Wrap(op, err)
	}
	ops := make([]store.Op, 0, len(items))
	for _, it := range items {
		n := it.Value
		if n.IsRevoked() {
			continue
		}
		n.Awaited, n.Paused = r.Time, ""
		put, err := f.NodeTable.PutOp(n.Name, n, it.Revision)
		if err != nil {
			return errs.Wrap(op, err)
		}
		ops = append(ops, put)
	}
	for chunk := range slices.Chunk(ops, store.MaxOps) {
		if err := f.Write(ctx, chunk...); err != nil {
			return errs.Wrap(op, err)
		}
	}
	return errs.Wrap(op, f.updateServer(ctx, func(s *ServerState) {
		s.Restores++
		s.Restore = &r
	}))
}

// Heard notes the first report of an awaited node: from here on it is managed again, or it is paused because it knows of
// something newer than the backup did. It reports whether n changed. A probe has no state, and is never paused.
func (r *Restore) Heard(n *Node, state *v1.HostState) bool {
	if n.Awaited.IsZero() {
		return false
	}
	n.Awaited = time.Time{}
	if r == nil {
		return true
	}
	switch {
	case state.GetSiteRevision() > r.SiteRevision:
		n.Paused = fmt.Sprintf("it reports site revision %d, and the backup of %s knew %d", state.GetSiteRevision(),
			r.Backup.UTC().Format(time.RFC3339), r.SiteRevision)
	case state.GetResourceRevision() > r.ResourceRevision:
		n.Paused = fmt.Sprintf("it reports resource revision %d, and the backup of %s knew %d", state.GetResourceRevision(),
			r.Backup.UTC().Format(time.RFC3339), r.ResourceRevision)
	}
	return true
}

// Held returns why nothing may be applied to the node now; empty when it is managed.
func (n *Node) Held() string {
	switch {
	case n.Paused != "":
		return "paused after the restore of the server: " + n.Paused + "; infractl node resume " + n.Name
	case !n.Awaited.IsZero():
		return "was not heard since the server was restored"
	}
	return ""
}

// Resume lets a paused node be managed again. It is Precondition when it is not paused.
func (f *Fleet) Resume(ctx context.Context, name string) (Node, error) {
	return f.UpdateNode(ctx, name, func(n *Node) error {
		if n.Paused == "" {
			return errs.New(errs.Precondition, "the node is not paused").At("node " + name)
		}
		n.Paused = ""
		return nil
	})
}
