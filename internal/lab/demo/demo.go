// Package demo does the main job in the lab: it boots a site, sets the server up, lets the agents enrol by themselves,
// applies the example site with the lab overlay, and proves the flows. The end-to-end tests and the benchmark start from
// the same site.
package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
)

// Options say where and how the site is built.
type Options struct {
	// Root is the project's folder, Bin the folder of the built programs.
	Root, Bin string
	// Dir is the folder of the lab's state; Name keeps labs apart.
	Dir, Name string
	// Site replaces the example site's file; empty means examples/projetpro/site.yaml.
	Site string
	// Stacks keeps the site's container stacks, whose files stand beside the site file; without it they are taken out.
	Stacks bool
	// Overlay lines are added to the lab overlay: rollout windows of trials.
	Overlay string
	// Customize changes the lab's configuration before it is built.
	Customize func(*lab.Config)
	// Bare stops Boot when the VMs run: there is no server, no token and no probe.
	Bare bool
	// Out gets progress for people.
	Out io.Writer
	// Log gets details; nil discards them.
	Log hclog.Logger
}

// Site is the running site.
type Site struct {
	// Lab is the lab it runs in.
	Lab *lab.Lab
	// File and Overlay are the site file and the overlay that were written for it.
	File, Overlay string
	// InitSeconds is how long "infractl-server init" to a running, answering server took.
	InitSeconds float64
	// RecoveryKey is what init printed for the paper.
	RecoveryKey string
	opts        Options
	started     time.Time
	public      string
}

// Names of the site's machines.
const (
	Relay    = "client-relay"
	Router   = "vrouter"
	Prod     = "srv-prod"
	Preprod  = "srv-pre-prod"
	Internet = "internet"
	Operator = "operator"
)

// Nodes are the managed machines in the order in which people list them.
func Nodes() []string {
	return []string{Router, Relay, "srv-dhcp-dns", "srv-supervision", Prod, Preprod}
}

func (o *Options) defaults() error {
	if o.Out == nil {
		o.Out = io.Discard
	}
	if o.Name == "" {
		o.Name = "demo"
	}
	for _, p := range []*string{&o.Root, &o.Bin, &o.Dir} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return errs.Wrap("find "+*p, err)
		}
		*p = abs
	}
	for _, program := range []string{"infractl", "infractl-server", "infractl-agent", "infractl-compose"} {
		if _, err := os.Stat(filepath.Join(o.Bin, program)); err != nil {
			return errs.New(errs.Precondition, "%s is not built: %w", program, err).WithHint("make build")
		}
	}
	return nil
}

// Boot builds the lab and starts everything up to the point where all agents have enrolled: the site is not applied yet.
// When it fails, what was built stays for a look; Down removes it.
func Boot(ctx context.Context, o Options) (*Site, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	s := &Site{opts: o, started: time.Now()}
	cfg, err := s.config()
	if err != nil {
		return nil, err
	}
	s.Say("lab: engine and images (the first time takes minutes)")
	if s.Lab, err = lab.Create(ctx, cfg); err != nil {
		return nil, errs.Wrap("create the lab", err)
	}
	if err := s.writeFiles(); err != nil {
		return s, err
	}
	s.Say("lab: %d VMs boot", len(cfg.VMs))
	if o.Bare {
		if err := s.Lab.StartVM(ctx); err != nil {
			return s, err
		}
		return s, s.Lab.WaitBooted(ctx)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.startServer(gctx) })
	g.Go(func() error { return s.startOthers(gctx) })
	if err := g.Wait(); err != nil {
		return s, err
	}
	return s, s.enrol(ctx)
}

// Say tells people how far it is.
func (s *Site) Say(format string, args ...any) {
	fmt.Fprintf(s.opts.Out, "%6.1fs  %s\n", time.Since(s.started).Seconds(), fmt.Sprintf(format, args...))
}

// Step does something and says how long it took.
func (s *Site) Step(ctx context.Context, what string, do func(context.Context) error) error {
	begun := time.Now()
	if err := do(ctx); err != nil {
		return errs.Wrap(what, err)
	}
	s.Say("%s, %.1f s", what, time.Since(begun).Seconds())
	return nil
}

