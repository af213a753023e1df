package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/errdefs"

	"github.com/infractl/infractl/internal/errs"
)

const (
	labelLab = "infractl.lab"
	// BootLimit bounds WaitBooted, in case the context does not.
	BootLimit = 60 * time.Second
	stopLimit = 10 // seconds, after which a stopping VM is killed; units have five
)

// VM is one virtual machine of a lab.
type VM struct {
	lab   *Lab
	index int // -1: there is no such VM
	spec  VMSpec

	mu  sync.Mutex
	pid int // of systemd, 0 while the VM is off
}

// Name returns the VM's name.
func (v *VM) Name() string { return v.spec.Name }

// Spec returns what the VM was made from.
func (v *VM) Spec() VMSpec { return v.spec }

// Pid returns the process id of the VM's systemd as the machine numbers it, 0 while the VM is off.
func (v *VM) Pid() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.pid
}

func (v *VM) setPid(pid int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pid = pid
}

// usable says why the engine can't be asked about this VM.
func (v *VM) usable() error {
	if v.index < 0 {
		return errs.New(errs.NotFound, "the lab has no VM of that name").At(v.spec.Name)
	}
	if v.lab.engine == nil {
		return errs.New(errs.Precondition, "the lab's engine does not run").WithHint("infractl-lab down, then up")
	}
	return nil
}

func (v *VM) container() string { return siteNetns(v.lab.cfg.Name) + "-" + v.spec.Name }

// create makes the container and writes the VM's files onto its disk.
func (v *VM) create(ctx context.Context) error {
	if err := v.usable(); err != nil {
		return err
	}
	host, err := v.hostConfig(ctx)
	if err != nil {
		return err
	}
	units := slices.Clone(v.spec.EnableUnits)
	if v.spec.NestedDocker {
		units = append(units, "docker.service")
	}
	config := &container.Config{
		Image:    v.lab.image,
		Hostname: v.spec.Name,
		Labels:   map[string]string{labelLab: v.lab.cfg.Name},
		Env: []string{
			"container=docker",
			"INFRACTL_LAB_VARIANT=" + v.spec.Variant,
			"INFRACTL_LAB_ENABLE=" + strings.Join(units, " "),
		},
	}
	if _, err := v.lab.engine.ContainerCreate(ctx, config, host, nil, nil, v.container()); err != nil {
		return err
	}
	if len(v.spec.Files) == 0 {
		return nil
	}
	pack, err := filesTar(v.spec.Files)
	if err != nil {
		return err
	}
	return v.lab.engine.CopyToContainer(ctx, v.container(), "/", pack, container.CopyToContainerOptions{})
}

// hostConfig is how the container is held: no network, nearly all capabilities, a cgroup tree of its own.
func (v *VM) hostConfig(ctx context.Context) (*container.HostConfig, error) {
	bounding, err := boundingSet()
	if err != nil {
		return nil, err
	}
	host := &container.HostConfig{
		NetworkMode: "none",
		// With a private cgroup namespace the entrypoint may make the tree writable: nothing but the VM's own part is in
		// it, and it goes with the container. The same holds for cgroup v2, where it was not tried.
		CgroupnsMode: container.CgroupnsModePrivate,
		CapAdd:       []string{"ALL"},
		CapDrop:      droppedCaps(bounding),
		SecurityOpt:  []string{"seccomp=unconfined", "apparmor=unconfined"},
		// Nothing of /proc is masked or read-only: systemd and nested engines mount, and the entrypoint sees to /proc/sys.
		MaskedPaths:   []string{},
		ReadonlyPaths: []string{},
		Tmpfs:         map[string]string{"/run": "exec", "/run/lock": "", "/tmp": "exec"},
		LogConfig:     container.LogConfig{Type: "none"},
		Resources: container.Resources{
			Devices: []container.DeviceMapping{{PathOnHost: "/dev/net/tun", PathInContainer: "/dev/net/tun", CgroupPermissions: "rwm"}},
		},
	}
	info, err := v.lab.engine.Info(ctx)
	if err != nil {
		return nil, err
	}
	if info.CgroupDriver == "cgroupfs" { // systemd's driver takes slices only, and removes what it makes
		host.CgroupParent = "/" + siteNetns(v.lab.cfg.Name)
	}
	for _, m := range v.spec.Mounts {
		host.Mounts = append(host.Mounts, bind(m.Host, m.Guest, m.RO))
	}
	if v.spec.NestedDocker {
		dir, err := v.lab.cloneNestedSeed(ctx, v.spec.Name)
		if err != nil {
			return nil, err
		}
		host.Mounts = append(host.Mounts, bind(dir, "/var/lib/docker", false))
	}
	for i, d := range v.spec.SmallDisks {
		dir, err := v.makeSmallDisk(ctx, i, d)
		if err != nil {
			return nil, err
		}
		host.Mounts = append(host.Mounts, bind(dir, d.Guest, false))
	}
	return host, nil
}

// bind shows a path of the machine; unlike the engine's short form it is an error when that is missing.
func bind(host, guest string, ro bool) mount.Mount {
	return mount.Mount{Type: mount.TypeBind, Source: host, Target: guest, ReadOnly: ro}
}

