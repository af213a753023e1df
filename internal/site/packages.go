package site

import (
	"maps"
	"regexp"
	"slices"
	"strconv"

	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// PackageSet are the packages of all nodes, or of those of one role.
type PackageSet struct {
	// Role is the role, empty for all nodes.
	Role string
	// Present, Absent and Hold are names of packages.
	Present, Absent, Hold []string
}

var packageForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]{1,99}$`)

// needed are packages without which infractl loses the host.
func needed() []string {
	return []string{"infractl-agent", "openssh-server", "sudo", "systemd", "iptables", "apt", "dpkg", "chrony", "docker.io", "docker-ce"}
}

func (l *loader) packages() {
	for _, p := range l.file.Packages {
		path := yamltree.Join("packages", p.Key)
		role := p.Key
		if role == "all" {
			role = ""
		} else if !slices.Contains(roles(), role) {
			l.failKey(path, l.among(role, append(roles(), "all")), "packages: %q is neither all nor a role", role)
			continue
		}
		l.packageNames(path, p.Value)
		l.site.Packages = append(l.site.Packages, PackageSet{role, p.Value.Present, p.Value.Absent, p.Value.Hold})
	}
	for _, p := range l.file.Packages {
		l.packageConflicts(p.Key)
	}
}

func (l *loader) packageNames(path string, p sitefile.Packages) {
	for _, list := range []struct {
		key   string
		names []string
	}{{"present", p.Present}, {"absent", p.Absent}, {"hold", p.Hold}} {
		for i, name := range list.names {
			at := yamltree.Join(path, list.key, strconv.Itoa(i))
			switch {
			case !packageForm.MatchString(name):
				l.fail(at, "small letters, digits and . + -, without version or architecture", "%.100q is no name of a package", name)
			case slices.Index(list.names, name) != i:
				l.fail(at, "", "package %s is given twice", name)
			case list.key == "absent" && slices.Contains(needed(), name):
				l.fail(at, "", "package %s cannot go: infractl works with it", name)
			}
		}
	}
}

// packageConflicts compares a section with itself and with that of all nodes.
func (l *loader) packageConflicts(key string) {
	set := l.site.packageSet(key)
	for _, p := range l.file.Packages {
		if p.Key != key {
			continue
		}
		for i, name := range p.Value.Absent {
			at := yamltree.Join("packages", key, "absent", strconv.Itoa(i))
			if slices.Contains(set.Present, name) {
				l.fail(at, "name it once", "package %s is both present and absent on the same node", name)
			}
			if slices.Contains(set.Hold, name) {
				l.fail(at, "name it once", "package %s is both held and absent on the same node", name)
			}
		}
		for _, list := range []struct {
			key   string
			names []string
		}{{"present", p.Value.Present}, {"hold", p.Value.Hold}} {
			for i, name := range list.names {
				if key != "all" && slices.Contains(set.Absent, name) && !slices.Contains(p.Value.Absent, name) {
					l.fail(yamltree.Join("packages", key, list.key, strconv.Itoa(i)), "take it out of packages.all.absent",
						"package %s is absent on all nodes", name)
				}
			}
		}
	}
}

// packageSet is what nodes of a role have: their own and those of all.
func (s *Site) packageSet(role string) PackageSet {
	out := PackageSet{Role: role}
	for _, p := range s.Packages {
		if p.Role == "" || p.Role == role {
			out.Present = append(out.Present, p.Present...)
			out.Absent = append(out.Absent, p.Absent...)
			out.Hold = append(out.Hold, p.Hold...)
		}
	}
	for _, list := range []*[]string{&out.Present, &out.Absent, &out.Hold} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return out
}

// tunnelPackage is what a Linux router with a tunnel needs. wireguard-go is only for kernels without WireGuard: the agent says so.
const tunnelPackage = "wireguard-tools"

// tasks are the packages that a node's tasks need, each with what it is for.
func (s *Site) tasks(n *Node) map[string]string {
	out := map[string]string{}
	if !n.Linux() {
		return out
	}
	if slices.Contains(s.dnsNodes(), n.Name) {
		out[bindPackage] = "serves names with it"
	}
	if s.runsCaddy(n) {
		out[caddyPackage] = "is the proxy with it"
	}
	if _, ok := s.Tunnel(); ok && n.Role == RoleRouter {
		out[tunnelPackage] = "has its tunnel with it"
	}
	return out
}

// taskPackages refuses the removal of what a node needs for its tasks.
func (l *loader) taskPackages() {
	for i := range l.site.Nodes {
		n := &l.site.Nodes[i]
		tasks := l.site.tasks(n)
		for _, name := range slices.Sorted(maps.Keys(tasks)) {
			if slices.Contains(l.site.packageSet(n.Role).Absent, name) {
				l.fail("packages", "leave it in on the role "+n.Role, "package %s cannot go: node %s %s", name, n.Name, tasks[name])
			}
		}
	}
}

// packagesOf derives the packages of a node; nil where the site says nothing about packages at all, and the node needs none.
func (s *Site) packagesOf(n *Node) *v1.PackagesSpec {
	tasks := s.tasks(n)
	if len(s.Packages) == 0 && len(tasks) == 0 {
		return nil
	}
	set := s.packageSet(n.Role)
	present := slices.AppendSeq(set.Present, maps.Keys(tasks))
	slices.Sort(present)
	return &v1.PackagesSpec{Present: slices.Compact(present), Absent: set.Absent, Hold: set.Hold}
}
