package dolibarr

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// faultyEngine lets the suite fail each call to the engine: before it does anything, after, and by hanging.
type faultyEngine struct {
	*testEngine
	faults *providertest.Faults
}

type calling func() error

// Run implements host.Runner.
func (c calling) Run(context.Context, host.Cmd) (host.Output, error) { return host.Output{}, c() }

func (f *faultyEngine) call(ctx context.Context, op string, do func() error) error {
	_, err := f.faults.Runner(calling(do)).Run(ctx, host.Cmd{Argv: []string{op}})
	return err
}

func (f *faultyEngine) Containers(ctx context.Context, labels ...string) (list []docker.Container, err error) {
	err = f.call(ctx, "list", func() (err error) { list, err = f.testEngine.Containers(ctx, labels...); return err })
	return list, err
}

func (f *faultyEngine) CreateContainer(ctx context.Context, s docker.ContainerSpec) (id string, err error) {
	err = f.call(ctx, "create "+s.Name, func() (err error) { id, err = f.testEngine.CreateContainer(ctx, s); return err })
	return id, err
}

func (f *faultyEngine) Start(ctx context.Context, id string) error {
	return f.call(ctx, "start "+id, func() error { return f.testEngine.Start(ctx, id) })
}

func (f *faultyEngine) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	return f.call(ctx, "stop "+id, func() error { return f.testEngine.StopContainer(ctx, id, grace) })
}

func (f *faultyEngine) RemoveContainer(ctx context.Context, id string) error {
	return f.call(ctx, "remove "+id, func() error { return f.testEngine.RemoveContainer(ctx, id) })
}

func (f *faultyEngine) UpdateLimits(ctx context.Context, id string, memory, milliCPUs, pids int64) error {
	return f.call(ctx, "limits "+id, func() error { return f.testEngine.UpdateLimits(ctx, id, memory, milliCPUs, pids) })
}

func (f *faultyEngine) Run(ctx context.Context, id string, argv []string, user string, stdin io.Reader, stdout io.Writer) (code int, err error) {
	err = f.call(ctx, "run "+strings.Join(argv, " "), func() (err error) {
		code, err = f.testEngine.Run(ctx, id, argv, user, stdin, stdout)
		return err
	})
	return code, err
}

func (f *faultyEngine) CreateNetwork(ctx context.Context, name, subnet string, labels map[string]string) error {
	return f.call(ctx, "make network "+name, func() error { return f.testEngine.CreateNetwork(ctx, name, subnet, labels) })
}

func (f *faultyEngine) RemoveNetwork(ctx context.Context, name string) error {
	return f.call(ctx, "remove network "+name, func() error { return f.testEngine.RemoveNetwork(ctx, name) })
}

func (f *faultyEngine) Connect(ctx context.Context, network, id string, aliases ...string) error {
	return f.call(ctx, "join "+network, func() error { return f.testEngine.Connect(ctx, network, id, aliases...) })
}

func (f *faultyEngine) Disconnect(ctx context.Context, network, id string) error {
	return f.call(ctx, "leave "+network, func() error { return f.testEngine.Disconnect(ctx, network, id) })
}

func (f *faultyEngine) CreateVolume(ctx context.Context, name string, labels map[string]string) error {
	return f.call(ctx, "make volume "+name, func() error { return f.testEngine.CreateVolume(ctx, name, labels) })
}