// Start starts a VM that is off, and connects it: its cards appear when it is already booting, the addresses a moment
// later, as on a real host with a slow network.
func (v *VM) Start(ctx context.Context) error {
	if err := v.usable(); err != nil {
		return err
	}
	v.lab.unplug(ctx, v.index, v.spec.Interfaces)
	if err := v.lab.engine.ContainerStart(ctx, v.container(), container.StartOptions{}); err != nil {
		return err
	}
	if err := v.refresh(ctx); err != nil {
		return err
	}
	pid := v.Pid()
	if pid == 0 {
		return errs.New(errs.Internal, "it ended at once").At(v.spec.Name)
	}
	file := fmt.Sprintf("/proc/%d/ns/net", pid)
	return v.lab.plug(ctx, v.index, v.spec.Name, fmt.Sprint(pid), file, v.spec.Interfaces, v.spec.Routes, v.spec.Sysctls,
		v.spec.AddressDelay)
}

// refresh asks the engine for the process id.
func (v *VM) refresh(ctx context.Context) error {
	if err := v.usable(); err != nil {
		return err
	}
	info, err := v.lab.engine.ContainerInspect(ctx, v.container())
	if err != nil {
		v.setPid(0)
		return err
	}
	pid := 0
	if info.State.Running {
		pid = info.State.Pid
	}
	v.setPid(pid)
	return nil
}

// WaitBooted waits until systemd has finished starting; failed units do not matter.
func (v *VM) WaitBooted(ctx context.Context) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, BootLimit)
		defer cancel()
	}
	last := ""
	for {
		result, err := v.Exec(ctx, "systemctl", "is-system-running", "--wait")
		if err != nil {
			return errs.Wrap("wait for the boot (last state "+last+")", err)
		}
		last = strings.TrimSpace(result.Stdout + result.Stderr)
		switch last {
		case "running", "degraded":
			return nil
		}
		select {
		case <-ctx.Done():
			return errs.New(errs.Timeout, "not booted: %s", last).At(v.spec.Name)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Shutdown stops a VM as "systemctl poweroff" would.
func (v *VM) Shutdown(ctx context.Context) error {
	if err := v.usable(); err != nil {
		return err
	}
	limit := stopLimit
	if err := v.lab.engine.ContainerStop(ctx, v.container(), container.StopOptions{Timeout: &limit}); err != nil {
		return err
	}
	v.setPid(0)
	return nil
}

// Reboot restarts a VM cleanly, with a new network namespace: rules, addresses and /run are gone, the disk stays. It does
// not wait for the boot.
func (v *VM) Reboot(ctx context.Context) error {
	if err := v.Shutdown(ctx); err != nil {
		return errs.Wrap("reboot "+v.spec.Name, err)
	}
	return errs.Wrap("reboot "+v.spec.Name, v.Start(ctx))
}

// PowerOff ends all processes of a VM at once. What they had not written is lost; what the kernel had not flushed is not,
// since the machine's kernel lives on.
func (v *VM) PowerOff(ctx context.Context) error {
	if err := v.usable(); err != nil {
		return err
	}
	ended, failed := v.lab.engine.ContainerWait(ctx, v.container(), container.WaitConditionNextExit)
	if err := v.lab.engine.ContainerKill(ctx, v.container(), "KILL"); err != nil {
		return err
	}
	select {
	case <-ended:
	case err := <-failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
	v.setPid(0)
	return nil
}

// PowerCut is PowerOff and Start. It does not wait for the boot.
func (v *VM) PowerCut(ctx context.Context) error {
	if err := v.PowerOff(ctx); err != nil {
		return errs.Wrap("cut the power of "+v.spec.Name, err)
	}
	return errs.Wrap("cut the power of "+v.spec.Name, v.Start(ctx))
}

// Pause freezes the processes of a VM; its kernel still answers ping and accepts connections. Commands run by Exec are
// not frozen.
func (v *VM) Pause(ctx context.Context) error {
	if err := v.usable(); err != nil {
		return err
	}
	return errs.Wrap("pause "+v.spec.Name, v.lab.engine.ContainerPause(ctx, v.container()))
}

// Unpause ends Pause.
func (v *VM) Unpause(ctx context.Context) error {
	if err := v.usable(); err != nil {
		return err
	}
	return errs.Wrap("unpause "+v.spec.Name, v.lab.engine.ContainerUnpause(ctx, v.container()))
}

// filesTar packs files for the VM's disk. The three that the engine mounts go where the entrypoint finds them.
func filesTar(files []File) (*bytes.Buffer, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, f := range files {
		guest := f.Guest
		switch guest {
		case "/etc/hosts", "/etc/hostname", "/etc/resolv.conf":
			guest = "/var/lib/infractl-lab/seed/" + path.Base(guest)
		}
		mode := f.Mode.Perm()
		if mode == 0 {
			mode = 0o644
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(guest, "/"), Mode: int64(mode),
			Size: int64(len(f.Content)), ModTime: time.Now()}
		if err := tw.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := tw.Write(f.Content); err != nil {
			return nil, err
		}
	}
	return &buf, tw.Close()
}

// ignoreNotFound drops the error about a container or file that is not there.
func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) || os.IsNotExist(err) { //nolint:staticcheck // an alias of what is named instead, without one more direct dependency
		return nil
	}
	return err
}
