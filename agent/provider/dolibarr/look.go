package dolibarr

import (
	"context"
	"slices"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// sight is what there is of a wish.
type sight struct {
	instances []*instanceSight
	// left are running containers of instances that are not wished any more.
	left []docker.Container
}

// instanceSight is what there is of one instance, and what should be.
type instanceSight struct {
	inst *v1.InstanceSpec
	// have are its containers by part.
	have map[string]*docker.Container
	// wish are the containers that should run, by part.
	wish map[string]docker.ContainerSpec
	// network says that it has one, subnet is that one's prefix.
	network bool
	subnet  string
	volumes int
	// err says that what is on the disk of it cannot be read: that is its own failure, and none of the others'.
	err error
	rec *record
	// busy says that a task works on it, while it is closed.
	busy bool
	// secrets are those whose wanted version is not on the disk as it must be.
	secrets []*v1.SecretRef
	// turn are those that its database, which runs or is to run with an application, must learn.
	turn []*v1.SecretRef
}

// look asks the engine a few questions for all instances together.
func (p *Provider) look(ctx context.Context, spec *v1.DolibarrSpec) (*sight, error) {
	if err := check(spec); err != nil {
		return nil, err
	}
	list, err := p.engine.Containers(ctx, LabelID)
	if errs.Is(err, errs.Unavailable) && len(spec.GetInstances()) == 0 && spec.GetFront() == nil {
		return &sight{}, nil // a host that never had instances needs no engine
	}
	if err != nil {
		return nil, err
	}
	out := &sight{}
	wanted := map[string]*instanceSight{}
	for _, inst := range spec.GetInstances() {
		one := &instanceSight{inst: inst, have: map[string]*docker.Container{}, wish: map[string]docker.ContainerSpec{}}
		wanted[inst.GetId()] = one
		out.instances = append(out.instances, one)
	}
	for i := range list {
		c := &list[i]
		one := wanted[c.Labels[LabelID]]
		switch {
		case one != nil && c.Name == containerName(one.inst.GetId(), c.Labels[LabelPart]):
			one.have[c.Labels[LabelPart]] = c
		case one == nil && c.Labels[LabelID] != templateID && isUp(c):
			out.left = append(out.left, *c)
		}
	}
	if len(wanted) == 0 {
		return out, nil
	}
	if err := p.lookAround(ctx, wanted); err != nil {
		return nil, err
	}
	if err := p.lookAdopted(ctx, out.instances); err != nil {
		return nil, err
	}
	ids := map[string]string{}
	for _, one := range out.instances {
		if one.inst.GetAdopted() != nil {
			continue
		}
		if err := p.complete(ctx, one, ids); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *Provider) lookAround(ctx context.Context, wanted map[string]*instanceSight) error {
	networks, err := p.engine.Networks(ctx, LabelID)
	if err != nil {
		return err
	}
	for _, n := range networks {
		if one := wanted[n.Labels[LabelID]]; one != nil && n.Name == networkName(one.inst.GetId()) {
			one.network, one.subnet = true, n.Subnet
		}
	}
	volumes, err := p.engine.Volumes(ctx, LabelID)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if one := wanted[v.Labels[LabelID]]; one != nil && slices.Contains(volumeParts, v.Labels[LabelPart]) {
			one.volumes++
		}
	}
	return nil
}

// complete fills in what should run, and what is on the disk. ids remembers images that were asked for.
func (p *Provider) complete(ctx context.Context, one *instanceSight, ids map[string]string) error {
	var err error
	_, working := p.working.Load(one.inst.GetId())
	one.busy = working && one.inst.GetMode() == v1.InstanceMode_INSTANCE_MODE_CLOSED
	if one.rec, one.err = p.readRecord(one.inst.GetId()); one.err != nil {
		one.rec = &record{}
	}
	one.secrets, one.turn = p.staleSecrets(one.inst, one.rec), p.turning(one.inst, one.rec)
	for part, spec := range p.wanted(one.inst) {
		id, known := ids[spec.Image]
		if !known {
			if id, err = p.engine.ImageID(ctx, spec.Image); err != nil && !errs.Is(err, errs.NotFound) {
				return err
			}
			ids[spec.Image] = id
		}
		if one.wish[part], err = marked(spec, id); err != nil {
			return err
		}
	}
	return nil
}

// wanted are the containers that should run in an instance's mode.
func (p *Provider) wanted(inst *v1.InstanceSpec) map[string]docker.ContainerSpec {
	list := map[string]docker.ContainerSpec{}
	switch inst.GetMode() {
	case v1.InstanceMode_INSTANCE_MODE_CLOSED:
		if p.host.Exists(p.installedFile(inst.GetId())) { // an installation brings its own, and throws away what was there
			list[partDB] = p.dbContainer(inst, false)
		}
	case v1.InstanceMode_INSTANCE_MODE_RUNNING:
		list[partDB], list[partApp] = p.dbContainer(inst, false), p.appContainer(inst)
		if inst.GetCron() {
			list[partCron] = p.cronContainer(inst)
		}
	}
	return list
}

// parts are the containers of an instance in the order in which they start.
func parts() []string { return []string{partDB, partApp, partCron} }

// moved says that conf.php was written for another public address.
func (one *instanceSight) moved() bool {
	return one.rec.URL != "" && one.rec.URL != publicURL(one.inst) && one.inst.GetMode() == v1.InstanceMode_INSTANCE_MODE_RUNNING
}

func publicURL(inst *v1.InstanceSpec) string { return "https://" + mainDomain(inst) }

// differences are for people; without any the instance is as wished.
func (one *instanceSight) differences() []string {
	var list []string
	if one.busy {
		return nil
	}
	if one.inst.GetAdopted() != nil {
		return one.adoptedDifferences()
	}
	switch {
	case one.err != nil:
		list = append(list, "what was applied cannot be read")
	case !one.network:
		list = append(list, "network: made")
	case one.inst.GetSubnet() != "" && one.subnet != one.inst.GetSubnet():
		list = append(list, "network: "+one.inst.GetSubnet()+" instead of "+one.subnet)
	}
	if one.volumes < len(volumeParts) {
		list = append(list, "volumes: made")
	}
	for _, ref := range one.secrets {
		list = append(list, "secret "+secretName(ref)+": written")
	}
	for _, ref := range one.turn {
		list = append(list, "secret "+secretName(ref)+": changed, in the database too")
	}
	if one.moved() {
		list = append(list, "address: "+publicURL(one.inst))
	}
	for _, part := range parts() {
		have, wish := one.have[part], one.wish[part]
		switch {
		case wish.Name == "" && have != nil && isUp(have):
			list = append(list, part+": stopped")
		case wish.Name == "":
		case have == nil:
			list = append(list, part+": made from "+wish.Image)
		case have.Labels[labelWish] != wish.Labels[labelWish]:
			list = append(list, part+": made anew from "+wish.Image)
		case have.State != "running":
			list = append(list, part+": started")
		case !one.joined(have):
			list = append(list, part+": made anew in its network")
		}
	}
	if one.rec.Limits != limitsText(one.inst.GetLimits()) {
		list = append(list, "limits: changed")
	}
	return list
}

// joined says that a container is in the instance's network. One that does not run shows it by its start.
func (one *instanceSight) joined(have *docker.Container) bool {
	return have.State != "running" || slices.Contains(have.Networks, networkName(one.inst.GetId()))
}

// unwell says what of the instance does not run as it should.
func (one *instanceSight) unwell() error {
	if one.busy {
		return nil
	}
	if one.inst.GetAdopted() != nil {
		if err := one.incomplete(); err != nil {
			return err
		}
	}
	for _, part := range parts() {
		if one.wish[part].Name == "" {
			continue
		}
		have := one.have[part]
		switch {
		case have == nil:
			return errs.New(errs.Internal, "its container %s is gone", part)
		case have.State != "running":
			return errs.New(errs.Internal, "its container %s is %s", part, have.State).WithHint("infractl instance logs %s", one.inst.GetName())
		case have.Health == "unhealthy":
			return errs.New(errs.Internal, "its container %s is unhealthy", part).WithHint("infractl instance logs %s", one.inst.GetName())
		}
	}
	return nil
}
