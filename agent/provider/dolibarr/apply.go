package dolibarr

import (
	"context"
	"encoding/json"
	"path"
	"slices"
	"sync"
	"time"

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
	former, err := p.applied()
	if err != nil {
		return result, err
	}
	result.Changes = append(result.Changes, p.diskPlan(former, w.Spec)...)
	front, err := p.frontPlan(ctx, w.Spec)
	result.Changes = append(result.Changes, front...)
	return result, err
}

// backLimit bounds how long an instance is brought back.
const backLimit = 5 * time.Minute

// Apply implements provider.Provider. Instances change side by side, and one that fails is brought back to its former wish: the others
// stay changed, and the error has the code RolledBack. That one cannot be brought back is said, and is no reason to take the others back.
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
	p.lately.Clear()
	p.closeFirst(ctx, seen, spec)
	failed := p.stopLeft(ctx, seen.left)
	changed := p.each(ctx, seen.instances)
	if err := ctx.Err(); err != nil {
		return errs.Wrap("apply", err) // all of it is taken back
	}
	now := proto.Clone(spec).(*v1.DolibarrSpec)
	for i, err := range changed {
		if err == nil {
			continue
		}
		inst := seen.instances[i].inst
		old := byID(former, inst.GetId())
		failed = append(failed, errs.Wrap("instance "+inst.GetName(), errs.Join(err, p.bringBack(ctx, inst, old))))
		now.Instances = replaced(now.GetInstances(), inst.GetId(), old)
	}
	failed = append(failed, p.letGo(former, now))
	front := errs.Join(p.frontApply(ctx, now), p.writeApplied(now))
	p.measureSoon(former, seen)
	err = errs.Join(append(failed, front)...)
	if err != nil && front == nil {
		return errs.New(errs.RolledBack, "%w", err).WithHint("%s", errs.HintOf(err))
	}
	return err
}

// stopLeft stops what left the wish. What cannot be stopped is tried again by the next apply.
func (p *Provider) stopLeft(ctx context.Context, left []docker.Container) (failed []error) {
	turn := make(chan struct{}, atOnce)
	failed = make([]error, len(left))
	var group sync.WaitGroup
	for i, c := range left {
		group.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			failed[i] = errs.Wrap("instance "+c.Labels[LabelInstance]+": stop "+c.Name, p.engine.StopContainer(ctx, c.ID, stopGrace))
		})
	}
	group.Wait()
	return failed
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
	if inst.GetAdopted() != nil {
		return p.changeAdopted(ctx, one)
	}
	if one.err != nil {
		return one.err
	}
	if err := p.imagesThere(ctx, one); err != nil {
		return err
	}
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
			if err := p.down(ctx, one.have[part]); err != nil {
				return err
			}
		}
	}
	if one.subnet != "" && inst.GetSubnet() != "" && one.subnet != inst.GetSubnet() {
		clear(one.have) // they went with their network
	}
	if !one.network { // the engine starts none that was in a network of that name and another id
		if err := p.dropAll(ctx, one); err != nil {
			return err
		}
	}
	if err := p.limit(ctx, one); err != nil {
		return err
	}
	if err := p.upDB(ctx, one); err != nil {
		return err
	}
	if err := p.turn(ctx, one); err != nil {
		return err
	}
	if err := p.readdress(ctx, one); err != nil {
		return err
	}
	if err := p.upWeb(ctx, one); err != nil {
		return err
	}
	return p.note(one)
}

// dropAll removes an instance's containers; their data is in volumes.
func (p *Provider) dropAll(ctx context.Context, one *instanceSight) error {
	for _, part := range slices.Backward(parts()) {
		have := one.have[part]
		if have == nil {
			continue
		}
		if err := errs.Join(p.down(ctx, have), p.engine.RemoveContainer(ctx, have.ID)); err != nil {
			return err
		}
		delete(one.have, part)
	}
	return nil
}

// imagesThere says what image is missing, before anything is stopped for it.
func (p *Provider) imagesThere(ctx context.Context, one *instanceSight) error {
	for _, part := range parts() {
		if one.wish[part].Name == "" || one.have[part] != nil && !one.outworn(part) {
			continue
		}
		use := one.wish[part].Image
		_, err := p.engine.ImageID(ctx, use)
		if why, ok := p.unstaged.Load(use); ok && errs.Is(err, errs.NotFound) {
			err = why.(error)
		}
		if err != nil {
			return errs.Wrap("image "+use, err)
		}
	}
	return nil
}

