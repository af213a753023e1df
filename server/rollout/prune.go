package rollout

import (
	"context"
	"slices"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// keepCommits is how long commits are remembered; those of rollouts that are forgotten go with them.
const keepCommits = 90 * 24 * time.Hour

// Prune forgets old rollouts and old commits. It is done now and then.
func (r *Rollouts) Prune(ctx context.Context) error {
	r.forgetOld(ctx)
	commits, err := r.cfg.Store.List(ctx, KindCommit, store.ListOptions{NamesOnly: true})
	if err != nil {
		return errs.Wrap("prune commits", err)
	}
	before := r.cfg.Clock.Now().Add(-keepCommits)
	old := slices.DeleteFunc(commits, func(c store.Record) bool { return !c.Updated.Before(before) })
	for chunk := range slices.Chunk(old, store.MaxOps) {
		ops := make([]store.Op, 0, len(chunk))
		for _, c := range chunk {
			ops = append(ops, store.Delete{Kind: KindCommit, Name: c.Name, Expect: c.Revision})
		}
		if _, err := r.cfg.Store.Write(ctx, ops...); err != nil {
			return errs.Wrap("prune commits", err)
		}
	}
	return nil
}
