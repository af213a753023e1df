package site

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/infractl/infractl/internal/compose"
	"github.com/infractl/infractl/internal/site/sitefile"
	"github.com/infractl/infractl/internal/site/yamltree"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Stack is one container stack.
type Stack struct {
	// Name is its name, Node the host that it runs on.
	Name, Node string
	// File is its Compose file's path in the site.
	File string
	// Compose is that file, Files are those of the folder with its name, by their path in the site, sorted.
	Compose []byte
	Files   []File
	// Needs is what the Compose file wants.
	Needs *compose.Stack
	// Variables are what it may interpolate.
	Variables map[string]string

	where string
}

// File is a file beside the site file.
type File struct {
	// Path is relative to the site file's folder, with slashes.
	Path string
	// Content is the file.
	Content []byte
	// Executable says whether it may be run.
	Executable bool
}

// agentSecrets are reserved: the agent of the monitoring node makes them itself, as files of compose.ScrapeFolder.
func agentSecrets() []string {
	return []string{"infractl-scrape-cert", "infractl-scrape-key", "infractl-ca"}
}

// ComposeFiles returns the paths of the Compose files that a site file names, in its order, also when the file is faulty.
func ComposeFiles(content []byte) []string {
	root, _ := yamltree.Parse(content)
	if root == nil || root.Kind != yamltree.Mapping {
		return nil
	}
	var f sitefile.File
	yamltree.Decode(root, &f, yamltree.Options{})
	var out []string
	for _, p := range f.Stacks {
		if file := string(p.Value.Compose); file != "" && !slices.Contains(out, file) {
			out = append(out, file)
		}
	}
	return out
}

func (l *loader) stacks() {
	for _, p := range l.file.Stacks {
		at := yamltree.Join("stacks", p.Key)
		if !l.name(at, "stack", p.Key) {
			continue
		}
		l.site.stacks = append(l.site.stacks, p.Key)
		var node *Node
		if l.nodeRef(at+"/node", p.Value.Node) {
			if node, _ = l.site.Node(p.Value.Node); !node.DockerHost() {
				l.fail(at+"/node", "choose a node with the role services, supervision, prod or preprod",
					"node %s has the role %s, which brings no Docker engine", node.Name, node.Role)
			}
		}
		file := string(p.Value.Compose)
		if file == "" {
			continue
		}
		if slices.Contains(l.site.files, file) {
			l.fail(at+"/compose", "copy it: files of its folder belong to one stack", "%s is the file of another stack already", file)
			continue
		}
		l.site.files = append(l.site.files, file)
		if node != nil && l.src.looksForFiles() {
			l.stack(at+"/compose", p.Key, file, node)
		}
	}
}