// config is the lab of the example site with the product's programs and units in each VM.
func (s *Site) config() (lab.Config, error) {
	cfg := lab.DefaultSite(s.opts.Name, s.opts.Dir)
	cfg.Replace = true
	cfg.Log = s.opts.Log
	cfg.Progress = func(line string) { s.Say("lab: %s", line) }
	units, err := filepath.Glob(filepath.Join(s.opts.Root, "agent/infractl-agent/systemd/*.service"))
	if err != nil || len(units) == 0 {
		return cfg, errs.New(errs.Precondition, "no systemd units below %s", s.opts.Root).WithHint("run from the project's folder")
	}
	for i := range cfg.VMs {
		s.install(&cfg.VMs[i], units)
	}
	if s.opts.Customize != nil {
		s.opts.Customize(&cfg)
	}
	return cfg, nil
}

// install puts programs, units and the first-boot firewall's settings into a VM, as the template does on real hosts.
func (s *Site) install(vm *lab.VMSpec, units []string) {
	program := func(name string) {
		vm.Mounts = append(vm.Mounts, lab.Mount{Host: filepath.Join(s.opts.Bin, name), Guest: "/usr/bin/" + name, RO: true})
	}
	program("infractl-agent")
	program("infractl-compose")
	if s.opts.Log != nil {
		vm.Files = append(vm.Files, lab.File{Guest: "/etc/infractl/agent.env", Mode: 0o644, Content: []byte("INFRACTL_LOG_LEVEL=debug\n")})
	}
	unit := func(path string, enable bool) {
		name := filepath.Base(path)
		vm.Mounts = append(vm.Mounts, lab.Mount{Host: path, Guest: "/etc/systemd/system/" + name, RO: true})
		if enable {
			vm.EnableUnits = append(vm.EnableUnits, name)
		}
	}
	probe := vm.Name == Internet
	for _, u := range units {
		docker := strings.Contains(filepath.Base(u), "docker")
		agent := filepath.Base(u) == "infractl-agent.service"
		unit(u, agent || !probe && (!docker || vm.NestedDocker))
	}
	if probe {
		vm.Files = append(vm.Files, lab.File{Guest: "/etc/systemd/system/infractl-agent.service.d/probe.conf", Mode: 0o644,
			Content: []byte("[Service]\nExecStart=\nExecStart=/usr/bin/infractl-agent run --probe " + Internet + "\n")})
		return
	}
	from := "10.0.10.4/32"
	if vm.Name == Relay {
		from = "10.0.20.0/24"
		program("infractl-server")
		program("infractl")
		unit(filepath.Join(s.opts.Root, "server/infractl-server/systemd/infractl-server.service"), false)
	}
	vm.Files = append(vm.Files, lab.File{Guest: "/etc/infractl/firstboot.json", Mode: 0o644,
		Content: []byte(fmt.Sprintf("{\"ssh_from\": [%q]}\n", from))})
}

// startServer boots the relay and sets the server up on it.
func (s *Site) startServer(ctx context.Context) error {
	if err := s.Lab.StartVM(ctx, Relay); err != nil {
		return err
	}
	relay := s.Lab.VM(Relay)
	if err := relay.WaitBooted(ctx); err != nil {
		return err
	}
	begun := time.Now()
	out, err := relay.Must(ctx, "infractl-server", "init", "--site", "projetpro", "--address", "10.0.10.4", "-o", "json")
	if err != nil {
		return errs.Wrap("set the server up", err)
	}
	if err := s.keepRecoveryKey(out); err != nil {
		return err
	}
	// The machine's first-boot firewall learns the server's ports.
	if _, err := relay.Must(ctx, "systemctl", "restart", "infractl-firewall.service"); err != nil {
		return errs.Wrap("open the server's ports", err)
	}
	if _, err := relay.Must(ctx, "systemctl", "enable", "--now", "infractl-server.service"); err != nil {
		return errs.Wrap("start the server", err)
	}
	s.InitSeconds = time.Since(begun).Seconds()
	if err := s.login(ctx, out); err != nil {
		return err
	}
	s.Say("server: initialised and running in %.1f s", s.InitSeconds)
	return nil
}

func (s *Site) startOthers(ctx context.Context) error {
	var names []string
	for _, vm := range s.Lab.Config().VMs {
		if vm.Name != Relay {
			names = append(names, vm.Name)
		}
	}
	return s.Lab.StartVM(ctx, names...)
}

// Down takes the lab down, and with it all that runs in it.
func (s *Site) Down(ctx context.Context) error {
	if s.Lab == nil {
		return nil
	}
	return s.Lab.Down(ctx)
}
