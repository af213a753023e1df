// Package dolibarr keeps the customers' Dolibarr instances of a host: for each a network, a database, an application and its scheduled
// jobs, and before all of them one front, the only way to them. It also carries out what is done once with an instance (Do).
//
// The wish says how each instance should be. What left the wish is stopped and never destroyed: that is a task. One broken instance takes
// none of the others with it; what an apply could not change is brought back to its former wish.
package dolibarr

import (
	"context"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Engine is what the provider asks of the container engine; docker.Engine is one.
type Engine interface {
	Containers(ctx context.Context, labels ...string) ([]docker.Container, error)
	Inspect(ctx context.Context, id string) (docker.Detail, error)
	CreateContainer(ctx context.Context, s docker.ContainerSpec) (id string, err error)
	Start(ctx context.Context, id string) error
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, id string) error
	UpdateLimits(ctx context.Context, id string, memory, milliCPUs, pids int64) error
	Run(ctx context.Context, id string, argv []string, user string, stdin io.Reader, stdout io.Writer) (code int, err error)
	ImageID(ctx context.Context, ref string) (string, error)
	Networks(ctx context.Context, labels ...string) ([]docker.Network, error)
	CreateNetwork(ctx context.Context, name, subnet string, labels map[string]string) error
	RemoveNetwork(ctx context.Context, name string) error
	Connect(ctx context.Context, network, id string, aliases ...string) error
	Disconnect(ctx context.Context, network, id string) error
	Volumes(ctx context.Context, labels ...string) ([]docker.Volume, error)
	CreateVolume(ctx context.Context, name string, labels map[string]string) error
	RemoveVolume(ctx context.Context, name string) error
}

// Images brings images onto the host; *images.Images does.
type Images interface {
	Stage(ctx context.Context, i *v1.StackImage) error
	Pin(ctx context.Context, i *v1.StackImage) (id string, err error)
}

// Fetcher gets secrets from the server, in the order of the references.
type Fetcher interface {
	Secrets(ctx context.Context, refs []*v1.SecretRef) ([]*v1.SecretValue, error)
}

// Config makes a Provider.
type Config struct {
	// Host is the machine, Engine its container engine.
	Host   *host.Host
	Engine Engine
	Images Images
	// Fetcher gets secrets; nil means that there is no way to.
	Fetcher Fetcher
	// Dir is the folder of the instances; "" means /var/lib/infractl/instances. Templates stand beside it.
	Dir string
	// Transport carries questions to the front; nil means plain HTTP.
	Transport http.RoundTripper
	// FrontWait bounds how long a front may take until it answers with what it was given; 0 means 20 s.
	FrontWait time.Duration
	// ConfWait is how long PHP may go on with a conf.php that it has read; 0 means confWait.
	ConfWait time.Duration
	// Clock says when a repair is due again; nil means the real one.
	Clock clock.Clock
	// Log gets what is worth knowing beyond errors; nil means none.
	Log hclog.Logger
}

// Provider implements provider.Provider for the instances of a host.
type Provider struct {
	cfg    Config
	host   *host.Host
	engine Engine
	log    hclog.Logger
	uid    int
	gid    int
	// tool is the digest of the tool that this agent brings.
	tool string
	// starts bounds how many databases start at once: each reads and writes a lot at its start.
	starts chan struct{}

	frontMu, toolMu sync.Mutex
	// templating counts templates that are being made.
	templating atomic.Int32
	// working are the ids that tasks work on.
	working sync.Map
	// lately are the passwords of databases that others were put in the place of, by instance, name and version.
	lately sync.Map
	// disk is what instances hold.
	disk disk
	// unstaged are images that could not be brought here, with the reason.
	unstaged sync.Map

	mu      sync.Mutex
	locks   map[string]*sync.Mutex
	repairs map[string]attempts
}

// startsAtOnce is how many databases start at once.
const startsAtOnce = 4

var _ provider.Provider[*v1.DolibarrSpec] = (*Provider)(nil)

// New returns the provider.
func New(cfg Config) *Provider {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.FrontWait == 0 {
		cfg.FrontWait = 20 * time.Second
	}
	if cfg.ConfWait == 0 {
		cfg.ConfWait = confWait
	}
	if cfg.Dir == "" {
		cfg.Dir = "/var/lib/infractl/instances"
	}
	return &Provider{cfg: cfg, host: cfg.Host, engine: cfg.Engine, log: cfg.Log, uid: os.Geteuid(), gid: os.Getegid(), tool: toolDigest(),
		starts: make(chan struct{}, startsAtOnce), disk: disk{asked: map[string]bool{}, due: make(chan struct{}, 1)}, locks: map[string]*sync.Mutex{}, repairs: map[string]attempts{}}
}

