package dolibarr

import (
	"context"
	"encoding/json"
	"path"
	"time"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// What an application's database is called.
const (
	dbHost = "db"
	dbName = "dolibarr"
	dbUser = "dolibarr"
)

// installed is the mark of a finished installation, written last.
type installed struct {
	Version      string   `json:"version"`
	FromTemplate bool     `json:"from_template"`
	Modules      []string `json:"modules"`
	// tool is the container of the tool, which finish removes.
	tool string
}

func (p *Provider) installedFile(id string) string  { return path.Join(p.folder(id), "installed.json") }
func (p *Provider) installingFile(id string) string { return path.Join(p.folder(id), "installing") }

// readInstalled returns the mark; nil when an installation has not come to its end, or never began.
func (p *Provider) readInstalled(id string) (*installed, error) {
	f, err := p.host.Stat(p.installedFile(id))
	if err != nil || f.Absent {
		return nil, err
	}
	var have installed
	if err := json.Unmarshal(f.Data, &have); err != nil || have.Version == "" {
		return nil, errs.New(errs.Precondition, "the mark of its installation is damaged").At(p.installedFile(id)).
			WithHint("look whether the instance works; then write {\"version\":\"X.Y.Z\"} into it")
	}
	return &have, nil
}

// install installs Dolibarr: a copy of the warm template where it is asked for and there is a good one, and the installer otherwise. Whatever
// a former try has left is thrown away; what was finished is left alone.
func (p *Provider) install(ctx context.Context, inst *v1.InstanceSpec, a *v1.InstallInstance) (*v1.InstanceResult, error) {
	if err := checkInstallable(inst); err != nil {
		return nil, err
	}
	id := inst.GetId()
	have, err := p.readInstalled(id)
	if err != nil {
		return nil, err
	}
	if have != nil {
		if have.Version != inst.GetVersion() {
			return nil, errs.New(errs.Conflict, "it is installed as %s, and %s is asked for", have.Version, inst.GetVersion())
		}
		return &v1.InstanceResult{Version: have.Version, Modules: have.Modules, FromTemplate: have.FromTemplate}, p.tidy(ctx, id)
	}
	t := &steps{}
	if err := p.prepare(ctx, t, inst); err != nil {
		return &v1.InstanceResult{Steps: t.list}, err
	}
	if err := p.guard(ctx, id); err != nil {
		return nil, err
	}
	if _, err := p.host.WriteFile(p.installingFile(id), nil, 0o600); err != nil {
		return nil, err
	}
	done := &installed{Version: inst.GetVersion()}
	input := installInput(inst, a)
	warm := errs.New(errs.NotFound, "none was asked for")
	if a.GetFromTemplate() {
		if err := p.warm(ctx, t, inst, input, done); err == nil {
			warm, done.FromTemplate = nil, true
		} else {
			warm = errs.New(errs.CodeOf(err), "%w", err)
			p.log.Warn("the warm template cannot be used, installing without", "instance", inst.GetName(), "version", inst.GetVersion(), "error", err)
		}
	}
	if warm != nil {
		if err := ctx.Err(); err != nil {
			return &v1.InstanceResult{Steps: t.list}, errs.Wrap("install", err)
		}
		if err := p.cold(ctx, t, inst, input, done); err != nil {
			return &v1.InstanceResult{Steps: t.list}, err
		}
	}
	err = p.finish(ctx, t, inst, done)
	return &v1.InstanceResult{Version: done.Version, Modules: done.Modules, FromTemplate: done.FromTemplate, Steps: t.list}, err
}

// tidy removes what an agent that died after the mark has left.
func (p *Provider) tidy(ctx context.Context, id string) error {
	if err := p.dropNamed(ctx, containerName(id, partTool)); err != nil {
		return err
	}
	return p.host.Remove(p.installingFile(id))
}

func installInput(inst *v1.InstanceSpec, a *v1.InstallInstance) dolibarr.InstallInput {
	return dolibarr.InstallInput{URL: "https://" + mainDomain(inst), DBHost: dbHost, DBName: dbName, DBUser: dbUser,
		AdminLogin: adminLogin(inst), Company: a.GetCompany(), Country: a.GetCountry(), Language: inst.GetLanguage(),
		Timezone: inst.GetTimezone(), Modules: a.GetModules()}
}

// prepare makes all that an installation needs beside its data.
func (p *Provider) prepare(ctx context.Context, t *steps, inst *v1.InstanceSpec) error {
	err := t.do("images", func() error {
		for _, i := range []*v1.StackImage{inst.GetAppImage(), inst.GetDbImage()} {
			if err := p.stageImage(ctx, i); err != nil {
				return errs.Wrap(i.GetUse(), err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.do("prepare", func() error {
		return all(
			func() error { return p.ensureNetwork(ctx, inst) },
			func() error { return errs.Join(p.writeSecrets(ctx, inst), p.writeTool(ctx, inst)) },
		)
	})
}

// guard refuses to throw data away that no unfinished installation of ours has made.
func (p *Provider) guard(ctx context.Context, id string) error {
	if p.host.Exists(p.installingFile(id)) {
		return nil
	}
	paths, err := p.volumePaths(ctx, id)
	if err != nil {
		return err
	}
	for volume, pattern := range map[string]string{"data": dbName + "/*.ibd", "documents": "install.lock"} {
		if paths[volume] == "" {
			continue
		}
		found, err := p.host.Glob(path.Join(paths[volume], pattern))
		if err != nil {
			return errs.Wrap("look for data", err)
		}
		if len(found) > 0 {
			return errs.New(errs.Precondition, "volume %s holds data that no unfinished installation has made", volumeName(id, volume)).
				WithHint("nothing was changed; is it another instance's, or was %s removed?", p.installedFile(id))
		}
	}
	return nil
}

// volumePaths are the folders of an instance's volumes on the host, by part.
func (p *Provider) volumePaths(ctx context.Context, id string) (map[string]string, error) {
	list, err := p.engine.Volumes(ctx, LabelID+"="+id)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, part := range volumeParts {
		for _, v := range list {
			if v.Name == volumeName(id, part) {
				out[part] = v.Path
			}
		}
	}
	return out, nil
}

var volumeParts = []string{"data", "documents", "custom"}

// emptied begins anew: no container, empty volumes, no conf.php.
func (p *Provider) emptied(ctx context.Context, inst *v1.InstanceSpec) error {
	list, err := p.engine.Containers(ctx, LabelID+"="+inst.GetId())
	if err != nil {
		return err
	}
	var gone []func() error
	for _, c := range list {
		gone = append(gone, func() error { return p.engine.RemoveContainer(ctx, c.ID) })
	}
	if err := all(gone...); err != nil {
		return err
	}
	volumes, err := p.engine.Volumes(ctx, LabelID+"="+inst.GetId())
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if err := p.engine.RemoveVolume(ctx, v.Name); err != nil {
			return err
		}
	}
	if err := p.ensureVolumes(ctx, inst); err != nil {
		return err
	}
	return p.emptyConf(inst.GetId())
}

// emptyConf leaves nothing but an empty folder of the web user.
func (p *Provider) emptyConf(id string) error {
	files, err := p.host.Glob(path.Join(p.confDir(id), "*"))
	if err != nil {
		return errs.Wrap("empty conf", err)
	}
	for _, f := range files {
		if err := p.host.RemoveAll(f); err != nil {
			return err
		}
	}
	return p.ensureConf(id)
}

// cold runs Dolibarr's installer against a database that does not sync, and stops that cleanly.
func (p *Provider) cold(ctx context.Context, t *steps, inst *v1.InstanceSpec, input dolibarr.InstallInput, done *installed) error {
	if err := t.do("empty", func() error { return p.emptied(ctx, inst) }); err != nil {
		return err
	}
	var db, tool string
	defer func() { p.dropTool(ctx, tool) }()
	err := t.do("start", func() error {
		return all(
			func() (err error) {
				spec := p.dbContainer(inst, true)
				if db, err = p.startDB(ctx, spec); err != nil {
					return err
				}
				return p.reachable(ctx, db, spec.Name)
			},
			func() (err error) { tool, err = p.startTool(ctx, inst, dolibarr.VerbInstall, true); return err },
		)
	})
	if err != nil {
		return err
	}
	answer, err := p.verb(ctx, t, tool, dolibarr.VerbInstall, input)
	if err != nil {
		return err
	}
	if answer.Version != inst.GetVersion() {
		return errs.New(errs.Precondition, "the image %s holds Dolibarr %.40s, not %s", inst.GetAppImage().GetUse(), answer.Version, inst.GetVersion()).
			WithHint("leave the tag out of dolibarr.images.app, or infractl image build dolibarr --version %s", inst.GetVersion())
	}
	done.Modules = answer.Modules
	if err := t.do("stop", func() error { return p.stopClean(ctx, db) }); err != nil {
		return err
	}
	done.tool, tool = tool, ""
	return nil
}

func (p *Provider) startDB(ctx context.Context, spec docker.ContainerSpec) (string, error) {
	if err := p.dropNamed(ctx, spec.Name); err != nil {
		return "", err
	}
	id, err := p.engine.CreateContainer(ctx, spec)
	if err != nil {
		return "", err
	}
	return id, p.engine.Start(ctx, id)
}

// keptDB is the database's container as it is to stay: an apply finds it as wished.
func (p *Provider) keptDB(ctx context.Context, inst *v1.InstanceSpec) (docker.ContainerSpec, error) {
	spec := p.dbContainer(inst, false)
	id, err := p.engine.ImageID(ctx, spec.Image)
	if err != nil {
		return spec, err
	}
	return marked(spec, id)
}

// stopClean ends a database so that its files are whole, and removes its container. One that had to be killed is an error.
func (p *Provider) stopClean(ctx context.Context, id string) error {
	if err := p.engine.StopContainer(ctx, id, stopGrace); err != nil {
		return err
	}
	d, err := p.engine.Inspect(ctx, id)
	if err != nil {
		return err
	}
	if d.ExitCode != 0 || d.OOMKilled {
		return errs.New(errs.Internal, "the database did not end cleanly: exit code %d, out of memory: %t", d.ExitCode, d.OOMKilled)
	}
	return p.engine.RemoveContainer(ctx, id)
}

// finish writes what was made to the disk, starts the database as it is to stay, and marks the installation as done.
func (p *Provider) finish(ctx context.Context, t *steps, inst *v1.InstanceSpec, done *installed) error {
	id := inst.GetId()
	err := all(
		func() error { p.dropTool(ctx, done.tool); return nil },
		func() error { return t.do("sync", func() error { return p.syncVolumes(ctx, id) }) },
		func() error {
			if done.FromTemplate {
				return nil // it runs as it is to stay
			}
			return t.do("restart", func() error {
				spec, err := p.keptDB(ctx, inst)
				if err == nil {
					_, err = p.startDB(ctx, spec)
				}
				return err
			})
		},
	)
	if err != nil {
		return err
	}
	text, err := json.Marshal(done)
	if err != nil {
		return errs.Wrap("mark the installation", err)
	}
	if err := p.pending(id, func(r *record) { r.URL = publicURL(inst) }); err != nil {
		return err
	}
	if _, err := p.host.WriteFile(p.installedFile(id), append(text, '\n'), 0o600); err != nil {
		return err
	}
	return p.host.Remove(p.installingFile(id))
}

// syncVolumes makes the file system of the volumes be on the disk: neither a database without syncs nor a copy is there before.
func (p *Provider) syncVolumes(ctx context.Context, id string) error {
	paths, err := p.volumePaths(ctx, id)
	if err != nil {
		return err
	}
	var at []string
	for _, part := range volumeParts[:2] {
		if paths[part] == "" {
			return errs.New(errs.Internal, "volume %s is gone", volumeName(id, part))
		}
		at = append(at, p.host.Path(paths[part]))
	}
	return p.sync(ctx, append(at, p.host.Path(p.folder(id)))...)
}

func (p *Provider) sync(ctx context.Context, paths ...string) error {
	_, err := p.host.RunCmd(ctx, host.Cmd{Argv: append([]string{"sync", "-f"}, paths...), Timeout: 5 * time.Minute})
	return err
}
