package dolibarr

import (
	"context"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// purge removes everything that carries the id, for good, and lists it. What is gone already is not listed: a purge that was cut short is
// gone on with.
func (p *Provider) purge(ctx context.Context, id string) (*v1.InstanceResult, error) {
	t := &steps{}
	out := &v1.InstanceResult{}
	removed := func(kind, name string) { out.Removed = append(out.Removed, kind+" "+name) }
	label := LabelID + "=" + id
	err := t.do("containers", func() error {
		list, err := p.engine.Containers(ctx, label)
		if err != nil {
			return err
		}
		for _, c := range list {
			if err := p.engine.RemoveContainer(ctx, c.ID); err != nil {
				return err
			}
			removed("container", c.Name)
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	err = t.do("network", func() error {
		list, err := p.engine.Networks(ctx, label)
		if err != nil {
			return err
		}
		for _, n := range list {
			if err := p.leaveNetwork(ctx, n.Name); err != nil {
				return err
			}
			if err := p.engine.RemoveNetwork(ctx, n.Name); err != nil {
				return err
			}
			removed("network", n.Name)
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	err = t.do("data", func() error {
		list, err := p.engine.Volumes(ctx, label)
		if err != nil {
			return err
		}
		for _, v := range list {
			if err := p.engine.RemoveVolume(ctx, v.Name); err != nil {
				return err
			}
			removed("volume", v.Name)
		}
		if !p.host.Exists(p.folder(id)) {
			return nil
		}
		if err := p.host.RemoveAll(p.folder(id)); err != nil {
			return err
		}
		removed("folder", p.folder(id))
		return nil
	})
	out.Steps = t.list
	if err == nil {
		p.log.Info("instance is purged", "id", id, "removed", out.Removed)
	}
	return out, err
}

// leaveNetwork takes the front out of a network: one that somebody is in cannot be removed.
func (p *Provider) leaveNetwork(ctx context.Context, network string) error {
	have, err := p.lookFront(ctx)
	if err != nil || have.container == nil {
		return err
	}
	err = p.engine.Disconnect(ctx, network, have.container.ID)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}
