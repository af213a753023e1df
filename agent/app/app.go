// Package app wires the agent: who it is, what it can do, and the loop from join token to session.
package app

import (
	"context"
	"errors"
	"net"
	"os"
	"path"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/infractl/infractl/agent/engine"
	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/agent/facts"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/metrics"
	"github.com/infractl/infractl/agent/probe"
	"github.com/infractl/infractl/agent/session"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/version"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// DefaultStateDir is the agent's folder on a host.
const DefaultStateDir = "/var/lib/infractl"

// Config is what an App needs. The zero value of every field but Log has a meaning.
type Config struct {
	// Root is put before every path of the host; empty on a real host.
	Root string
	// StateDir is the agent's folder; "" means DefaultStateDir. With another one the join token is looked for there alone,
	// so that a second agent on one machine (a probe) never takes the first one's.
	StateDir string
	// Probe is the name of a probe: an agent that manages nothing. Empty on a managed host.
	Probe string
	// TokenFiles are the places of the join token; nil means the usual ones.
	TokenFiles []string
	// Clock is the machine's clock; nil means the system's.
	Clock clock.Clock
	// Log is where the agent logs.
	Log hclog.Logger
	// Getenv reads the environment; nil means the process's.
	Getenv func(string) string
	// Notify tells systemd how the agent is; nil means nobody.
	Notify func(state string)
	// Runner runs commands; nil means the real one.
	Runner host.Runner
	// Providers makes what the agent can do; nil means NewProviders.
	Providers func(*host.Host, hclog.Logger) *Providers
	// Armer arms reverts; nil means systemd, or a detached process of Command.
	Armer engine.Armer
	// Command is the agent's program with the arguments before "revert"; nil means this process's program.
	Command []string
	// Backoff spreads reconnections and enrolments; the zero value means the usual one.
	Backoff enrol.Backoff
}

// App is the agent.
type App struct {
	cfg       Config
	log       hclog.Logger
	host      *host.Host
	clock     *enrol.Clock
	store     *enrol.Store
	enroller  *enrol.Enroller
	engine    *engine.Engine // nil on a probe
	providers *Providers
	facts     *facts.Reader
	registry  *prometheus.Registry
	metrics   *metrics.Service // nil on a probe
	observer  *observer        // nil on a probe

	mu   sync.Mutex
	live *session.Session
}

func (c *Config) setDefaults() {
	if c.Getenv == nil {
		c.Getenv = os.Getenv
	}
	if c.StateDir == "" {
		c.StateDir = DefaultStateDir
	}
	if c.TokenFiles == nil {
		c.TokenFiles = []string{path.Join(c.StateDir, "join-token")}
		if c.StateDir == DefaultStateDir {
			c.TokenFiles = append(enrol.TokenFiles(), c.TokenFiles...)
		}
	}
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.Notify == nil {
		c.Notify = func(string) {}
	}
	if c.Providers == nil {
		c.Providers = NewProviders
	}
}

// New puts the agent together. It touches neither host nor network.
func New(cfg Config) (*App, error) {
	cfg.setDefaults()
	a := &App{cfg: cfg, log: cfg.Log, registry: prometheus.NewRegistry()}
	a.host = host.New(host.Config{Root: cfg.Root, Runner: cfg.Runner, Log: cfg.Log.Named("host")})
	a.clock = enrol.NewClock(cfg.Clock, enrol.Boottime)
	a.store = enrol.NewStore(a.host, cfg.StateDir, a.clock)
	a.enroller = enrol.New(enrol.Config{Host: a.host, Store: a.store, Log: cfg.Log.Named("enrol"), Getenv: cfg.Getenv,
		TokenFiles: cfg.TokenFiles, Node: a.nodeName, Version: version.String(), Backoff: cfg.Backoff,
		Waiting: func(why string) { a.changed(session.Status{Since: a.clock.Now(), Problem: why}) }})
	a.providers = &Providers{}
	reader := facts.Config{Host: a.host}
	if cfg.Probe == "" {
		a.providers = cfg.Providers(a.host, cfg.Log)
		if a.providers.SSH != nil {
			reader.SSH = sshFacts{a.providers.SSH}
		}
		reader.Warnings = a.warnings
		var err error
		if a.engine, err = a.newEngine(); err != nil {
			return nil, err
		}
		if s := a.providers.Stacks; s != nil {
			reader.DockerVersion = s.Engine.Version
		}
		a.metrics = a.newMetrics()
		a.observer = newObserver(a.host, a.providers.Router, a.engine.Spec, a.registry)
	}
	a.facts = facts.New(reader)
	return a, nil
}

func (a *App) newEngine() (*engine.Engine, error) {
	armer := a.cfg.Armer
	if armer == nil {
		command := a.cfg.Command
		if command == nil {
			program, err := os.Executable()
			if err != nil {
				return nil, errs.Wrap("find the agent's program", err)
			}
			command = []string{program, "--state-dir", a.cfg.StateDir}
		}
		armer = engine.NewSystemArmer(a.host, command...)
	}
	return engine.New(engine.Config{Host: a.host, Dir: a.cfg.StateDir, Providers: a.providers.Bound, Clock: a.clock,
		Log: a.log.Named("engine"), Armer: armer})
}

// Registry holds the agent's metrics.
func (a *App) Registry() *prometheus.Registry { return a.registry }

func (a *App) nodeName() string {
	if a.cfg.Probe != "" {
		return a.cfg.Probe
	}
	return facts.Hostname(a.host)
}

// warnings are what people should know of this host: rules of others, and what the spec asks for and this kernel can't do.
func (a *App) warnings(ctx context.Context) []string {
	var list []string
	if a.providers.Firewall != nil {
		var err error
		if list, err = a.providers.Firewall.Foreign(ctx); err != nil {
			list = []string{"it is not known whether others have firewall rules here: " + err.Error()}
		}
	}
	if a.providers.System != nil {
		list = append(list, a.providers.System.Warnings(a.engine.Spec().GetSystem())...)
	}
	list = append(list, a.routerWarnings(ctx)...)
	list = append(list, a.proxyWarnings()...)
	list = append(list, a.metrics.Warnings()...)
	return list
}

// Run works until ctx ends, and then waits for a commit that is under way. It returns an error only when another agent uses
// the state folder, or ctx's.
func (a *App) Run(ctx context.Context) error {
	unlock, err := a.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	a.log.Info("agent starts", "version", version.String(), "probe", a.cfg.Probe)
	a.cfg.Notify("READY=1")
	if a.engine != nil {
		defer a.engine.Close()
		if err := a.engine.Recover(ctx); err != nil {
			a.log.Error("cannot finish what was left behind", "error", err)
		}
		// A commit that is not decided heals on any machine; what was kept is put back only where it was kept.
		a.checkMachine()
		if !a.copied() {
			a.repair(ctx)
		}
		go a.upkeep(ctx)
		go a.observe(ctx)
		go a.metrics.Run(ctx)
		go a.watchLogins(ctx)
		go a.watchInstances(ctx)
		if a.providers.SSH != nil {
			go a.providers.SSH.Warm(ctx)
		}
	}
	for ctx.Err() == nil {
		if err := a.cycle(ctx); err != nil && ctx.Err() == nil {
			a.log.Error("cannot go on, trying again", "error", err, "hint", errs.HintOf(err))
			a.changed(session.Status{Since: a.clock.Now(), Problem: err.Error()})
			_ = enrol.Sleep(ctx, 5*time.Second) // the loop looks at ctx
		}
	}
	a.cfg.Notify("STOPPING=1")
	return ctx.Err()
}

// lock keeps a second agent away from the same folder. An abstract socket goes with its process, however that ends.
func (a *App) lock(ctx context.Context) (unlock func(), err error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "unix", "@infractl-agent"+a.host.Path(a.cfg.StateDir))
	if err != nil {
		return nil, errs.New(errs.Exists, "another agent runs with this state folder").At(a.cfg.StateDir).
			WithHint("systemctl status infractl-agent")
	}
	return func() { listener.Close() }, nil
}