// upDB starts a database. It keeps its turn until the database answers.
func (p *Provider) upDB(ctx context.Context, one *instanceSight) error {
	if one.wish[partDB].Name == "" {
		return nil
	}
	p.starts <- struct{}{}
	defer func() { <-p.starts }()
	return errs.Wrap(partDB, p.up(ctx, one, partDB, func(ctx context.Context, id string) error {
		return p.reachable(ctx, id, one.wish[partDB].Name)
	}))
}

// upWeb starts the application and its scheduled jobs.
func (p *Provider) upWeb(ctx context.Context, one *instanceSight) error {
	var ups []func() error
	if one.wish[partApp].Name != "" {
		ups = append(ups, func() error { return errs.Wrap(partApp, p.up(ctx, one, partApp, p.listens)) })
	}
	if one.wish[partCron].Name != "" {
		ups = append(ups, func() error { return errs.Wrap(partCron, p.up(ctx, one, partCron, nil)) })
	}
	return all(ups...)
}

// limit changes the limits of containers that stay, those that do not run too.
func (p *Provider) limit(ctx context.Context, one *instanceSight) error {
	if one.rec.Limits == limitsText(one.inst.GetLimits()) {
		return nil
	}
	if err := p.pending(one.inst.GetId(), func(r *record) { r.Limits = unknown }); err != nil {
		return err
	}
	db, app, cron := shares(one.inst.GetLimits())
	for part, l := range map[string]share{partDB: db, partApp: app, partCron: cron} {
		have, wish := one.have[part], one.wish[part]
		if have == nil || stuck(have) || wish.Name != "" && one.outworn(part) {
			continue // the engine changes none that is on its way out, and a new one has them from its birth
		}
		if err := p.engine.UpdateLimits(ctx, have.ID, l.memory, l.milliCPUs, l.pids); err != nil {
			return errs.Wrap(part, err)
		}
	}
	return nil
}

// pending notes that something is being changed, before it is.
func (p *Provider) pending(id string, change func(*record)) error {
	rec, err := p.readRecord(id)
	if err != nil {
		return err
	}
	change(rec)
	return p.writeRecord(id, rec)
}

// readdress writes conf.php for another public address.
func (p *Provider) readdress(ctx context.Context, one *instanceSight) error {
	if !one.moved() {
		return nil
	}
	if err := p.pending(one.inst.GetId(), func(r *record) { r.URL = unknown }); err != nil {
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
	if one.inst.GetMode() == v1.InstanceMode_INSTANCE_MODE_RUNNING || rec.URL == "" && p.host.Exists(p.confFile(one.inst.GetId())) {
		rec.URL = publicURL(one.inst)
	}
	return errs.Join(p.writeRecord(one.inst.GetId(), rec), p.forgetFormer(one.inst.GetId()))
}

// bringBack makes an instance be as it was wished before; one that is new is stopped.
func (p *Provider) bringBack(ctx context.Context, inst, old *v1.InstanceSpec) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), backLimit)
	defer cancel()
	if proto.Equal(inst, old) {
		return nil // it was broken before, and the same would fail once more
	}
	if old != nil {
		seen, err := p.look(ctx, &v1.DolibarrSpec{Instances: []*v1.InstanceSpec{old}})
		if err != nil {
			return errs.Wrap("bring it back", err)
		}
		return errs.Wrap("bring it back", p.change(ctx, seen.instances[0]))
	}
	list, err := p.engine.Containers(ctx, LabelID+"="+inst.GetId())
	failed := []error{errs.Wrap("stop it", err)}
	for i := range list {
		failed = append(failed, errs.Wrap("stop it", p.down(ctx, &list[i])))
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
	if len(data) == 0 {
		return p.host.Remove(p.appliedFile())
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
	for _, inst := range slices.Concat(former.GetInstances(), pl.Wish.Spec.GetInstances()) { // secrets of a new one go again
		rec, err := p.readRecord(inst.GetId())
		if err != nil {
			p.log.Warn("what was applied to an instance cannot be read, nor brought back", "instance", inst.GetName(), "error", err)
			continue
		}
		if _, known := s.Secrets[inst.GetId()]; known {
			continue
		}
		if p.host.Exists(p.recordFile(inst.GetId())) {
			s.Secrets[inst.GetId()] = rec.Secrets
		} else {
			paths = append(paths, p.recordFile(inst.GetId()))
		}
		for _, name := range secretNames {
			if rec.Secrets[name] != "" && p.learned(inst, name) {
				continue // its database would not know it
			}
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
	for id, versions := range s.Secrets {
		if err := p.pending(id, func(r *record) { p.restoreVersions(id, r, versions) }); err != nil {
			return err
		}
		if err := p.forgetFormer(id); err != nil {
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
	failed = append(failed, p.stopLeft(ctx, seen.left)...)
	return errs.Join(append(failed, p.frontApply(ctx, former), p.writeApplied(former))...)
}