// Stages are the stages that the provider takes part in.
func Stages() []provider.Stage { return []provider.Stage{provider.Services} }

// Name implements provider.Provider.
func (p *Provider) Name() string { return "dolibarr" }

type (
	wish = provider.Wish[*v1.DolibarrSpec]
	plan = provider.Plan[*v1.DolibarrSpec]
)

// lock keeps everybody else from an instance until the returned function is called.
func (p *Provider) lock(id string) (unlock func()) {
	p.mu.Lock()
	m := p.locks[id]
	if m == nil {
		m = &sync.Mutex{}
		p.locks[id] = m
	}
	p.mu.Unlock()
	m.Lock()
	return m.Unlock
}

// Stage implements provider.Stager: the images of all instances and of the front come before anything is changed. An image of an instance
// that cannot be had is that instance's own failure, and Apply tells it: it keeps none of the others back.
func (p *Provider) Stage(ctx context.Context, spec *v1.DolibarrSpec) error {
	if err := check(spec); err != nil {
		return err
	}
	done := map[string]bool{}
	for _, inst := range spec.GetInstances() {
		if inst.GetAdopted() != nil {
			continue // its containers are there
		}
		for _, i := range []*v1.StackImage{inst.GetAppImage(), inst.GetDbImage()} {
			if done[i.GetUse()] {
				continue
			}
			done[i.GetUse()] = true
			p.unstaged.Delete(i.GetUse())
			if err := p.stageImage(ctx, i); err != nil {
				p.unstaged.Store(i.GetUse(), err)
			}
		}
	}
	if spec.GetFront() == nil {
		return ctx.Err()
	}
	return errs.Join(ctx.Err(), errs.Wrap("front", p.stageImage(ctx, spec.GetFront().GetImage())))
}

// stageImage makes an image be on the host under the name that runs.
func (p *Provider) stageImage(ctx context.Context, i *v1.StackImage) error {
	if err := p.cfg.Images.Stage(ctx, i); err != nil {
		return err
	}
	_, err := p.cfg.Images.Pin(ctx, i)
	return err
}

// check refuses a wish that cannot be meant.
func check(spec *v1.DolibarrSpec) error {
	const hint = "the server sent a wish that this agent does not take: are both of the same version?"
	ids, names := map[string]bool{}, map[string]bool{}
	for _, inst := range spec.GetInstances() {
		switch {
		case !idForm.MatchString(inst.GetId()) || inst.GetId() == templateID:
			return errs.New(errs.Invalid, "%.60q is no id of an instance", inst.GetId()).WithHint(hint)
		case !nameForm.MatchString(inst.GetName()):
			return errs.New(errs.Invalid, "%.60q is no name of an instance", inst.GetName()).WithHint(hint)
		case ids[inst.GetId()] || names[inst.GetName()]:
			return errs.New(errs.Invalid, "instance %s stands there twice", inst.GetName()).WithHint(hint)
		case inst.GetMode() == v1.InstanceMode_INSTANCE_MODE_UNSPECIFIED:
			return errs.New(errs.Invalid, "instance %s has no mode", inst.GetName()).WithHint(hint)
		case inst.GetAdopted() != nil:
			if err := checkAdopted(inst); err != nil {
				return err
			}
		case inst.GetAppImage().GetUse() == "" || inst.GetDbImage().GetUse() == "":
			return errs.New(errs.Invalid, "instance %s names no images", inst.GetName()).WithHint(hint)
		}
		ids[inst.GetId()], names[inst.GetName()] = true, true
	}
	return nil
}

// Keep implements provider.Provider; the engine starts what runs after a restart of the host.
func (p *Provider) Keep(context.Context, wish) error { return nil }

// Verify implements provider.Provider: what should run runs and none of it is unwell, and the front answers with this wish. Where only
// instances are unwell the error has the code RolledBack: nothing of the others is to be taken back.
func (p *Provider) Verify(ctx context.Context, w wish) error {
	seen, err := p.look(ctx, w.Spec)
	if err != nil {
		return err
	}
	var failed []error
	for _, one := range seen.instances {
		failed = append(failed, errs.Wrap("instance "+one.inst.GetName(), one.unwell()))
	}
	front := p.frontVerify(ctx, w.Spec)
	err = errs.Join(append(failed, front)...)
	if err != nil && front == nil {
		return errs.New(errs.RolledBack, "%w", err).WithHint("%s", errs.HintOf(err))
	}
	return err
}