// state is what runs, of what it is made, and for which address it was written. What left the wish is stopped and stays, so what is stopped
// does not count.
func (e *testEngine) state() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var lines []string
	for _, c := range e.containers {
		if c.Labels[LabelPart] == "" || !isUp(&c.Container) {
			continue
		}
		made := c.spec
		made.Labels = maps.Clone(made.Labels)
		delete(made.Labels, labelWish) // it holds the host's folder
		spec, err := json.Marshal(made)
		if err != nil {
			return "", err
		}
		slices.Sort(c.Networks)
		line := fmt.Sprintf("%s %s in %v: %s", c.Name, c.State, c.Networks, spec)
		for _, n := range c.Networks {
			line += " " + e.networks[n].Subnet
		}
		if c.Labels[LabelPart] == partApp {
			id := c.Labels[LabelID]
			line += fmt.Sprintf(" for %s with %.40q of %.40q", e.urls[id], strings.TrimPrefix(e.confs[id], "VALUEOF"), e.takes[id])
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.ReplaceAll(strings.Join(lines, "\n"), e.root, ""), nil
}

// foreign is what no label of ours stands on.
func (e *testEngine) foreign() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var lines []string
	for _, c := range e.containers {
		if c.Labels[LabelPart] == "" {
			lines = append(lines, fmt.Sprintf("%s %s %v", c.Name, c.State, c.Networks))
		}
	}
	for name, n := range e.networks {
		if len(n.Labels) == 0 {
			lines = append(lines, "network "+name)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), nil
}

// placed puts an installed instance onto a host: what an installation leaves, without going through it.
func (r *taskRig) placed(inst *v1.InstanceSpec) {
	r.t.Helper()
	id := inst.GetId()
	for _, part := range volumeParts {
		must(r.t, r.engine.CreateVolume(r.t.Context(), volumeName(id, part), labels(inst, part)))
	}
	must(r.t, r.ensureConf(id))
	for file, text := range map[string]string{r.confFile(id): "<?php // install", r.installedFile(id): `{"version":"19.0.4"}`} {
		_, err := r.host.WriteFile(file, []byte(text), 0o400)
		must(r.t, err)
	}
	r.engine.urls[id] = publicURL(inst)
	r.engine.takes[id], r.engine.confs[id] = []string{"VALUEOFdb0v1"}, "VALUEOFdb0v1"
}

type env = providertest.Env[*v1.DolibarrSpec]

// conformance makes hosts with acme and beta installed, beside what is others'.
type conformance struct{ engines map[string]*testEngine }

func (c *conformance) host(t *testing.T, faults *providertest.Faults) env {
	r := newTaskRig(t)
	c.engines[r.root] = r.engine
	r.engine.images["infractl/dolibarr:19.0.5"] = "sha256:app5"
	for _, inst := range []*v1.InstanceSpec{testInstance("aaaaaaaa", "acme"), testInstance("bbbbbbbb", "beta")} {
		r.placed(inst)
	}
	r.engine.networks["bridge"] = docker.Network{Name: "bridge"}
	_, err := r.engine.CreateContainer(t.Context(), docker.ContainerSpec{Name: "acme-app", Image: "infractl/front:1", Networks: []docker.Attachment{{Network: "bridge"}}})
	must(t, err)
	p := New(Config{Host: host.New(host.Config{Root: r.root, Runner: faults.Runner(calling(func() error { return nil })), Fault: faults.Op}),
		Engine: &faultyEngine{r.engine, faults}, Images: testImages{r.engine}, Fetcher: testFetcher{}, Transport: r.engine, FrontWait: 200 * time.Millisecond, ConfWait: time.Millisecond})
	return env{Root: r.root, Provider: p, State: r.engine.state, Foreign: r.engine.foreign}
}

func changed(inst *v1.InstanceSpec, change func(*v1.InstanceSpec)) *v1.InstanceSpec {
	inst = proto.Clone(inst).(*v1.InstanceSpec)
	change(inst)
	return inst
}

func want(insts ...*v1.InstanceSpec) wish {
	return wish{Spec: frontSpec(insts...), Stage: provider.Services}
}

func TestConformance(t *testing.T) {
	c := &conformance{engines: map[string]*testEngine{}}
	closed := testInstance("aaaaaaaa", "acme")
	acme := changed(closed, func(i *v1.InstanceSpec) { i.Mode, i.Cron = runningMode, true })
	beta := changed(testInstance("bbbbbbbb", "beta"), func(i *v1.InstanceSpec) { i.Mode, i.Subnet = runningMode, "10.210.0.32/28" })
	newer := changed(acme, func(i *v1.InstanceSpec) {
		i.AppImage.Use, i.Version, i.Cron = "infractl/dolibarr:19.0.5", "19.0.5", false
		i.Limits = &v1.InstanceLimits{MemoryBytes: 1 << 30, MilliCpus: 2000, Pids: 300}
	})
	moved := changed(beta, func(i *v1.InstanceSpec) {
		i.Name, i.Domains, i.Subnet, i.Secrets[0].Version = "gamma", []string{"gamma.example.test"}, "10.210.0.48/28", "v2"
		i.Secrets[2].Version, i.Secrets[3].Version = "v2", "v2" // those of the database
	})
	suspended := changed(newer, func(i *v1.InstanceSpec) { i.Mode = v1.InstanceMode_INSTANCE_MODE_SUSPENDED })
	archived := changed(newer, func(i *v1.InstanceSpec) { i.Mode = v1.InstanceMode_INSTANCE_MODE_ARCHIVED })
	container := func(e env, part string) *testContainer {
		return c.engines[e.Root].find(containerName("aaaaaaaa", part))
	}
	const secrets = "/var/lib/infractl/instances/aaaaaaaa/secrets/"
	steps := []providertest.Step[*v1.DolibarrSpec]{
		{Name: "none", Wish: wish{Spec: &v1.DolibarrSpec{}, Stage: provider.Services}, NoChange: true},
		{Name: "closed", Wish: want(closed)},
		{Name: "two that run", Wish: want(acme, beta)},
		{Name: "the same again", Wish: want(acme, beta), NoChange: true},
		{Name: "image, limits and jobs of one, name, address, network and secrets of the other", Wish: want(newer, moved)},
		{Name: "one suspended", Wish: want(suspended, moved)},
		{Name: "one archived, one that left", Wish: want(archived)},
		{Name: "none any more", Wish: wish{Spec: &v1.DolibarrSpec{}, Stage: provider.Services}},
	}
	var drifts []providertest.Drift[*v1.DolibarrSpec]
	for name, harm := range map[string]func(t *testing.T, e env){
		"container gone":          func(_ *testing.T, e env) { delete(c.engines[e.Root].containers, container(e, "db").ID) },
		"container stopped":       func(_ *testing.T, e env) { container(e, "app").State = "exited" },
		"container dead":          func(_ *testing.T, e env) { container(e, "db").State = "dead" },
		"container paused":        func(_ *testing.T, e env) { container(e, "cron").State = "paused" },
		"made by hand":            func(_ *testing.T, e env) { container(e, "app").Labels[labelWish] = "other" },
		"taken off its network":   func(_ *testing.T, e env) { container(e, "app").Networks = nil },
		"stopped, network gone":   func(_ *testing.T, e env) { networkGone(c.engines[e.Root]) },
		"front gone":              func(_ *testing.T, e env) { delete(c.engines[e.Root].containers, c.engines[e.Root].find(frontName).ID) },
		"secret gone":             func(t *testing.T, e env) { must(t, os.Remove(e.Root+secrets+"db")) },
		"tool's secret gone":      func(t *testing.T, e env) { must(t, os.Remove(e.Root+secrets+"web/cron-key")) },
		"secret open to everyone": func(t *testing.T, e env) { must(t, os.Chmod(e.Root+secrets+"db-root", 0o444)) },
		"record damaged": func(t *testing.T, e env) {
			must(t, os.WriteFile(e.Root+"/var/lib/infractl/instances/aaaaaaaa/applied.json", []byte("{"), 0o600))
		},
	} {
		drifts = append(drifts, providertest.Drift[*v1.DolibarrSpec]{Name: name, After: 3, Do: harm})
	}
	bad := func(name string, change func(*v1.InstanceSpec)) providertest.Refusal[*v1.DolibarrSpec] {
		return providertest.Refusal[*v1.DolibarrSpec]{Name: name, Code: errs.Invalid, Wish: want(changed(acme, change))}
	}
	providertest.Run(t, providertest.Suite[*v1.DolibarrSpec]{
		New: c.host, Steps: steps, Secrets: []string{"VALUEOF"}, Drifts: drifts, MaxFaults: 25,
		// State has the address of conf.php, and the tool is the same for all.
		Ignore: []string{"var/lib/infractl/instances/*/conf/conf.php", "var/lib/infractl/instances/tool/*"},
		Refusals: []providertest.Refusal[*v1.DolibarrSpec]{
			bad("id that is a path", func(i *v1.InstanceSpec) { i.Id = "../../xy" }),
			bad("id of a template", func(i *v1.InstanceSpec) { i.Id = templateID }),
			bad("name that is none", func(i *v1.InstanceSpec) { i.Name = "a b" }),
			bad("no mode", func(i *v1.InstanceSpec) { i.Mode = 0 }),
			bad("no image", func(i *v1.InstanceSpec) { i.DbImage = nil }),
			{Name: "the same twice", Code: errs.Invalid, Wish: want(acme, acme)},
		},
	})
}

// networkGone is what is left when somebody stopped an instance and tidied up.
func networkGone(e *testEngine) {
	for _, c := range e.containers {
		if c.Labels[LabelID] == "aaaaaaaa" {
			c.State = "exited"
		}
	}
	front := e.find(frontName)
	front.Networks = slices.DeleteFunc(front.Networks, func(n string) bool { return n == networkName("aaaaaaaa") })
	delete(e.networks, networkName("aaaaaaaa"))
}
