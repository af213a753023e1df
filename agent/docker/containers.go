package docker

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"

	"github.com/infractl/infractl/internal/errs"
)

// Labels that Compose puts on its containers.
const (
	// LabelProject is the stack.
	LabelProject = "com.docker.compose.project"
	// LabelService is the service in it.
	LabelService = "com.docker.compose.service"
	// LabelConfigHash is the digest of the service's configuration.
	LabelConfigHash = "com.docker.compose.config-hash"
	// LabelOneOff is "True" on a container of "compose run".
	LabelOneOff = "com.docker.compose.oneoff"
	// LabelNumber counts the containers of a service.
	LabelNumber = "com.docker.compose.container-number"
)

// Container is a container as the engine's list shows it: one question for all of them.
type Container struct {
	// ID is the full id, 64 hexadecimal digits.
	ID string
	// Name has no slash before it.
	Name string
	// Image is the image as it was named, ImageID the digest of its configuration.
	Image, ImageID string
	// Labels are all labels.
	Labels map[string]string
	// State is the engine's word: created, running, paused, restarting, removing, exited, dead.
	State string
	// Status is State for people, such as "Up 2 minutes (healthy)".
	Status string
	// Health is healthy, unhealthy or starting; empty without a health check.
	Health string
	// Created is when it was made, to the second.
	Created time.Time
	// Networks are the names of those that it is in, sorted.
	Networks []string
	// Mounts are what of the host it has; a volume without a name has a long one of the engine's.
	Mounts []Mount
}

// Project is the stack that the container belongs to; empty for one that Compose did not make.
func (c Container) Project() string { return c.Labels[LabelProject] }

// Service is the service in the stack.
func (c Container) Service() string { return c.Labels[LabelService] }

// Detail is all that is known of one container.
type Detail struct {
	Container
	// Restarts is how often the engine restarted it.
	Restarts int
	// Pid is its first process on the host; 0 when it does not run.
	Pid int
	// CgroupParent is the parent that it was given; empty means the engine's own, docker or system.slice.
	CgroupParent string
	// Started and Finished are zero when it never did.
	Started, Finished time.Time
	// ExitCode is that of its last end.
	ExitCode int
	// OOMKilled says that the kernel ended it for want of memory.
	OOMKilled bool
	// Error is what the engine says of its last start.
	Error string
	// HealthOutput is what its health check said last; at most 4 KiB.
	HealthOutput string
	// FailingStreak counts failures of the health check in a row.
	FailingStreak int
	// RestartPolicy is no, always, unless-stopped or on-failure.
	RestartPolicy string
	// TTY says that its log is one raw stream.
	TTY bool
}

// Containers lists all containers, those that do not run too, sorted by name. With labels ("name" or "name=value") only
// those that have them all.
func (e *Engine) Containers(ctx context.Context, labels ...string) ([]Container, error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	raw, err := e.client.ContainerList(ctx, container.ListOptions{All: true, Filters: labelled(labels)})
	if err != nil {
		return nil, e.failed("list containers", err)
	}
	list := make([]Container, 0, len(raw))
	for i := range raw {
		r := &raw[i]
		c := Container{ID: r.ID, Image: r.Image, ImageID: r.ImageID, Labels: r.Labels, State: r.State, Status: r.Status,
			Health: healthOf(r.Status), Created: time.Unix(r.Created, 0)}
		c.Name = ownName(r.Names)
		if r.NetworkSettings != nil {
			c.Networks = slices.Sorted(maps.Keys(r.NetworkSettings.Networks))
		}
		for _, m := range r.Mounts {
			one := Mount{Volume: m.Name, Target: m.Destination, ReadOnly: !m.RW}
			if m.Type == mount.TypeBind {
				one.Host = m.Source
			}
			c.Mounts = append(c.Mounts, one)
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Container) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// ownName passes over the names that links of others give.
func ownName(names []string) string {
	for _, n := range names {
		if n = strings.TrimPrefix(n, "/"); !strings.Contains(n, "/") {
			return n
		}
	}
	return ""
}

// healthOf reads the health out of a status: the list of older engines has it nowhere else.
func healthOf(status string) string {
	for text, health := range map[string]string{"(healthy)": container.Healthy, "(unhealthy)": container.Unhealthy,
		"(health: starting)": container.Starting} {
		if strings.HasSuffix(status, text) {
			return health
		}
	}
	return ""
}

// Inspect returns all that is known of a container, by id or name.
func (e *Engine) Inspect(ctx context.Context, id string) (Detail, error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	raw, err := e.client.ContainerInspect(ctx, id)
	if err != nil {
		return Detail{}, e.failed("look at a container", err)
	}
	if raw.ContainerJSONBase == nil || raw.Config == nil {
		return Detail{}, errs.New(errs.Internal, "the engine's answer about container %.64q is not complete", id)
	}
	d := Detail{Restarts: raw.RestartCount, TTY: raw.Config.Tty}
	d.Container = Container{ID: raw.ID, Name: strings.TrimPrefix(raw.Name, "/"), Image: raw.Config.Image, ImageID: raw.Image,
		Labels: raw.Config.Labels, Created: parseTime(raw.Created)}
	if h := raw.HostConfig; h != nil {
		d.CgroupParent, d.RestartPolicy = h.CgroupParent, string(h.RestartPolicy.Name)
	}
	if s := raw.State; s != nil {
		d.State, d.Pid, d.ExitCode, d.OOMKilled, d.Error = s.Status, s.Pid, s.ExitCode, s.OOMKilled, s.Error
		d.Started, d.Finished = parseTime(s.StartedAt), parseTime(s.FinishedAt)
		if h := s.Health; h != nil && h.Status != container.NoHealthcheck {
			d.Health, d.FailingStreak = h.Status, h.FailingStreak
			if n := len(h.Log); n > 0 && h.Log[n-1] != nil {
				d.HealthOutput = tail(h.Log[n-1].Output, 4<<10)
			}
		}
	}
	return d, nil
}

func tail(s string, limit int) string {
	if len(s) > limit {
		s = s[len(s)-limit:]
	}
	return strings.ToValidUTF8(s, "?")
}

// parseTime reads the engine's times; its zero is the year 1.
func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() <= 1 {
		return time.Time{}
	}
	return t
}

// Restart stops a container, by force after grace, and starts it again. It is the caller's context that bounds it.
func (e *Engine) Restart(ctx context.Context, id string, grace time.Duration) error {
	seconds := int(grace.Seconds())
	if err := e.client.ContainerRestart(ctx, id, container.StopOptions{Timeout: &seconds}); err != nil {
		return e.failed("restart a container", err)
	}
	return nil
}

// Start starts a container that is there and does not run; one that runs is no error.
func (e *Engine) Start(ctx context.Context, id string) error {
	if err := e.client.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		return e.failed("start a container", err)
	}
	return nil
}
