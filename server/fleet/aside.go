package fleet

import (
	"context"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// SetAsidesOf returns the machines that were set aside from a node.
func (f *Fleet) SetAsidesOf(ctx context.Context, node string) ([]SetAside, error) {
	all, err := f.AllSetAsides(ctx)
	var out []SetAside
	for _, a := range all {
		if a.Node == node {
			out = append(out, a)
		}
	}
	return out, err
}

// AllSetAsides returns all machines that were set aside.
func (f *Fleet) AllSetAsides(ctx context.Context) ([]SetAside, error) {
	items, err := f.SetAsides.List(ctx, store.ListOptions{})
	return values(items), err
}

// asideRefresh is how often the last sight of a machine that goes on trying is written.
const asideRefresh = 10 * time.Minute

// AddSetAside remembers a machine, or that it was seen again. Beyond limit machines of one node nothing is written.
func (f *Fleet) AddSetAside(ctx context.Context, a SetAside, now time.Time, limit int) error {
	return errs.Wrap("remember a machine that is set aside", Retry(ctx, func() error {
		it, err := f.SetAsides.Get(ctx, a.ID)
		switch {
		case err == nil:
			if now.Sub(it.Value.Last) < asideRefresh {
				return nil
			}
			a.First = it.Value.First
		case errs.Is(err, errs.NotFound):
			known, err := f.SetAsidesOf(ctx, a.Node)
			if err != nil || len(known) >= limit {
				return err
			}
			a.First = now
		default:
			return err
		}
		a.Last = now
		_, err = f.SetAsides.Put(ctx, a.ID, a, it.Revision)
		return err
	}))
}

// MergeFingerprint returns b with what only a knows.
func MergeFingerprint(a, b *v1.HostFingerprint) *v1.HostFingerprint {
	out := &v1.HostFingerprint{MachineId: b.GetMachineId(), ProductSerial: b.GetProductSerial(), MacAddresses: b.GetMacAddresses()}
	if out.MachineId == "" {
		out.MachineId = a.GetMachineId()
	}
	if out.ProductSerial == "" {
		out.ProductSerial = a.GetProductSerial()
	}
	if len(out.MacAddresses) == 0 {
		out.MacAddresses = a.GetMacAddresses()
	}
	return out
}