// stack reads a Compose file.
func (l *loader) stack(at, name, file string, node *Node) {
	content, ok := l.src.file(file)
	if !ok {
		l.fail(at, "write it, or take the stack out", "file %s does not exist beside the site file", file)
		return
	}
	st := Stack{Name: name, Node: node.Name, File: file, Compose: content.Content, where: l.where(at),
		Variables: l.site.stackVariables(node, l.file.Server)}
	dir, folder := path.Dir(file), compose.Folder(file)+"/"
	in := compose.Input{Stack: name, File: file, Content: content.Content, Files: map[string][]byte{}, Variables: st.Variables}
	for _, f := range l.src.Files {
		if strings.HasPrefix(f.Path, folder) {
			st.Files = append(st.Files, f)
			in.Files[relativeTo(dir, f.Path)] = f.Content
		}
	}
	slices.SortFunc(st.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	needs, findings := compose.Parse(in)
	for _, f := range findings {
		l.add(l.foreign(f))
	}
	if needs == nil {
		return
	}
	st.Needs = needs
	if needs.Scrapes && !l.monitors(node) {
		l.fail(at, "run Prometheus on the node of monitoring.node", "stack %s mounts %s, which only the monitoring node has", name, compose.ScrapeFolder)
	}
	for _, secret := range needs.Secrets {
		l.stackSecret(at, &st, secret)
	}
	l.site.Stacks = append(l.site.Stacks, st)
}

// monitors reports whether Prometheus runs on the node.
func (l *loader) monitors(n *Node) bool {
	if m := l.file.Monitoring; m != nil {
		return m.Node == n.Name
	}
	return n.Role == RoleSupervision
}

func relativeTo(dir, file string) string {
	if dir == "." {
		return file
	}
	return strings.TrimPrefix(file, dir+"/")
}

// foreign makes a finding of a Compose file one of the site.
func (l *loader) foreign(f compose.Finding) finding {
	severity := v1.Severity_SEVERITY_WARNING
	if f.Severity == compose.Error {
		severity = v1.Severity_SEVERITY_ERROR
	}
	return finding{severity: severity, file: path.Join(path.Dir(l.src.File), f.File), pos: yamltree.Pos{Line: f.Line, Column: f.Column},
		message: f.Message, hint: f.Hint}
}

func (l *loader) stackSecret(at string, st *Stack, secret string) {
	switch {
	case slices.Contains(agentSecrets(), secret):
		l.fail(at, "mount "+compose.ScrapeFolder+" with :ro: it has cert.pem, key.pem and ca.pem, and renewed ones are seen at once",
			"stack %s: %s is no secret that anybody sets: the agent of the monitoring node makes it", st.Name, secret)
	case !isLabel(secret):
		l.fail(at, labelHint, "stack %s: %q is no name for a secret", st.Name, secret)
	default:
		l.info(at, "stack %s needs the secret %s: infractl secret set %s", st.Name, secret, secret)
	}
}

// stackVariables are all that a Compose file may interpolate.
func (s *Site) stackVariables(n *Node, server sitefile.Server) map[string]string {
	out := map[string]string{
		"INFRACTL_SITE": s.Name, "INFRACTL_DOMAIN": s.Domain, "INFRACTL_NODE": n.Name, "INFRACTL_ADDRESS": n.main.String(),
		"INFRACTL_TIMEZONE": s.Timezone,
	}
	if len(server.Nodes) > 0 {
		if node, ok := s.Node(server.Nodes[0]); ok {
			out["INFRACTL_SERVER"] = netip.AddrPortFrom(node.main, s.Server.Port).String()
		}
	}
	return out
}

// published checks that what stacks publish can be reached, once all flows are known.
func (l *loader) published() {
	s := l.site
	for i := range s.Stacks {
		st := &s.Stacks[i]
		n, _ := s.Node(st.Node)
		for _, p := range st.Needs.Ports {
			at := compose.Finding{Severity: compose.Warning, File: st.File, Line: p.Line, Column: p.Column}
			switch {
			case p.Address.IsLoopback():
				continue
			case !slices.Contains(n.Addresses(), p.Address):
				at.Severity = compose.Error
				at.Message = fmt.Sprintf("service %s publishes on %s, which is no address of %s", p.Service, p.Address, n.Name)
				at.Hint = "use ${INFRACTL_ADDRESS}"
			case s.reachable(p):
				continue
			default:
				at.Message = fmt.Sprintf("no flow reaches port %s/%s of service %s: the firewall drops it", portText(p), p.Protocol, p.Service)
				at.Hint = fmt.Sprintf("add {name: NAME, from: WHO, to: %s, ports: [%s/%s]} to flows, or publish it on 127.0.0.1", n.Name, portText(p), p.Protocol)
			}
			l.add(l.foreign(at))
		}
	}
	l.collisions()
}

// collisions refuses two stacks of a node that publish the same port.
func (l *loader) collisions() {
	type taken struct {
		node, proto string
		address     netip.Addr
		port        uint16
	}
	owner := map[taken]string{}
	for _, st := range l.site.Stacks {
		for _, p := range st.Needs.Ports {
			for port := int(p.First); port <= int(p.Last); port++ {
				key := taken{st.Node, p.Protocol, p.Address, uint16(port)}
				who := "service " + p.Service + " of stack " + st.Name
				if other, ok := owner[key]; ok {
					l.add(l.foreign(compose.Finding{Severity: compose.Error, File: st.File, Line: p.Line, Column: p.Column,
						Message: fmt.Sprintf("port %d/%s of %s is taken by %s", port, p.Protocol, p.Address, other)}))
					break
				}
				owner[key] = who
			}
		}
	}
}

func portText(p compose.Port) string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// reachable reports whether a flow that holds for containers leads to the port.
func (s *Site) reachable(p compose.Port) bool {
	for i := range s.flows {
		f := &s.flows[i]
		if !f.hostOnly && f.to.machines && !f.from.empty() && s.covers(&f.to, p.Address) && f.matches(p.Protocol, p.First) && f.matches(p.Protocol, p.Last) {
			return true
		}
	}
	return false
}
