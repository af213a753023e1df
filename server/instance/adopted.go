package instance

import (
	"cmp"
	"context"
	"slices"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
)

// adopted are the parts of an instance that infractl did not make.
type adopted struct {
	App     string   `json:"app"`
	DB      string   `json:"db"`
	Network string   `json:"network"`
	Folder  string   `json:"folder,omitempty"`
	Volumes []string `json:"volumes,omitempty"`
	// Memory is what it counts for on its host while nobody has limited it.
	Memory uint64 `json:"memory"`
}

// spec is what its host is told of them; nil for an instance of ours.
func (a *adopted) spec() *v1.AdoptedInstance {
	if a == nil {
		return nil
	}
	return &v1.AdoptedInstance{AppContainer: a.App, DbContainer: a.DB, Network: a.Network, Folder: a.Folder, Volumes: slices.Clone(a.Volumes)}
}

// parts are what a host must have of it, whether it runs or not.
func (a *adopted) parts() []string {
	out := []string{"container " + a.App, "container " + a.DB, "network " + a.Network}
	for _, v := range a.Volumes {
		out = append(out, "volume "+v)
	}
	if a.Folder != "" {
		out = append(out, "folder "+a.Folder)
	}
	return out
}

// owns reports whether something that a host has is a part of the instance.
func (r *record) owns(f *v1.FoundInstance) bool {
	return f.GetId() == r.ID || r.Adopted != nil && f.GetId() == "" && slices.Contains(r.Adopted.parts(), partName(f))
}

// newVolumes takes up volumes that an adopted instance has got since: somebody may have made its containers anew from another compose file.
func (s *Instances) newVolumes(ctx context.Context, rec *record) error {
	if rec.Adopted == nil {
		return nil
	}
	found, err := s.inventory(ctx, rec.Node)
	if err != nil {
		return err
	}
	now := *rec.Adopted
	now.Volumes = slices.Clone(now.Volumes)
	for _, f := range found {
		if f.GetKind() == "volume" && f.GetInstance() == rec.Name && f.GetDetails()["mounted"] != "" && !slices.Contains(now.Volumes, f.GetName()) {
			now.Volumes = append(now.Volumes, f.GetName())
		}
	}
	if len(now.Volumes) == len(rec.Adopted.Volumes) {
		return nil
	}
	*rec, err = s.update(ctx, rec.ID, func(r *record) error { r.Adopted = &now; return nil })
	return err
}

// counted is the memory that an instance counts for on its host.
func (r *record) counted() uint64 {
	if r.Adopted == nil {
		return r.Limits.Memory
	}
	return cmp.Or(r.Limits.Memory, r.Adopted.Memory)
}

// notAdopted refuses what takes containers that infractl has made.
func notAdopted(rec *record, what, hint string) error {
	if rec.Adopted == nil {
		return nil
	}
	return errs.New(errs.Precondition, "instance %s was adopted: %s", rec.Name, what).WithHint("%s", hint)
}

// learn keeps the version that the login page of an adopted instance shows: the original scripts recorded the major number alone, and
// whoever upgrades it tells nobody.
func (s *Instances) learn(ctx context.Context, rec *record, version string) error {
	if version == "" || version == rec.Version {
		return nil
	}
	_, err := s.update(ctx, rec.ID, func(r *record) error { r.Version = version; return nil })
	return err
}

// disownKind lets go of an adopted instance: its host, the proxy and the names forget it, and all that is there of it stays as it is.
func (s *Instances) disownKind() operation.Kind {
	return s.lifeKind("disown", func(p *lifeParams) []operation.Step {
		withdraw := s.change("withdraw", p, true, func(r *record) { r.Mode = withdrawn })
		do := withdraw.Do
		withdraw.Do = func(ctx context.Context, run *operation.Run) error {
			err := do(ctx, run)
			if errs.Is(err, errs.NotFound) {
				return nil // a server that stopped in between had ended it
			}
			return err
		}
		return []operation.Step{withdraw, {Name: "forget", Retry: s.retry(0), Do: func(ctx context.Context, run *operation.Run) error {
			if err := s.forget(ctx, p.ID); err != nil {
				return err
			}
			run.Say("its containers, data and names at other proxies stay as they are")
			return s.release(ctx, p.ID, nil)
		}}}
	})
}
