package docker

import (
	"context"
	"net/netip"
	"strconv"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"

	"github.com/infractl/infractl/internal/errs"
)

// ContainerSpec says how a container is made. Every capability is dropped but those of CapAdd, and no program in it can gain more.
type ContainerSpec struct {
	// Name is its name, Image the image by reference or id.
	Name, Image string
	// User is its user as UID:GID; empty means the image's. Hostname is its own name.
	User, Hostname string
	// Restart is unless-stopped, or empty for one that stays as it ended.
	Restart string
	// StopSignal ends it; empty means the image's.
	StopSignal string
	// Entrypoint and Cmd replace the image's where they are set.
	Entrypoint, Cmd []string
	// Env are NAME=VALUE; anybody who may ask the engine reads them, so they never hold a secret.
	Env []string
	// CapAdd are capabilities that it keeps, without CAP_ before the name.
	CapAdd []string
	Labels map[string]string
	Mounts []Mount
	// Networks are those that it joins; without any it has none.
	Networks []Attachment
	Ports    []Port
	// MemoryBytes, MilliCPUs (thousandths of a core) and PIDs are its limits; 0 means none.
	MemoryBytes, MilliCPUs, PIDs int64
	// CPUShares is its weight where the processors are not enough for all; 0 means the engine's 1024.
	CPUShares int64
	// ReadOnly makes its root file system read-only; Tmpfs are paths in memory with their options.
	ReadOnly bool
	Tmpfs    map[string]string
	Health   *Health
	// StopTimeout is how long it may take to end before it is killed.
	StopTimeout time.Duration
}

// Mount is something of the host in a container: a volume or a path.
type Mount struct {
	// Volume or Host is the source, Target the absolute path inside.
	Volume, Host, Target string
	ReadOnly             bool
}

// Attachment is a network that a container joins, and the names that it has there.
type Attachment struct {
	Network string
	Aliases []string
}

// Port is a published TCP port.
type Port struct {
	Address         netip.Addr
	Host, Container uint16
}

// Health is a health check. Test is as Docker has it: CMD and the arguments.
type Health struct {
	Test                           []string
	Interval, Timeout, StartPeriod time.Duration
	Retries                        int
}

// Logs of a container are kept by the engine within these bounds.
const (
	logSize  = "10m"
	logFiles = "3"
)

// CreateContainer makes a container and does not start it.
func (e *Engine) CreateContainer(ctx context.Context, s ContainerSpec) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	config := &container.Config{Image: s.Image, User: s.User, Hostname: s.Hostname, StopSignal: s.StopSignal, Entrypoint: s.Entrypoint,
		Cmd: s.Cmd, Env: s.Env, Labels: s.Labels, ExposedPorts: nat.PortSet{}}
	if s.StopTimeout > 0 {
		seconds := int(s.StopTimeout.Seconds())
		config.StopTimeout = &seconds
	}
	if h := s.Health; h != nil {
		config.Healthcheck = &container.HealthConfig{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod,
			Retries: h.Retries}
	}
	on := &container.HostConfig{CapDrop: []string{"ALL"}, CapAdd: s.CapAdd, SecurityOpt: []string{"no-new-privileges"},
		ReadonlyRootfs: s.ReadOnly, Tmpfs: s.Tmpfs, PortBindings: nat.PortMap{}, Resources: limits(s.MemoryBytes, s.MilliCPUs, s.PIDs),
		LogConfig: container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": logSize, "max-file": logFiles}}}
	on.CPUShares = s.CPUShares
	if s.Restart != "" {
		on.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyMode(s.Restart)}
	}
	for _, m := range s.Mounts {
		one := mount.Mount{Type: mount.TypeVolume, Source: m.Volume, Target: m.Target, ReadOnly: m.ReadOnly}
		if m.Host != "" {
			one.Type, one.Source = mount.TypeBind, m.Host
		}
		on.Mounts = append(on.Mounts, one)
	}
	for _, p := range s.Ports {
		port := nat.Port(strconv.Itoa(int(p.Container)) + "/tcp")
		config.ExposedPorts[port] = struct{}{}
		on.PortBindings[port] = append(on.PortBindings[port], nat.PortBinding{HostIP: p.Address.String(), HostPort: strconv.Itoa(int(p.Host))})
	}
	joined := &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{}}
	on.NetworkMode = "none"
	if len(s.Networks) > 0 {
		first := s.Networks[0]
		on.NetworkMode = container.NetworkMode(first.Network)
		joined.EndpointsConfig[first.Network] = &network.EndpointSettings{Aliases: first.Aliases}
	}
	made, err := e.client.ContainerCreate(ctx, config, on, joined, nil, s.Name)
	if err != nil {
		return "", e.failed("make the container "+s.Name, err)
	}
	for _, a := range s.Networks[min(1, len(s.Networks)):] { // engines before 25 take one network at a container's birth
		if err := e.Connect(ctx, a.Network, made.ID, a.Aliases...); err != nil {
			return "", errs.Join(err, e.RemoveContainer(context.WithoutCancel(ctx), made.ID))
		}
	}
	return made.ID, nil
}

func limits(memory, milliCPUs, pids int64) container.Resources {
	r := container.Resources{Memory: memory, MemorySwap: memory, NanoCPUs: milliCPUs * 1e6}
	if pids > 0 {
		r.PidsLimit = &pids
	}
	return r
}

// UpdateLimits changes the limits of a container, running or not; 0 leaves one as it is.
func (e *Engine) UpdateLimits(ctx context.Context, id string, memory, milliCPUs, pids int64) error {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	if _, err := e.client.ContainerUpdate(ctx, id, container.UpdateConfig{Resources: limits(memory, milliCPUs, pids)}); err != nil {
		return e.failed("change the limits of a container", err)
	}
	return nil
}

// StopContainer ends a container, by force after grace; one that does not run, or is gone, is no error. It is the caller's context that
// bounds it.
func (e *Engine) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	seconds := int(grace.Seconds())
	err := e.client.ContainerStop(ctx, id, container.StopOptions{Timeout: &seconds})
	if err = e.failedUnlessGone("stop a container", err); err != nil {
		return err
	}
	return nil
}

// RemoveContainer removes a container, running or not, and its nameless volumes; one that is gone is no error.
func (e *Engine) RemoveContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	err := e.client.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	return e.failedUnlessGone("remove a container", err)
}

// failedUnlessGone is failed, but for what is not there.
func (e *Engine) failedUnlessGone(op string, err error) error {
	if err == nil {
		return nil
	}
	if err := e.failed(op, err); !errs.Is(err, errs.NotFound) {
		return err
	}
	return nil
}

// Wait waits for a container's end and returns its exit code. It is the caller's context that bounds it.
func (e *Engine) Wait(ctx context.Context, id string) (code int, err error) {
	ended, failed := e.client.ContainerWait(ctx, id, container.WaitConditionNotRunning)
	select {
	case err := <-failed:
		return 0, e.failed("wait for a container", err)
	case r := <-ended:
		if r.Error != nil {
			return int(r.StatusCode), errs.New(errs.Internal, "wait for a container: %s", tail(r.Error.Message, 1<<10))
		}
		return int(r.StatusCode), nil
	}
}
