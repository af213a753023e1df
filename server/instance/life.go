package instance

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/store"
)

// lifeParams name an instance, and say what is to be with it.
type lifeParams struct {
	ID string `json:"id"`
	// NewName is for a rename.
	NewName string `json:"new_name,omitempty"`
	// PurgeAfter is for a deletion.
	PurgeAfter time.Time `json:"purge_after,omitzero"`
	// Settings are for a change of settings.
	Settings *settings `json:"settings,omitempty"`
}

// settings are what of an instance can be changed.
type settings struct {
	Limits   limits   `json:"limits"`
	Cron     bool     `json:"cron"`
	Domains  []string `json:"domains,omitempty"`
	Language string   `json:"language"`
}

// keyBefore is where an operation keeps what an instance was before.
const keyBefore = "before"

// before is what an operation on an instance takes back.
type before struct {
	Name       string          `json:"name"`
	Mode       v1.InstanceMode `json:"mode"`
	Suspended  time.Time       `json:"suspended,omitzero"`
	PurgeAfter time.Time       `json:"purge_after,omitzero"`
	Settings   settings        `json:"settings"`
}

func (r *record) before() before {
	return before{Name: r.Name, Mode: r.Mode, Suspended: r.Suspended, PurgeAfter: r.PurgeAfter, Settings: r.settings()}
}

func (r *record) settings() settings {
	return settings{Limits: r.Limits, Cron: r.Cron, Domains: slices.Clone(r.Domains), Language: r.Language}
}

func (r *record) set(to settings) {
	r.Limits, r.Cron, r.Domains, r.Language = to.Limits, to.Cron, slices.Clone(to.Domains), to.Language
}

// lifeKind is an operation that changes the record and waits until the host has it.
func (s *Instances) lifeKind(name string, steps func(p *lifeParams) []operation.Step) operation.Kind {
	return operation.Kind{Name: "instance." + name, Steps: func(params json.RawMessage) ([]operation.Step, error) {
		var p lifeParams
		if err := decode(params, &p); err != nil {
			return nil, err
		}
		return steps(&p), nil
	}}
}

// change is a step that changes the record of an instance and brings that to its host, and to the gates when wide is set.
func (s *Instances) change(name string, p *lifeParams, wide bool, change func(*record)) operation.Step {
	return operation.Step{Name: name, Retry: s.retry(s.cfg.Patience.Delivery),
		Do: func(ctx context.Context, run *operation.Run) error {
			rec, err := s.begin(ctx, run, p.ID)
			if err != nil {
				return err
			}
			if rec, err = s.update(ctx, rec.ID, func(r *record) error { change(r); return nil }); err != nil {
				return err
			}
			return s.arrive(ctx, run, &rec, name, wide)
		},
		Undo: func(ctx context.Context, run *operation.Run) error { return s.restore(ctx, run, p.ID) },
	}
}

// begin reads the record of an operation's instance, and keeps what it is now, once.
func (s *Instances) begin(ctx context.Context, run *operation.Run, id string) (record, error) {
	rec, err := s.get(ctx, id)
	if err != nil {
		return record{}, err
	}
	var was before
	if ok, err := run.Get(keyBefore, &was); ok || err != nil {
		return rec, err
	}
	return rec, run.Set(ctx, keyBefore, rec.before())
}

// arrive brings a changed record to those that it concerns.
func (s *Instances) arrive(ctx context.Context, run *operation.Run, rec *record, what string, wide bool) error {
	nodes := []string{rec.Node}
	if wide {
		gates, err := s.gates(ctx)
		if err != nil {
			return err
		}
		nodes = append(gates, nodes...)
		defer s.publish(ctx)()
	}
	problems, err := s.bring(ctx, run, "instance "+rec.Name+": "+what, nodes)
	if err != nil {
		return err
	}
	return s.blame(ctx, rec, problems)
}

