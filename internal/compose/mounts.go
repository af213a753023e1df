package compose

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// engineSockets are the paths of the engine's socket.
func engineSockets() []string { return []string{"/var/run/docker.sock", "/run/docker.sock"} }

// readable are the paths of the host that a container may read: what all programs of a host may read, and nothing that is secret.
func readable() []string {
	return []string{"/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo", "/etc/ssl/certs", "/usr/share/ca-certificates"}
}

// engineKey acknowledges in a service, by saying why, that it has the engine's socket.
const engineKey = "x-infractl-engine"

// ScrapeFolder is where the agent of the monitoring node keeps what Prometheus shows to the server and to agents: cert.pem, key.pem
// and ca.pem. It is mounted as a folder, so that a renewed certificate is seen without a restart.
const ScrapeFolder = "/var/lib/infractl/scrape"

func (r *reader) mount(where, service string, v types.ServiceVolumeConfig) {
	switch v.Type {
	case types.VolumeTypeVolume, types.VolumeTypeTmpfs:
	case types.VolumeTypeBind:
		r.bind(where, service, v)
	default:
		r.fail(where, "use a volume, or a file of the stack's folder", "mounts of the type %s are refused", v.Type)
	}
}

func (r *reader) bind(where, service string, v types.ServiceVolumeConfig) {
	clean := path.Clean(v.Source)
	switch {
	case slices.Contains(engineSockets(), clean):
		if !r.tree.has(service + "/" + engineKey) {
			r.warn(where, "remove it; or write "+engineKey+": WHY into the service, when it is there to manage containers",
				"%s is the engine itself: whoever gets into this container has the host", clean)
		}
	case path.IsAbs(clean) && slices.Contains(append(readable(), ScrapeFolder), clean):
		r.stack.Scrapes = r.stack.Scrapes || clean == ScrapeFolder
		if !v.ReadOnly {
			r.fail(where, "add :ro", "%s is the host's: it can be read, not written", clean)
		}
	case path.IsAbs(clean), strings.HasPrefix(clean, "~"):
		r.fail(where, "use a volume for data and the folder "+r.folder+"/ for configuration; readable with :ro are "+strings.Join(readable(), ", "),
			"the host's path %s is refused: infractl would neither know nor save what is in it", v.Source)
	default:
		if _, ok := r.own(where, "file", v.Source); ok && !v.ReadOnly {
			r.fail(where, "add :ro, and a volume for what the container writes", "%s comes from the site: a container must not change it", v.Source)
		}
	}
}

// resources looks at what stands beside the services.
func (r *reader) resources(p *types.Project) {
	used := map[string]bool{}
	for _, s := range p.AllServices() {
		for _, ref := range s.Secrets {
			used[ref.Source] = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(p.Secrets)) {
		r.secret("secrets/"+key, key, types.FileObjectConfig(p.Secrets[key]), used[key])
	}
	for _, key := range slices.Sorted(maps.Keys(p.Configs)) {
		c := p.Configs[key]
		at := "configs/" + key
		switch {
		case bool(c.External), c.Environment != "", c.Driver != "", c.TemplateDriver != "":
			r.fail(at, "write file: ./"+r.folder+"/NAME, or content:", "config %s is none that a host alone could have", key)
		case c.File != "":
			r.own(at+"/file", "config", c.File)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(p.Volumes)) {
		r.volume("volumes/"+key, key, p.Volumes[key])
	}
	for _, key := range slices.Sorted(maps.Keys(p.Networks)) {
		r.network("networks/"+key, key, p.Networks[key])
	}
}

func (r *reader) secret(at, key string, s types.FileObjectConfig, used bool) {
	if !bool(s.External) {
		r.fail(at, "write external: true, then infractl secret set "+key, "secret %s is not external: its value would stand in the site", key)
		return
	}
	name := s.Name
	if name == "" {
		name = key
	}
	if !used {
		r.warn(at, "remove it", "no service uses the secret %s", key)
		return
	}
	r.stack.Secrets = append(r.stack.Secrets, name)
}

func (r *reader) volume(at, key string, v types.VolumeConfig) {
	r.stack.Volumes = append(r.stack.Volumes, key)
	if v.Driver != "" && v.Driver != "local" {
		r.fail(at+"/driver", "use local", "the volume driver %s is refused", v.Driver)
	}
	if kind := v.DriverOpts["type"]; len(v.DriverOpts) > 0 && kind != "tmpfs" && kind != "nfs" {
		r.fail(at+"/driver_opts", "only the types tmpfs and nfs are allowed", "volume %s would be a path of the host in disguise", key)
	}
	for _, o := range strings.Split(v.DriverOpts["o"], ",") {
		if o == "bind" || o == "rbind" {
			r.fail(at+"/driver_opts", "remove it", "volume %s would be a path of the host in disguise", key)
		}
	}
}

func (r *reader) network(at, key string, n types.NetworkConfig) {
	switch {
	case bool(n.External):
		r.fail(at, "name the network here, without external", "network %s is external: stacks have networks of their own", key)
	case n.Driver != "" && n.Driver != "bridge":
		r.fail(at+"/driver", "use bridge", "the network driver %s is refused: it goes past the host's firewall", n.Driver)
	case n.Name == "host", n.Name == "none", n.Name == "bridge":
		r.fail(at+"/name", "choose another name", "network %s is the engine's own", n.Name)
	}
	for _, o := range slices.Sorted(maps.Keys(n.DriverOpts)) {
		if o != "com.docker.network.driver.mtu" {
			r.fail(at+"/driver_opts", "only com.docker.network.driver.mtu is allowed", "network option %s is refused: it may go past the host's firewall", o)
		}
	}
}
