package engine

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
)

// Reverter puts commits back. It needs neither server nor network nor the agent that began the commit: the transient timer
// and the boot unit run it in processes of their own.
type Reverter struct {
	records   records
	providers map[string]provider.Bound
	log       hclog.Logger
	// pause is the time between two tries of a provider's rollback.
	pause time.Duration
}

// rollbackTries is how often a provider's rollback is tried before the revert goes on without it.
const rollbackTries = 4

// NewReverter returns a Reverter for the records below dir.
func NewReverter(h *host.Host, dir string, providers []provider.Bound, log hclog.Logger) *Reverter {
	byName := make(map[string]provider.Bound, len(providers))
	for _, p := range providers {
		byName[p.Name()] = p
	}
	return &Reverter{records: records{host: h, dir: commitsDir(dir)}, providers: byName, log: log, pause: 500 * time.Millisecond}
}

// Revert puts one commit back unless it was kept. It returns nil when the former state is back, and a Precondition error
// when the commit was kept. Run by several at once, one does the work and the others wait for it.
func (r *Reverter) Revert(ctx context.Context, id string) error {
	if _, err := r.records.state(id); err != nil {
		return err
	}
	if _, err := r.records.move(id, armed, reverting); err != nil {
		return err
	}
	unlock, err := r.records.lock(id)
	if err != nil {
		return err
	}
	defer unlock()
	state, err := r.records.state(id)
	if err != nil {
		return err
	}
	switch state {
	case reverted:
		return nil
	case kept, done:
		return errs.New(errs.Precondition, "commit %s was kept; there is nothing to revert", id)
	}
	rec, err := r.records.load(id, reverting)
	if err != nil {
		return err
	}
	r.log.Warn("reverting commit", "commit", id, "providers", providerNames(rec))
	if err := r.rollback(ctx, rec); err != nil {
		return errs.Wrap("revert commit "+id, err)
	}
	if _, err := r.records.move(id, reverting, reverted); err != nil {
		return err
	}
	r.log.Info("reverted commit", "commit", id)
	return nil
}

// again puts a commit back that was put back already.
func (r *Reverter) again(ctx context.Context, id string) error {
	unlock, err := r.records.lock(id)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := r.records.load(id, reverted)
	if err != nil {
		return err
	}
	return errs.Wrap("revert commit "+id+" again", r.rollback(ctx, rec))
}

// RevertAll puts back every commit that is armed or reverting. The boot unit runs it before network, ssh and docker.
func (r *Reverter) RevertAll(ctx context.Context) error {
	ids, err := r.records.in(unfinished[:]...)
	if err != nil {
		return err
	}
	var failed []error
	for _, id := range ids {
		if err := r.Revert(ctx, id); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// rollback undoes all steps in reverse order. One that fails does not stop the others: each way that comes back counts.
func (r *Reverter) rollback(ctx context.Context, rec record) error {
	var failed []error
	for i := len(rec.Steps) - 1; i >= 0; i-- {
		s := rec.Steps[i]
		p, ok := r.providers[s.Provider]
		if !ok {
			failed = append(failed, errs.New(errs.Internal, "this version has no provider %q", s.Provider))
			continue
		}
		if err := r.rollbackStep(ctx, p, s.Snapshot); err != nil {
			r.log.Error("rollback failed", "provider", s.Provider, "error", err)
			failed = append(failed, errs.Wrap("roll back "+s.Provider, err))
		}
	}
	return errors.Join(failed...)
}

func (r *Reverter) rollbackStep(ctx context.Context, p provider.Bound, snapshot []byte) error {
	var err error
	for try := range rollbackTries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(r.pause):
			}
		}
		if err = p.Rollback(ctx, snapshot); err == nil {
			return nil
		}
	}
	return err
}
