// Package lab builds a virtual site on one machine: virtual machines that are systemd containers, joined by bridges
// inside a network namespace of their own, with faults to inject. Nothing of it reaches the outside: no rule, sysctl,
// bridge or Docker network of the machine is touched, and Down leaves none of it behind.
//
// A VM shares the machine's kernel and clock. Its own are processes, network stack, disk, machine-id, boot id and SSH host
// keys. VMs hold almost every capability: they are no security boundary, so only our own code runs in them.
package lab

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/docker/docker/client"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/infractl/infractl/internal/errs"

	labimages "github.com/infractl/infractl/images/lab"
)

// parallel bounds how many VMs are handled at once.
const parallel = 8

// Lab is a virtual site. Its methods may be called from several goroutines, those of one VM one at a time.
type Lab struct {
	cfg      Config
	log      hclog.Logger
	contexts fs.FS
	images   images
	image    string // the VM image in use
	engine   *client.Client
	vms      map[string]*VM
	spaces   map[string]*Namespace

	mu  sync.Mutex
	cut map[string]bool // cables that are out, "vm/card"
}

// Create makes a lab: engine, images where they are missing, networks, light hosts, and the VMs' containers. No VM runs
// yet. What a failed Create leaves is removed by Down on the lab that Open returns.
func Create(ctx context.Context, cfg Config) (*Lab, error) {
	l, err := newLab(cfg)
	if err != nil {
		return nil, err
	}
	if err := l.cfg.Validate(); err != nil {
		return nil, err
	}
	if err := l.makeRoom(ctx); err != nil {
		return nil, err
	}
	if l.images, err = imageSet(l.contexts); err != nil {
		return nil, err
	}
	l.image = l.images.vm
	for _, dir := range []string{l.cfg.Dir, l.cfg.CacheDir, l.volumeDir("")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, errs.Wrap("create the lab", err)
		}
	}
	if err := l.saveState(); err != nil {
		return nil, err
	}
	if err := l.prepare(ctx); err != nil {
		return nil, errs.Wrap("create the lab", err)
	}
	if err := l.makeNetworks(ctx); err != nil {
		return nil, errs.Wrap("create the lab", err)
	}
	err = l.each(ctx, l.cfg.VMNames(), func(ctx context.Context, vm *VM) error { return vm.create(ctx) })
	return l, errs.Wrap("create the lab", err)
}

// prepare registers the lab and readies engine, images and the disk of nested engines, one lab command at a time.
func (l *Lab) prepare(ctx context.Context) error {
	unlock, err := lockRun(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.register(); err != nil {
		return err
	}
	if l.engine, err = l.startEngine(ctx); err != nil {
		return err
	}
	if err := l.ensureImages(ctx); err != nil {
		return err
	}
	for _, vm := range l.cfg.VMs {
		if vm.NestedDocker {
			return l.ensureNestedSeed(ctx)
		}
	}
	return nil
}

// makeRoom refuses to start beside a lab of the same name or in the same folder, or takes it down first.
func (l *Lab) makeRoom(ctx context.Context) error {
	for _, dir := range []string{l.cfg.Dir, registered(l.cfg.Name)} {
		if dir == "" {
			continue
		}
		old, err := Open(ctx, dir)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if !l.cfg.Replace {
			return errs.New(errs.Exists, "a lab is there already").At(dir).WithHint("infractl-lab down --dir %s", dir)
		}
		if err != nil {
			return err
		}
		old.cfg.Progress, old.log = l.cfg.Progress, l.log
		if err := old.Down(ctx); err != nil {
			return errs.Wrap("take the former lab down", err)
		}
	}
	return nil
}

// Open attaches to the lab whose state file is in dir. It is errs.NotFound where there is none.
func Open(ctx context.Context, dir string) (*Lab, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, errs.Wrap("open the lab", err)
	}
	s, err := loadState(dir)
	if err != nil {
		return nil, err
	}
	l, err := newLab(s.Config)
	if err != nil {
		return nil, err
	}
	l.image, l.images.busybox = s.Image, s.Busybox
	for _, cable := range s.Cut {
		l.cut[cable] = true
	}
	if l.engine = runningEngine(ctx); l.engine == nil {
		return l, nil // Down still works; everything else says that no VM runs
	}
	return l, l.each(ctx, l.cfg.VMNames(), func(ctx context.Context, vm *VM) error {
		return ignoreNotFound(vm.refresh(ctx))
	})
}

