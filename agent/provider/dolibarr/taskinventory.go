package dolibarr

import (
	"bufio"
	"bytes"
	"context"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// What the original scripts call things: NAME_dolibarr, NAME_mariadb, NAME_network, and a folder NAME with .env and dolibarr.yml.
var (
	foreignContainer = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9_.-]{0,62})_(dolibarr|mariadb)$`)
	foreignNetwork   = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9_.-]{0,62})_network$`)
	versionForm      = regexp.MustCompile(`^[0-9]{1,3}(\.[0-9]{1,3}){0,2}$`)
)

// foreignFolders are where the original scripts keep the folders of their clients.
var foreignFolders = []string{"/working_dir/clients", "/opt/clients", "/srv/clients", "/root/clients"}

const (
	labelWorkingDir = "com.docker.compose.project.working_dir"
	// inventoryMost bounds what is reported: a result is one message of the session.
	inventoryMost = 20000
	envLimit      = 64 << 10
)

// inventory lists what is there of instances: ours by label, and what looks as if the original scripts had made it. It only looks, and
// passes no secret on.
func (p *Provider) inventory(ctx context.Context) (*v1.InstanceResult, error) {
	containers, err := p.engine.Containers(ctx)
	if err != nil {
		return nil, err
	}
	networks, err := p.engine.Networks(ctx)
	if err != nil {
		return nil, err
	}
	volumes, err := p.engine.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	folders, err := p.host.Glob(path.Join(p.cfg.Dir, "*"))
	if err != nil {
		return nil, errs.Wrap("list folders", err)
	}
	found := ownParts(containers, networks, volumes)
	names := map[string]string{}
	for _, f := range found {
		if f.GetInstance() != "" {
			names[f.GetId()] = f.GetInstance()
		}
	}
	for _, dir := range folders {
		if id := path.Base(dir); idForm.MatchString(id) {
			found = append(found, &v1.FoundInstance{Kind: "folder", Name: dir, Id: id, Instance: names[id]})
		}
	}
	if p.templating.Load() > 0 { // what a template is made of is gone when it is made
		found = slices.DeleteFunc(found, func(f *v1.FoundInstance) bool { return f.GetId() == templateID })
	}
	templates, err := p.templateDirs("*")
	if err != nil {
		return nil, err
	}
	for _, dir := range templates {
		version, _, _ := strings.Cut(path.Base(dir), "-")
		found = append(found, &v1.FoundInstance{Kind: "template", Name: path.Base(dir), Version: version})
	}
	found = append(found, p.foreign(containers, networks, volumes)...)
	if len(found) > inventoryMost {
		return nil, errs.New(errs.Exhausted, "there are %d parts of instances, more than %d", len(found), inventoryMost)
	}
	return &v1.InstanceResult{Found: found}, ctx.Err()
}

// ownParts are the parts that carry our label.
func ownParts(containers []docker.Container, networks []docker.Network, volumes []docker.Volume) []*v1.FoundInstance {
	var out []*v1.FoundInstance
	for _, c := range containers {
		f := &v1.FoundInstance{Kind: "container", Name: c.Name, Id: c.Labels[LabelID], Instance: c.Labels[LabelInstance], State: stateOf(c),
			Details: map[string]string{"image": c.Image, "status": c.Status, "networks": strings.Join(c.Networks, " ")}}
		switch {
		case c.Labels[LabelPart] == frontPart && c.Labels[LabelID] == "":
			f.Kind = "front"
		case f.GetId() == "":
			continue
		}
		out = append(out, f)
	}
	for _, n := range networks {
		if id := n.Labels[LabelID]; id != "" {
			out = append(out, &v1.FoundInstance{Kind: "network", Name: n.Name, Id: id, Instance: n.Labels[LabelInstance],
				Details: map[string]string{"subnet": n.Subnet}})
		}
	}
	for _, v := range volumes {
		if id := v.Labels[LabelID]; id != "" {
			out = append(out, &v1.FoundInstance{Kind: "volume", Name: v.Name, Id: id, Instance: v.Labels[LabelInstance]})
		}
	}
	return out
}

// stateOf is the engine's word for a container, but unhealthy for one that runs and does not work.
func stateOf(c docker.Container) string {
	if c.State == "running" && c.Health == "unhealthy" {
		return c.Health
	}
	return c.State
}

