package docker

import (
	"context"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"

	"github.com/infractl/infractl/internal/errs"
)

// Network is a network of the engine.
type Network struct {
	ID, Name string
	// Subnet is its first IPv4 prefix; empty when it has none.
	Subnet string
	Labels map[string]string
}

// Networks lists networks, sorted by name. With labels ("name" or "name=value") only those that have them all.
func (e *Engine) Networks(ctx context.Context, labels ...string) ([]Network, error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	raw, err := e.client.NetworkList(ctx, network.ListOptions{Filters: labelled(labels)})
	if err != nil {
		return nil, e.failed("list networks", err)
	}
	list := make([]Network, 0, len(raw))
	for i := range raw {
		n := Network{ID: raw[i].ID, Name: raw[i].Name, Labels: raw[i].Labels}
		for _, c := range raw[i].IPAM.Config {
			if n.Subnet == "" && !strings.Contains(c.Subnet, ":") {
				n.Subnet = c.Subnet
			}
		}
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b Network) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func labelled(labels []string) filters.Args {
	args := filters.NewArgs()
	for _, l := range labels {
		args.Add("label", l)
	}
	return args
}

// CreateNetwork makes a bridge network; an empty subnet leaves the choice to the engine. One of that name that is there is an error of
// the code Conflict: the engine itself allows two of one name.
func (e *Engine) CreateNetwork(ctx context.Context, name, subnet string, labels map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	if _, err := e.client.NetworkInspect(ctx, name, network.InspectOptions{}); err == nil {
		return errs.New(errs.Conflict, "there is a network %s already", name)
	}
	opts := network.CreateOptions{Driver: "bridge", Labels: labels}
	if subnet != "" {
		opts.IPAM = &network.IPAM{Config: []network.IPAMConfig{{Subnet: subnet}}}
	}
	if _, err := e.client.NetworkCreate(ctx, name, opts); err != nil {
		return e.failed("make the network "+name, err)
	}
	return nil
}

// RemoveNetwork removes a network that nobody is in; one that is gone is no error.
func (e *Engine) RemoveNetwork(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	return e.failedUnlessGone("remove the network "+name, e.client.NetworkRemove(ctx, name))
}

// Connect lets a container join a network; one that is in it already is no error.
func (e *Engine) Connect(ctx context.Context, name, id string, aliases ...string) error {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	err := e.client.NetworkConnect(ctx, name, id, &network.EndpointSettings{Aliases: aliases})
	if err == nil || strings.Contains(err.Error(), "already exists in network") {
		return nil
	}
	return e.failed("join the network "+name, err)
}

// Disconnect takes a container out of a network, running or not; one that is not in it is no error.
func (e *Engine) Disconnect(ctx context.Context, name, id string) error {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	err := e.client.NetworkDisconnect(ctx, name, id, true)
	if err == nil || strings.Contains(err.Error(), "is not connected to") {
		return nil
	}
	return e.failedUnlessGone("leave the network "+name, err)
}

// Volume is a volume of the engine.
type Volume struct {
	// Name is its name, Path its folder on the host.
	Name, Path string
	Labels     map[string]string
}

// Volumes lists volumes, sorted by name. With labels ("name" or "name=value") only those that have them all.
func (e *Engine) Volumes(ctx context.Context, labels ...string) ([]Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	raw, err := e.client.VolumeList(ctx, volume.ListOptions{Filters: labelled(labels)})
	if err != nil {
		return nil, e.failed("list volumes", err)
	}
	list := make([]Volume, 0, len(raw.Volumes))
	for _, v := range raw.Volumes {
		if v != nil {
			list = append(list, Volume{Name: v.Name, Path: v.Mountpoint, Labels: v.Labels})
		}
	}
	slices.SortFunc(list, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// CreateVolume makes a volume; one that is there is left as it is.
func (e *Engine) CreateVolume(ctx context.Context, name string, labels map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	if _, err := e.client.VolumeCreate(ctx, volume.CreateOptions{Name: name, Labels: labels}); err != nil {
		return e.failed("make the volume "+name, err)
	}
	return nil
}

// RemoveVolume removes a volume and what is in it; one that is gone is no error.
func (e *Engine) RemoveVolume(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	return e.failedUnlessGone("remove the volume "+name, e.client.VolumeRemove(ctx, name, false))
}