func newLab(cfg Config) (*Lab, error) {
	var err error
	if cfg.Dir != "" {
		if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
			return nil, errs.Wrap("find the lab's folder", err)
		}
	}
	if cfg.CacheDir == "" {
		cfg.CacheDir = os.Getenv("INFRACTL_LAB_CACHE")
	}
	if cfg.CacheDir == "" {
		cfg.CacheDir = DefaultCacheDir
	}
	if cfg.CacheDir, err = filepath.Abs(cfg.CacheDir); err != nil {
		return nil, errs.Wrap("find the lab's cache", err)
	}
	l := &Lab{
		cfg: cfg, log: cfg.Log, contexts: labimages.FS,
		vms: map[string]*VM{}, spaces: map[string]*Namespace{}, cut: map[string]bool{},
	}
	if l.log == nil {
		l.log = hclog.NewNullLogger()
	}
	for i := range cfg.VMs {
		l.vms[cfg.VMs[i].Name] = &VM{lab: l, index: i, spec: cfg.VMs[i]}
	}
	for _, ns := range cfg.Namespaces {
		l.spaces[ns.Name] = &Namespace{file: netnsFile(hostNetns(cfg.Name, ns.Name)), name: ns.Name}
	}
	return l, nil
}

// Config returns what the lab was made from; after Open without the contents of files.
func (l *Lab) Config() Config { return l.cfg }

// VM returns a VM. A name that does not exist yields a VM whose every method fails.
func (l *Lab) VM(name string) *VM {
	if vm := l.vms[name]; vm != nil {
		return vm
	}
	return &VM{lab: l, index: -1, spec: VMSpec{Name: name}}
}

// Namespace returns a light host. A name that does not exist yields one whose commands fail.
func (l *Lab) Namespace(name string) *Namespace {
	if ns := l.spaces[name]; ns != nil {
		return ns
	}
	return &Namespace{file: netnsFile(hostNetns(l.cfg.Name, name)), name: name}
}

// StartVM starts the named VMs in parallel, all of them without a name, and connects them. It does not wait for the boot.
func (l *Lab) StartVM(ctx context.Context, names ...string) error {
	return errs.Wrap("start VMs", l.each(ctx, names, func(ctx context.Context, vm *VM) error { return vm.Start(ctx) }))
}

// WaitBooted waits until systemd in the named VMs, or in all, has finished starting; failed units do not matter. Without
// a deadline in ctx it waits BootLimit.
func (l *Lab) WaitBooted(ctx context.Context, names ...string) error {
	return errs.Wrap("boot", l.each(ctx, names, func(ctx context.Context, vm *VM) error { return vm.WaitBooted(ctx) }))
}

// each runs fn for the named VMs, or for all, some at a time.
func (l *Lab) each(ctx context.Context, names []string, fn func(context.Context, *VM) error) error {
	if len(names) == 0 {
		names = l.cfg.VMNames()
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, name := range names {
		vm := l.VM(name)
		group.Go(func() error {
			if err := fn(ctx, vm); err != nil {
				return errs.Wrap("VM "+vm.spec.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// say tells people and the log what takes time now.
func (l *Lab) say(text string) {
	l.log.Info(text)
	if l.cfg.Progress != nil {
		l.cfg.Progress(text)
	}
}

// volumeDir is where the disks of a VM are that are no part of its image.
func (l *Lab) volumeDir(vm string) string {
	return filepath.Join(l.cfg.CacheDir, "labs", l.cfg.Name, vm)
}

// BusyboxTar returns the file that a nested engine loads BusyboxImage from.
func (l *Lab) BusyboxTar() string { return l.busyboxTar() }
