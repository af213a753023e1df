package dolibarr

import (
	"context"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// An adopted instance has containers, a network and a folder that infractl did not make. They are started and stopped, and the front joins
// the network; none of them is ever made, or made anew: what they were made of is in a compose file that is not ours.

// engineName is how the engine and Compose name things.
var engineName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// checkAdopted refuses names that cannot be those of an adopted instance: a purge removes what they say.
func checkAdopted(inst *v1.InstanceSpec) error {
	a := inst.GetAdopted()
	for _, name := range slices.Concat([]string{a.GetAppContainer(), a.GetDbContainer(), a.GetNetwork()}, a.GetVolumes()) {
		if !engineName.MatchString(name) || strings.HasPrefix(name, frontNetwork+"-") || name == frontNetwork {
			return errs.New(errs.Invalid, "adopted instance %s: %.60q is no name of a part of it", inst.GetName(), name)
		}
	}
	if dir := a.GetFolder(); dir != "" && !foreignFolder(dir) || a.GetAppContainer() == a.GetDbContainer() {
		return errs.New(errs.Invalid, "adopted instance %s: its folder %.200q or its containers cannot be", inst.GetName(), dir)
	}
	return nil
}

// foreignFolder reports whether a folder can be a client's of the original scripts.
func foreignFolder(dir string) bool {
	return path.Clean(dir) == dir && slices.Contains(foreignFolders, path.Dir(dir)) && engineName.MatchString(path.Base(dir))
}

// adoptedParts are the names of the containers of an adopted instance by part.
func adoptedParts(a *v1.AdoptedInstance) map[string]string {
	return map[string]string{partDB: a.GetDbContainer(), partApp: a.GetAppContainer()}
}

// lookAdopted finds the parts of adopted instances by their whole names: they carry no label of ours.
func (p *Provider) lookAdopted(ctx context.Context, list []*instanceSight) error {
	if !slices.ContainsFunc(list, func(one *instanceSight) bool { return one.inst.GetAdopted() != nil }) {
		return nil
	}
	containers, err := p.engine.Containers(ctx)
	if err != nil {
		return err
	}
	networks, err := p.engine.Networks(ctx)
	if err != nil {
		return err
	}
	for _, one := range list {
		a := one.inst.GetAdopted()
		if a == nil {
			continue
		}
		for part, name := range adoptedParts(a) {
			for i := range containers {
				if containers[i].Name == name {
					one.have[part] = &containers[i]
				}
			}
			if one.inst.GetMode() == v1.InstanceMode_INSTANCE_MODE_RUNNING {
				one.wish[part] = docker.ContainerSpec{Name: name}
			}
		}
		one.network = slices.ContainsFunc(networks, func(n docker.Network) bool { return n.Name == a.GetNetwork() })
		if one.rec, one.err = p.readRecord(one.inst.GetId()); one.err != nil {
			one.rec = &record{}
		}
	}
	return nil
}

// adoptedDifferences are for people, as differences.
func (one *instanceSight) adoptedDifferences() []string {
	var list []string
	if one.err != nil {
		list = append(list, "what was applied cannot be read")
	}
	if err := one.incomplete(); err != nil {
		list = append(list, err.Error())
	}
	for _, part := range []string{partDB, partApp} {
		have, wished := one.have[part], one.wish[part].Name != ""
		switch {
		case have == nil:
		case wished && have.State != "running":
			list = append(list, part+": started")
		case !wished && isUp(have):
			list = append(list, part+": stopped")
		}
	}
	if text := one.adoptedLimits(); text != "" && text != one.rec.Limits {
		list = append(list, "limits: changed")
	}
	return list
}

// incomplete says what of a running adopted instance is not there. Only its compose file makes that again.
func (one *instanceSight) incomplete() error {
	if one.inst.GetMode() != v1.InstanceMode_INSTANCE_MODE_RUNNING {
		return nil
	}
	a := one.inst.GetAdopted()
	up := "docker compose -f " + path.Join(a.GetFolder(), "dolibarr.yml") + " up -d"
	if a.GetFolder() == "" {
		up = "docker compose up -d in the folder of its compose file"
	}
	gone := func(what, command string) error { // the command is in the message: of what a host complains that alone reaches people
		return errs.New(errs.Precondition, "its %s is gone, which infractl did not make and cannot make again; on its host does: %s", what, command)
	}
	switch app := one.have[partApp]; {
	case !one.network:
		return gone("network "+a.GetNetwork(), "docker network create "+a.GetNetwork()+" --attachable; "+up)
	case one.have[partDB] == nil:
		return gone("container "+a.GetDbContainer(), up)
	case app == nil:
		return gone("container "+a.GetAppContainer(), up)
	case !slices.Contains(app.Networks, a.GetNetwork()):
		return errs.New(errs.Precondition, "its container %s is not in the network %s, and the front does not reach it; on its host: docker network connect %s %s",
			app.Name, a.GetNetwork(), a.GetNetwork(), app.Name)
	}
	return nil
}

// changeAdopted makes an adopted instance be as wished.
func (p *Provider) changeAdopted(ctx context.Context, one *instanceSight) error {
	if err := errs.Join(one.err, one.incomplete()); err != nil {
		return err
	}
	for _, part := range []string{partApp, partDB} {
		if one.wish[part].Name == "" {
			if err := p.down(ctx, one.have[part]); err != nil {
				return errs.Wrap(part, err)
			}
		}
	}
	if err := p.limitAdopted(ctx, one); err != nil {
		return err
	}
	for _, part := range []string{partDB, partApp} {
		have := one.have[part]
		if one.wish[part].Name == "" || have.State == "running" {
			continue
		}
		if stuck(have) || have.State == "paused" {
			return errs.New(errs.Precondition, "its container %s is %s, and cannot be started out of that; on its host: docker unpause %s",
				have.Name, have.State, have.Name)
		}
		if err := p.engine.Start(ctx, have.ID); err != nil {
			return errs.Wrap(part, err)
		}
		if part == partApp {
			ctx, cancel := context.WithTimeout(ctx, readyLimit)
			defer cancel()
			return errs.Wrap(part, p.listens(ctx, have.ID))
		}
	}
	return nil
}

// adoptedLimits identifies the limits that an operator has set, and the containers that got them: one that was made anew by hand has none.
// It is empty while nobody has set any.
func (one *instanceSight) adoptedLimits() string {
	l := one.inst.GetLimits()
	if l.GetMemoryBytes() == 0 && l.GetMilliCpus() == 0 && l.GetPids() == 0 {
		return ""
	}
	text := limitsText(l)
	for _, part := range []string{partDB, partApp} {
		if have := one.have[part]; have != nil {
			text += " " + have.ID
		}
	}
	return text
}

// limitAdopted gives the containers the limits that an operator has set; those that nobody has set stay as they are.
func (p *Provider) limitAdopted(ctx context.Context, one *instanceSight) error {
	text := one.adoptedLimits()
	if text == "" || text == one.rec.Limits {
		return nil
	}
	db, app, cron := shares(one.inst.GetLimits())
	if app.memory > 0 {
		app.memory += cron.memory // it has no jobs of ours
	}
	if app.pids == 0 {
		db.pids = 0
	}
	for part, l := range map[string]share{partDB: db, partApp: app} {
		if have := one.have[part]; have != nil && !stuck(have) {
			if err := p.engine.UpdateLimits(ctx, have.ID, l.memory, l.milliCPUs, l.pids); err != nil {
				return errs.Wrap(part, err)
			}
		}
	}
	return p.pending(one.inst.GetId(), func(r *record) { r.Limits = text })
}

// revived says that a container of a stopped adopted instance runs: its compose file may say that it always does.
func (one *instanceSight) revived() error {
	for _, part := range []string{partApp, partDB} {
		if have := one.have[part]; one.inst.GetAdopted() != nil && one.wish[part].Name == "" && have != nil && isUp(have) {
			return errs.New(errs.Internal, "its container %s ran, and is stopped again", part)
		}
	}
	return nil
}

// letGo removes what was noted of adopted instances that left the wish; they themselves stay as they are.
func (p *Provider) letGo(former, now *v1.DolibarrSpec) error {
	var failed []error
	for _, inst := range former.GetInstances() {
		if inst.GetAdopted() != nil && byID(now, inst.GetId()) == nil {
			failed = append(failed, p.host.RemoveAll(p.folder(inst.GetId())))
		}
	}
	return errs.Join(failed...)
}

// purgeAdopted removes an adopted instance for good, and lists what it removed. Everything is named by the task: there are no labels.
func (p *Provider) purgeAdopted(ctx context.Context, inst *v1.InstanceSpec) (*v1.InstanceResult, error) {
	a, t, out := inst.GetAdopted(), &steps{}, &v1.InstanceResult{}
	if err := checkAdopted(inst); err != nil {
		return nil, err
	}
	all, err := p.engine.Containers(ctx)
	if err != nil {
		return nil, err
	}
	var own, others []docker.Container
	for _, c := range all {
		switch {
		case c.Name == a.GetAppContainer() || c.Name == a.GetDbContainer():
			own = append(own, c)
		case slices.Contains(c.Networks, a.GetNetwork()):
			others = append(others, c)
		}
	}
	if err := p.outside(own, a.GetFolder()); err != nil {
		return nil, err
	}
	removed := func(kind, name string, err error) error {
		if err == nil {
			out.Removed = append(out.Removed, kind+" "+name)
		}
		return err
	}
	err = t.do("containers", func() error {
		for _, c := range own {
			if err := removed("container", c.Name, p.engine.RemoveContainer(ctx, c.ID)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	if err := t.do("network", func() error { return p.removeAdoptedNetwork(ctx, a.GetNetwork(), others, removed) }); err != nil {
		return out, err
	}
	err = t.do("data", func() error {
		for _, name := range a.GetVolumes() {
			there, err := p.volumeThere(ctx, name)
			if err == nil && there {
				err = removed("volume", name, p.engine.RemoveVolume(ctx, name))
			}
			if err != nil {
				return err
			}
		}
		if a.GetFolder() != "" && p.host.Exists(a.GetFolder()) {
			if err := removed("folder", a.GetFolder(), p.host.RemoveAll(a.GetFolder())); err != nil {
				return err
			}
		}
		return p.host.RemoveAll(p.folder(inst.GetId()))
	})
	out.Steps = t.list
	return out, err
}

// removeAdoptedNetwork removes a network, and before that takes out who else is in it: the front, and the proxy and the database console
// that the original scripts let join.
func (p *Provider) removeAdoptedNetwork(ctx context.Context, name string, others []docker.Container, removed func(kind, name string, err error) error) error {
	networks, err := p.engine.Networks(ctx)
	if err != nil || !slices.ContainsFunc(networks, func(n docker.Network) bool { return n.Name == name }) {
		return err
	}
	for _, c := range others {
		if err := p.engine.Disconnect(ctx, name, c.ID); err != nil {
			return err
		}
	}
	return removed("network", name, p.engine.RemoveNetwork(ctx, name))
}

func (p *Provider) volumeThere(ctx context.Context, name string) (bool, error) {
	list, err := p.engine.Volumes(ctx)
	return slices.ContainsFunc(list, func(v docker.Volume) bool { return v.Name == name }), err
}

// outside refuses to destroy an instance that writes into folders of the host which are not its own: they hold its data, and nobody says
// who else's.
func (p *Provider) outside(own []docker.Container, folder string) error {
	for _, c := range own {
		for _, dir := range p.writes(&c) {
			if folder != "" && (dir == folder || strings.HasPrefix(dir, folder+"/")) {
				continue
			}
			return errs.New(errs.Precondition, "its container %s writes into %s, which is not in its folder: infractl does not know whose that is", c.Name, dir).
				WithHint("on its host: remove what is the customer's in %s and the folder itself, then the purge goes on", dir)
		}
	}
	return nil
}

// writes are the folders of the host that a container may write into.
func (p *Provider) writes(c *docker.Container) []string {
	var out []string
	for _, m := range c.Mounts {
		if m.Host != "" && !m.ReadOnly && p.host.Exists(m.Host+"/.") { // only a folder has that
			out = append(out, m.Host)
		}
	}
	return out
}