// restore puts the record back. Nobody is waited for: hosts take the wish up when they can, and an operation that is undone because its
// host is away must not hang on that.
func (s *Instances) restore(ctx context.Context, run *operation.Run, id string) error {
	var was before
	if ok, err := run.Get(keyBefore, &was); !ok || err != nil {
		return err
	}
	rec, err := s.update(ctx, id, func(r *record) error {
		r.Mode, r.Suspended, r.PurgeAfter = was.Mode, was.Suspended, was.PurgeAfter
		r.set(was.Settings)
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.rename(ctx, rec.ID, was.Name); err != nil {
		return err
	}
	_, err = s.rollouts.Deliver(ctx, run.Operator(), "instance "+was.Name+" is put back as it was")
	if errs.Is(err, errs.Precondition) {
		return nil // the site's rollout must be settled first; that brings it along
	}
	return err
}

// rename gives an instance another name, which it takes in the same write.
func (s *Instances) rename(ctx context.Context, id, name string) error {
	const op = "rename instance"
	for {
		it, err := s.records.Get(ctx, id)
		if err != nil {
			return errs.Wrap(op, err)
		}
		rec := it.Value
		if rec.Name == name {
			return nil
		}
		former := rec.Name
		rec.Name = name
		put, err := s.records.PutOp(id, rec, it.Revision)
		if err != nil {
			return err
		}
		take, err := s.names.PutOp(name, id, store.Absent)
		if err != nil {
			return err
		}
		_, err = s.cfg.Store.Write(ctx, put, take, store.Delete{Kind: KindName, Name: former, Expect: store.Any})
		switch {
		case errs.Is(err, errs.Exists):
			return taken(name)
		case errs.Is(err, errs.Conflict):
			continue
		case err == nil:
			s.sites.Changed()
		}
		return errs.Wrap(op, err)
	}
}

// reached are steps that ask for the login page, at the front and as the world does. One that is suspended has none.
func (s *Instances) reached(p *lifeParams, strict bool) []operation.Step {
	of := func(ctx context.Context, _ *operation.Run) (record, error) { return s.get(ctx, p.ID) }
	probe := operation.Step{Name: "probe", Retry: s.retry(s.cfg.Patience.Away), Do: func(ctx context.Context, run *operation.Run) error {
		rec, err := of(ctx, run)
		if err != nil || rec.Mode != running {
			return err
		}
		return s.probe(ctx, run, &rec)
	}}
	return append([]operation.Step{probe}, s.inPublic(of, strict)...)
}

func (s *Instances) suspendKind() operation.Kind {
	return s.lifeKind("suspend", func(p *lifeParams) []operation.Step {
		return []operation.Step{s.change("suspend", p, false, func(r *record) { s.toSuspended(r, suspended) })}
	})
}

func (s *Instances) toSuspended(r *record, mode v1.InstanceMode) {
	r.Mode = mode
	if r.Suspended.IsZero() {
		r.Suspended = s.cfg.Clock.Now().UTC()
	}
}

func toRunning(r *record) {
	r.Mode, r.Suspended, r.PurgeAfter, r.Noticed = running, time.Time{}, time.Time{}, time.Time{}
}

func (s *Instances) resumeKind() operation.Kind {
	return s.lifeKind("resume", func(p *lifeParams) []operation.Step {
		return append([]operation.Step{s.change("start", p, false, toRunning)}, s.reached(p, false)...)
	})
}

// restartKind stops everything of an instance and starts it again; meanwhile its customer sees the page of a suspended one.
func (s *Instances) restartKind() operation.Kind {
	return s.lifeKind("restart", func(p *lifeParams) []operation.Step {
		return append([]operation.Step{
			s.change("stop", p, false, func(r *record) { r.Mode = suspended }),
			s.change("start", p, false, func(r *record) { r.Mode = running }),
		}, s.reached(p, false)...)
	})
}

func (s *Instances) configureKind() operation.Kind {
	return s.lifeKind("configure", func(p *lifeParams) []operation.Step {
		set := func(r *record) { r.set(*p.Settings) }
		step, near := s.change("configure", p, true, set), s.change("configure", p, false, set)
		wide := step.Do
		step.Do = func(ctx context.Context, run *operation.Run) error {
			if _, err := s.begin(ctx, run, p.ID); err != nil {
				return err
			}
			var was before
			if _, err := run.Get(keyBefore, &was); err != nil {
				return err
			}
			if slices.Equal(was.Settings.Domains, p.Settings.Domains) {
				return near.Do(ctx, run) // proxy and names are not concerned
			}
			return wide(ctx, run)
		}
		return append([]operation.Step{step}, s.reached(p, false)[1:]...)
	})
}

func (s *Instances) deleteKind() operation.Kind {
	return s.lifeKind("delete", func(p *lifeParams) []operation.Step {
		return []operation.Step{s.change("archive", p, false, func(r *record) {
			s.toSuspended(r, archived)
			r.PurgeAfter, r.Noticed = p.PurgeAfter, time.Time{}
		})}
	})
}

// renameKind gives an instance another name: its id, data and further names stay.
func (s *Instances) renameKind() operation.Kind {
	return s.lifeKind("rename", func(p *lifeParams) []operation.Step {
		step := operation.Step{Name: "rename", Retry: s.retry(s.cfg.Patience.Delivery),
			Do: func(ctx context.Context, run *operation.Run) error {
				rec, err := s.begin(ctx, run, p.ID)
				if err != nil {
					return err
				}
				if err := s.rename(ctx, rec.ID, p.NewName); err != nil {
					return err
				}
				rec.Name = p.NewName
				return s.arrive(ctx, run, &rec, "renamed", true)
			},
			Undo: func(ctx context.Context, run *operation.Run) error { return s.restore(ctx, run, p.ID) },
		}
		return append([]operation.Step{step}, s.reached(p, true)...)
	})
}
