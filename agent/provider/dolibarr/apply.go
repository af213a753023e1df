package dolibarr

import (
	"context"
	"encoding/json"
	"path"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// atOnce is how many instances change at the same time.
const atOnce = 4

// Plan implements provider.Provider.
func (p *Provider) Plan(ctx context.Context, w wish) (provider.Plan[*v1.DolibarrSpec], error) {
	result := plan{Wish: w}
	seen, err := p.look(ctx, w.Spec)
	if err != nil {
		return result, err
	}
	for _, one := range seen.instances {
		if after := one.differences(); len(after) > 0 {
			result.Changes = append(result.Changes, &v1.Change{Provider: p.Name(), Subject: "instance " + one.inst.GetName(),
				Action: v1.ChangeAction_CHANGE_ACTION_UPDATE, After: after, Risk: v1.Risk_RISK_RESTART})
		}
	}
	for _, c := range seen.left {
		result.Changes = append(result.Changes, &v1.Change{Provider: p.Name(), Subject: "container " + c.Name, Action: v1.ChangeAction_CHANGE_ACTION_UPDATE,
			Before: []string{c.State}, After: []string{"stopped, its data stays"}, Risk: v1.Risk_RISK_RESTART})
	}
	front, err := p.frontPlan(ctx, w.Spec)
	result.Changes = append(result.Changes, front...)
	return result, err
}

// Apply implements provider.Provider. Instances change side by side, and one that fails is brought back to its former wish: the others
// stay changed. The error has the code RolledBack when every one that failed is back.
func (p *Provider) Apply(ctx context.Context, pl plan) error {
	spec := pl.Wish.Spec
	former, err := p.applied()
	if err != nil {
		return err
	}
	seen, err := p.look(ctx, spec)
	if err != nil {
		return err
	}
	p.closeFirst(ctx, seen, spec)
	now := proto.Clone(spec).(*v1.DolibarrSpec)
	var failed []error
	back := true
	for _, c := range seen.left {
		if err := p.engine.StopContainer(ctx, c.ID, stopGrace); err != nil {
			back = false
			failed = append(failed, errs.Wrap("instance "+c.Labels[LabelInstance]+": stop "+c.Name, err))
		}
	}
	for i, err := range p.each(ctx, seen.instances) {
		if err == nil {
			continue
		}
		name := seen.instances[i].inst.GetName()
		err = errs.Wrap("instance "+name, err)
		old := byID(former, seen.instances[i].inst.GetId())
		if berr := p.bringBack(context.WithoutCancel(ctx), seen.instances[i].inst.GetId(), old); berr != nil {
			back, err = false, errs.Join(err, errs.Wrap("instance "+name+": bring it back", berr))
		}
		now.Instances = replaced(now.GetInstances(), seen.instances[i].inst.GetId(), old)
		failed = append(failed, err)
	}
	if err := p.frontApply(ctx, spec); err != nil {
		back = false
		failed = append(failed, err)
	}
	if err := p.writeApplied(now); err != nil {
		return errs.Join(append(failed, err)...)
	}
	err = errs.Join(failed...)
	if err != nil && back {
		return errs.New(errs.RolledBack, "%w", err).WithHint("%s", errs.HintOf(err))
	}
	return err
}

// closeFirst lets the front answer for instances that are to stop before they do: their customers see the page, never an error, and no idle
// connection of the front keeps an application from ending. What fails here is tried again, and said, after the instances.
func (p *Provider) closeFirst(ctx context.Context, seen *sight, spec *v1.DolibarrSpec) {
	stops := func(one *instanceSight) bool {
		return one.wish[partApp].Name == "" && one.have[partApp] != nil && isUp(one.have[partApp])
	}
	if spec.GetFront() == nil || !slices.ContainsFunc(seen.instances, stops) {
		return
	}
	if err := p.frontApply(ctx, spec); err != nil {
		p.log.Debug("the front is not as wished yet", "error", err)
	}
}

// each changes instances side by side, and returns the error of each.
func (p *Provider) each(ctx context.Context, list []*instanceSight) []error {
	failed := make([]error, len(list))
	turn := make(chan struct{}, atOnce)
	var group sync.WaitGroup
	for i, one := range list {
		if len(one.differences()) == 0 {
			continue
		}
		group.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			if failed[i] = ctx.Err(); failed[i] == nil {
				failed[i] = p.change(ctx, one)
			}
		})
	}
	group.Wait()
	return failed
}