// foreign are the parts of instances that the original scripts made.
func (p *Provider) foreign(containers []docker.Container, networks []docker.Network, volumes []docker.Volume) []*v1.FoundInstance {
	var out []*v1.FoundInstance
	folders := map[string]string{} // by client
	for _, c := range containers {
		m := foreignContainer.FindStringSubmatch(c.Name)
		if m == nil || c.Labels[LabelID] != "" {
			continue
		}
		name := m[1]
		if dir := path.Clean(c.Labels[labelWorkingDir]); path.IsAbs(dir) && path.Base(dir) == name && p.host.Exists(dir) {
			folders[name] = dir
		} else if folders[name] == "" {
			folders[name] = ""
		}
		out = append(out, &v1.FoundInstance{Kind: "container", Name: c.Name, Instance: name, State: stateOf(c),
			Details: map[string]string{"image": c.Image, "status": c.Status, "networks": strings.Join(c.Networks, " "), "writes": strings.Join(p.writes(&c), " ")}})
	}
	for _, parent := range foreignFolders {
		files, err := p.host.Glob(path.Join(parent, "*", ".env"))
		if err != nil {
			continue // the patterns are constants
		}
		for _, file := range files {
			if name := path.Base(path.Dir(file)); name != "000_default" && folders[name] == "" {
				folders[name] = path.Dir(file)
			}
		}
	}
	for _, n := range networks {
		if m := foreignNetwork.FindStringSubmatch(n.Name); m != nil && n.Labels[LabelID] == "" {
			if _, known := folders[m[1]]; known {
				out = append(out, &v1.FoundInstance{Kind: "network", Name: n.Name, Instance: m[1], Details: map[string]string{"subnet": n.Subnet}})
			}
		}
	}
	owners := volumeOwners(containers)
	for _, v := range volumes {
		if v.Labels[LabelID] != "" {
			continue
		}
		f := &v1.FoundInstance{Kind: "volume", Name: v.Name, Instance: clientOf(v.Name, folders)}
		if owner, used := owners[v.Name]; used { // nothing that another container has is a client's, whatever it is called
			f.Instance, f.Details = owner, map[string]string{detailMounted: "true"}
		}
		if f.GetInstance() != "" && !nameless.MatchString(v.Name) {
			out = append(out, f)
		}
	}
	for _, name := range sortedNames(folders) {
		if dir := folders[name]; dir != "" && p.host.Exists(dir) {
			version, admin := p.foreignEnv(dir)
			f := &v1.FoundInstance{Kind: "folder", Name: dir, Instance: name, Version: version, Details: map[string]string{"admin": admin}}
			if !foreignFolder(dir) {
				f.Details["elsewhere"] = strings.Join(foreignFolders, ", ")
			}
			out = append(out, f)
		}
	}
	return out
}

// detailMounted marks volumes that a client's containers have, and nobody else.
const detailMounted = "mounted"

// nameless is what the engine calls a volume that nobody has named; it goes with its container.
var nameless = regexp.MustCompile(`^[0-9a-f]{64}$`)

// volumeOwners says which client has a volume; "" where it is not one client alone.
func volumeOwners(containers []docker.Container) map[string]string {
	out := map[string]string{}
	for _, c := range containers {
		client := ""
		if m := foreignContainer.FindStringSubmatch(c.Name); m != nil && c.Labels[LabelID] == "" {
			client = m[1]
		}
		for _, m := range c.Mounts {
			if m.Volume == "" {
				continue
			}
			if was, known := out[m.Volume]; known && was != client {
				client = ""
			}
			out[m.Volume] = client
		}
	}
	return out
}

// clientOf is whose a volume CLIENT_SOMETHING is: that of the longest name that fits.
func clientOf(volume string, folders map[string]string) string {
	best := ""
	for name := range folders {
		if strings.HasPrefix(volume, name+"_") && len(name) > len(best) {
			best = name
		}
	}
	return best
}

func sortedNames(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for name := range m {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// foreignEnv reads two lines of an .env, DOLI_VERSION and DOLI_ADMIN_LOGIN. The others hold passwords.
func (p *Provider) foreignEnv(dir string) (version, admin string) {
	f, err := p.host.Stat(path.Join(dir, ".env"))
	if err != nil || f.Absent || len(f.Data) > envLimit {
		return "", ""
	}
	scan := bufio.NewScanner(bytes.NewReader(f.Data))
	for scan.Scan() {
		name, value, _ := strings.Cut(strings.TrimSpace(scan.Text()), "=")
		switch value = strings.Trim(value, `'" `); {
		case name == "DOLI_VERSION" && versionForm.MatchString(value):
			version = value
		case name == "DOLI_ADMIN_LOGIN" && loginForm.MatchString(value):
			admin = value
		}
	}
	return version, admin
}