// cycle enrols if there is no identity, and holds a session as long as there is one.
func (a *App) cycle(ctx context.Context) error {
	_, err := a.store.Identities()
	switch {
	case errs.Is(err, errs.NotFound):
		return a.enroller.Run(ctx)
	case errs.Is(err, errs.Invalid):
		// Nothing can be done with it any more; a new token is needed, and the old files stay for whoever wants to look.
		a.log.Error("the identity is damaged and is set aside", "error", err)
		return a.forget("damaged")
	case err != nil:
		return err
	}
	if err := a.enroller.Finish(); err != nil {
		a.log.Warn("cannot clean up after enrolment", "error", err)
	}
	err = a.session(ctx)
	var revoked *session.RevokedError
	var cloned *enrol.ClonedError
	switch {
	case errors.As(err, &revoked):
		a.log.Warn("the identity was revoked and is set aside; waiting for a new join token", "serial", revoked.Serial)
		return a.forget("revoked")
	case errors.As(err, &cloned):
		a.markCopied()
		a.log.Warn("this machine is a clone: the identity is set aside and a new one is asked for", "reason", cloned.Why)
		return a.forget("cloned")
	}
	return err
}

// session holds a session until the identity ends or ctx does.
func (a *App) session(ctx context.Context) error {
	// A clone must not even read the key of its original: look before anything is made from the state folder.
	fingerprint, err := a.fingerprint()
	if err != nil {
		return err
	}
	if err := a.store.CheckMachine(fingerprint); err != nil {
		return err
	}
	witness, err := probe.Key(a.host, a.cfg.StateDir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	prober := &lateProber{}
	cfg := session.Config{Host: a.host, Store: a.store, Dir: path.Join(a.cfg.StateDir, "tasks"), Log: a.log.Named("session"),
		Prober: prober, Facts: a.facts.Read, Fingerprint: a.fingerprint, WitnessKey: probe.PublicKey(witness),
		Version: version.String(), BootID: facts.BootID(a.host), Registerer: a.registry, Changed: a.changed, Backoff: a.cfg.Backoff}
	if a.engine != nil {
		cfg.Engine = engineAdapter{a.engine, a.own}
		cfg.Consoles = a.consoles()
		cfg.Observed = a.observer
		cfg.Usage = a.usage
	}
	if a.providers.Stacks != nil {
		cfg.Stacks = a.providers.Stacks
	}
	if a.providers.Instances != nil {
		cfg.Instances = a.providers.Instances
	}
	if a.providers.Proxy != nil {
		cfg.Public = a.providers.Proxy
	}
	s, err := session.New(ctx, cfg)
	if err != nil {
		return err
	}
	if a.providers.Stacks != nil {
		a.providers.Stacks.fetcher.set(s)
		defer a.providers.Stacks.fetcher.set(nil)
	}
	prober.Prober = probe.New(probe.Config{Key: witnessKey(witness), TLS: s.TLS})
	a.mu.Lock()
	a.live = s
	a.mu.Unlock()
	err = s.Run(ctx)
	cancel()
	s.Wait()
	return err
}

func (a *App) fingerprint() (*v1.HostFingerprint, error) {
	return enrol.ReadFingerprint(a.host, a.cfg.Getenv)
}

// forget gives up an identity with all that belongs to it alone: its witness key and its tasks.
func (a *App) forget(reason string) error {
	return errs.Join(
		a.store.SetAside(reason),
		a.host.RemoveAll(path.Dir(probe.KeyFile(a.cfg.StateDir))),
		a.host.RemoveAll(path.Join(a.cfg.StateDir, "tasks")),
	)
}