// change makes one instance be as wished.
func (p *Provider) change(ctx context.Context, one *instanceSight) error {
	inst := one.inst
	if one.busy {
		return nil // a task makes it, and leaves it as wished
	}
	defer p.lock(inst.GetId())()
	fresh, err := p.look(ctx, &v1.DolibarrSpec{Instances: []*v1.InstanceSpec{inst}}) // a task may have changed it meanwhile
	if err != nil {
		return err
	}
	one = fresh.instances[0]
	for _, prepare := range []func() error{
		func() error { return p.ensureNetwork(ctx, inst) },
		func() error { return p.ensureVolumes(ctx, inst) },
		func() error { return p.ensureConf(inst.GetId()) },
		func() error { return p.writeSecrets(ctx, inst) },
		func() error { return p.writeTool(ctx, inst) },
	} {
		if err := prepare(); err != nil {
			return err
		}
	}
	if inst.GetMode() == v1.InstanceMode_INSTANCE_MODE_RUNNING && !p.host.Exists(p.confFile(inst.GetId())) {
		return errs.New(errs.Precondition, "it is not installed: it has no conf.php").At(p.confFile(inst.GetId())).
			WithHint("was its creation cut off? infractl instance show %s", inst.GetName())
	}
	for _, part := range slices.Backward(parts()) {
		if one.wish[part].Name == "" {
			if err := p.down(ctx, one.have[part], stopGrace); err != nil {
				return err
			}
		}
	}
	if one.subnet != "" && inst.GetSubnet() != "" && one.subnet != inst.GetSubnet() {
		clear(one.have) // they went with their network
	}
	if err := p.limit(ctx, one); err != nil {
		return err
	}
	if err := p.upDB(ctx, one); err != nil {
		return err
	}
	if err := p.readdress(ctx, one); err != nil {
		return err
	}
	var ups []func() error
	for _, part := range parts()[1:] {
		if one.wish[part].Name != "" {
			ups = append(ups, func() error { return errs.Wrap(part, p.up(ctx, one.wish[part], one.have[part])) })
		}
	}
	if err := all(ups...); err != nil {
		return err
	}
	return p.note(one)
}

func (p *Provider) upDB(ctx context.Context, one *instanceSight) error {
	if one.wish[partDB].Name == "" {
		return nil
	}
	p.starts <- struct{}{}
	defer func() { <-p.starts }()
	return errs.Wrap(partDB, p.up(ctx, one.wish[partDB], one.have[partDB]))
}

// limit changes the limits of containers that stay, those that do not run too.
func (p *Provider) limit(ctx context.Context, one *instanceSight) error {
	if one.rec.Limits == limitsText(one.inst.GetLimits()) {
		return nil
	}
	if err := p.pending(one, func(r *record) { r.Limits = unknown }); err != nil {
		return err
	}
	db, app, cron := shares(one.inst.GetLimits())
	for part, l := range map[string]share{partDB: db, partApp: app, partCron: cron} {
		have, wish := one.have[part], one.wish[part]
		if have == nil || wish.Name != "" && have.Labels[labelWish] != wish.Labels[labelWish] {
			continue
		}
		if err := p.engine.UpdateLimits(ctx, have.ID, l.memory, l.milliCPUs, l.pids); err != nil {
			return errs.Wrap(part, err)
		}
	}
	return nil
}

// pending notes that something is being changed, before it is.
func (p *Provider) pending(one *instanceSight, change func(*record)) error {
	rec, err := p.readRecord(one.inst.GetId())
	if err != nil {
		return err
	}
	change(rec)
	return p.writeRecord(one.inst.GetId(), rec)
}

// readdress writes conf.php for another public address.
func (p *Provider) readdress(ctx context.Context, one *instanceSight) error {
	if !one.moved() {
		return nil
	}
	if err := p.pending(one, func(r *record) { r.URL = unknown }); err != nil {
		return err
	}
	tool, err := p.startTool(ctx, one.inst, dolibarr.VerbConfigure, true)
	defer p.dropTool(ctx, tool)
	if err != nil {
		return err
	}
	_, err = p.verb(ctx, &steps{}, tool, dolibarr.VerbConfigure, dolibarr.InstallInput{URL: publicURL(one.inst), Timezone: one.inst.GetTimezone()})
	return err
}

// note writes down what was applied to the instance.
func (p *Provider) note(one *instanceSight) error {
	rec, err := p.readRecord(one.inst.GetId()) // with the secrets of just now
	if err != nil {
		return err
	}
	rec.Limits = limitsText(one.inst.GetLimits())
	if one.inst.GetMode() == v1.InstanceMode_INSTANCE_MODE_RUNNING {
		rec.URL = publicURL(one.inst)
	}
	return p.writeRecord(one.inst.GetId(), rec)
}

