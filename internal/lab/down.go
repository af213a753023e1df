package lab

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"golang.org/x/sync/errgroup"

	"github.com/infractl/infractl/internal/errs"
)

// Down removes the lab: processes, containers, disks, mounts, namespaces with bridges and cables, cgroups, and the engine
// if a lab started it and this is the last one. Images stay. It works on a lab that is half built, crashed or down.
func (l *Lab) Down(ctx context.Context) error {
	unlock, err := lockRun(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	var list []error
	list = append(list, l.removeContainers(ctx))
	endProcessesInCgroup(siteNetns(l.cfg.Name))
	list = append(list, l.removeNetworks(ctx))
	unmountBelow(l.volumeDir(""))
	list = append(list, os.RemoveAll(l.volumeDir("")))
	_ = os.Remove(filepath.Dir(l.volumeDir(""))) // empty after the last lab
	removeCgroups(siteNetns(l.cfg.Name))
	if err := errs.Join(list...); err != nil {
		return errs.Wrap("take the lab down", err) // still registered and with its state: Down can be repeated
	}
	if err := ignoreNotFound(os.Remove(l.statePath())); err != nil {
		return errs.Wrap("take the lab down", err)
	}
	if l.unregister() > 0 {
		return nil
	}
	l.closeEngine()
	if err := stopEngine(); err != nil {
		return err
	}
	dropNetnsMount()
	_ = os.Remove(labsDir)
	return nil
}

// Clean takes the lab down and removes images and cache as well. Other labs must be down.
func (l *Lab) Clean(ctx context.Context) error {
	if err := l.Down(ctx); err != nil {
		return err
	}
	return Clean(ctx, l.cfg.CacheDir)
}

// Clean removes the images of labs from the engine in use, and the cache folder ("" is the usual one). It refuses while a
// lab is up.
func Clean(ctx context.Context, cacheDir string) error {
	l, err := newLab(Config{CacheDir: cacheDir})
	if err != nil {
		return err
	}
	unlock, err := lockRun(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if l.unregister() > 0 {
		return errs.New(errs.Precondition, "a lab is up").At(labsDir).WithHint("infractl-lab down")
	}
	if c := defaultEngine(ctx); c != nil {
		l.engine = c
		for _, tag := range l.imageTags(ctx) {
			_, _ = c.ImageRemove(ctx, tag, image.RemoveOptions{Force: true, PruneChildren: true})
		}
		l.closeEngine()
	}
	if err := stopEngine(); err != nil {
		return err
	}
	dropNetnsMount()
	unmountBelow(l.cfg.CacheDir)
	return errs.Wrap("remove the lab's cache", os.RemoveAll(l.cfg.CacheDir))
}

func (l *Lab) closeEngine() {
	if l.engine != nil {
		_ = l.engine.Close()
		l.engine = nil
	}
}

// removeContainers removes every container of the lab, also of a lab whose engine has to be started for it.
func (l *Lab) removeContainers(ctx context.Context) error {
	l.closeEngine() // it may have ended meanwhile, or another one runs
	if l.engine = runningEngine(ctx); l.engine == nil {
		if entries, _ := os.ReadDir(filepath.Join(l.cfg.CacheDir, "engine", "containers")); len(entries) == 0 {
			return nil
		}
		var err error
		if l.engine, err = l.startEngine(ctx); err != nil {
			return err
		}
	}
	found, err := l.engine.ContainerList(ctx, container.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", labelLab+"="+l.cfg.Name)),
	})
	if err != nil {
		return errs.Wrap("list the lab's containers", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, c := range found {
		group.Go(func() error {
			return errs.Wrap("remove a container", l.removeContainer(ctx, c.ID))
		})
	}
	err = group.Wait()
	for _, vm := range l.vms {
		vm.setPid(0)
	}
	return err
}

// removeContainer removes a container whatever its state. A former attempt may still be under way in the engine.
func (l *Lab) removeContainer(ctx context.Context, id string) error {
	const attempts = 5
	for try := 1; ; try++ {
		err := l.engine.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if err = ignoreNotFound(err); err == nil || try == attempts || ctx.Err() != nil {
			return err
		}
		l.log.Warn("removing a container failed, trying again", "container", id, "error", err)
		time.Sleep(time.Second)
	}
}

// cutCables lists the cards of a host whose cable is out.
func (l *Lab) cutCables(owner string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var cards []string
	if vm := l.vms[owner]; vm != nil {
		for _, c := range vm.spec.Interfaces {
			if l.cut[owner+"/"+c.Name] {
				cards = append(cards, c.Name)
			}
		}
	}
	return cards
}

// CableOut pulls the cable of a card: it loses its carrier and keeps its addresses. A reboot does not put it back.
func (v *VM) CableOut(ctx context.Context, card string) error { return v.cable(ctx, card, true) }

// CableIn puts the cable back.
func (v *VM) CableIn(ctx context.Context, card string) error { return v.cable(ctx, card, false) }

func (v *VM) cable(ctx context.Context, card string, out bool) error {
	known := false
	for _, c := range v.spec.Interfaces {
		known = known || c.Name == card && c.Network != ""
	}
	if !known {
		return errs.New(errs.NotFound, "the VM has no cable at %q", card).At(v.spec.Name)
	}
	v.lab.mu.Lock()
	defer v.lab.mu.Unlock()
	state := "up"
	delete(v.lab.cut, v.spec.Name+"/"+card)
	if out {
		state = "down"
		v.lab.cut[v.spec.Name+"/"+card] = true
	}
	if v.Pid() != 0 {
		if err := v.lab.setCable(ctx, v.index, card, state); err != nil {
			return errs.Wrap("cable of "+v.spec.Name, err)
		}
	}
	return v.lab.saveState()
}

// BuildImages builds what is missing of the images, for a machine that is to be ready, and leaves no engine behind that
// it started. Only CacheDir, Log and Progress of cfg count.
func BuildImages(ctx context.Context, cfg Config) error {
	l, err := newLab(Config{CacheDir: cfg.CacheDir, Log: cfg.Log, Progress: cfg.Progress, Name: "images"})
	if err != nil {
		return err
	}
	if l.images, err = imageSet(l.contexts); err != nil {
		return err
	}
	l.image = l.images.vm
	unlock, err := lockRun(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if l.engine, err = l.startEngine(ctx); err != nil {
		return err
	}
	if err = l.ensureImages(ctx); err == nil {
		err = l.ensureNestedSeed(ctx)
	}
	l.closeEngine()
	removeCgroups(siteNetns(l.cfg.Name))
	if l.unregister() == 0 {
		err = errs.Join(err, stopEngine())
	}
	return err
}