// bringBack makes an instance be as it was wished before; one that is new is stopped.
func (p *Provider) bringBack(ctx context.Context, id string, old *v1.InstanceSpec) error {
	if old != nil {
		seen, err := p.look(ctx, &v1.DolibarrSpec{Instances: []*v1.InstanceSpec{old}})
		if err != nil {
			return err
		}
		return p.change(ctx, seen.instances[0])
	}
	list, err := p.engine.Containers(ctx, LabelID+"="+id)
	if err != nil {
		return err
	}
	var failed []error
	for i := range list {
		failed = append(failed, p.down(ctx, &list[i], stopGrace))
	}
	return errs.Join(failed...)
}

func byID(spec *v1.DolibarrSpec, id string) *v1.InstanceSpec {
	for _, inst := range spec.GetInstances() {
		if inst.GetId() == id {
			return inst
		}
	}
	return nil
}

// replaced puts old, which may be nil, in the place of an instance.
func replaced(list []*v1.InstanceSpec, id string, old *v1.InstanceSpec) []*v1.InstanceSpec {
	for i, inst := range list {
		if inst.GetId() != id {
			continue
		}
		if old == nil {
			return slices.Delete(list, i, i+1)
		}
		list[i] = old
		return list
	}
	return list
}

func (p *Provider) appliedFile() string { return path.Join(p.cfg.Dir, "applied.bin") }

// applied is the wish that was applied last.
func (p *Provider) applied() (*v1.DolibarrSpec, error) {
	f, err := p.host.Stat(p.appliedFile())
	if err != nil {
		return nil, err
	}
	spec := &v1.DolibarrSpec{}
	if f.Absent || proto.Unmarshal(f.Data, spec) != nil || check(spec) != nil {
		return &v1.DolibarrSpec{}, nil
	}
	return spec, nil
}

func (p *Provider) writeApplied(spec *v1.DolibarrSpec) error {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(spec)
	if err != nil {
		return errs.Wrap("note what was applied", err)
	}
	_, err = p.host.WriteFile(p.appliedFile(), data, 0o600)
	return err
}

// snapshot is what Rollback needs. It holds secrets, and so stays in memory: the phase of services is no commit.
type snapshot struct {
	Version int    `json:"version"`
	Applied []byte `json:"applied"`
	// Files are those of the secrets, Secrets their versions by the instance's id. The rest of a record stays as it is: it says what is.
	Files   []host.File                  `json:"files"`
	Secrets map[string]map[string]string `json:"secrets"`
}

// Snapshot implements provider.Provider.
func (p *Provider) Snapshot(_ context.Context, pl plan) ([]byte, error) {
	former, err := p.applied()
	if err != nil {
		return nil, err
	}
	s := snapshot{Version: 1, Secrets: map[string]map[string]string{}}
	if s.Applied, err = proto.Marshal(former); err != nil {
		return nil, errs.Wrap("snapshot", err)
	}
	var paths []string
	for _, inst := range former.GetInstances() {
		rec, err := p.readRecord(inst.GetId())
		if err != nil {
			return nil, err
		}
		s.Secrets[inst.GetId()] = rec.Secrets
		for _, name := range secretNames {
			paths = append(paths, path.Join(p.secretsDir(inst.GetId()), name), path.Join(p.webSecretsDir(inst.GetId()), name))
		}
	}
	if s.Files, err = p.host.Snapshot(paths...); err != nil {
		return nil, err
	}
	data, err := json.Marshal(s)
	return data, errs.Wrap("snapshot", err)
}

// Rollback implements provider.Provider: the former wish is applied again, with the secrets of then.
func (p *Provider) Rollback(ctx context.Context, data []byte) error {
	var s snapshot
	former := &v1.DolibarrSpec{}
	if err := json.Unmarshal(data, &s); err != nil || s.Version != 1 || proto.Unmarshal(s.Applied, former) != nil {
		return errs.New(errs.Invalid, "this is no snapshot of instances")
	}
	if _, err := p.host.Restore(s.Files); err != nil {
		return err
	}
	for _, inst := range former.GetInstances() {
		one := &instanceSight{inst: inst}
		if err := p.pending(one, func(r *record) { r.Secrets = s.Secrets[inst.GetId()] }); err != nil {
			return err
		}
	}
	seen, err := p.look(ctx, former)
	if err != nil {
		return err
	}
	failed := p.each(ctx, seen.instances)
	for i, err := range failed {
		failed[i] = errs.Wrap("instance "+seen.instances[i].inst.GetName(), err)
	}
	for _, c := range seen.left {
		failed = append(failed, p.down(ctx, &docker.Container{ID: c.ID, State: c.State}, stopGrace))
	}
	return errs.Join(append(failed, p.frontApply(ctx, former), p.writeApplied(former))...)
}
