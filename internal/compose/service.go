package compose

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"
)

func (r *reader) service(name string, s *types.ServiceConfig) {
	at := "services/" + name
	r.stack.Services = append(r.stack.Services, name)
	r.image(at, s)
	r.isolation(at, s)
	r.ports(at, name, s)
	for i, v := range s.Volumes {
		r.mount(r.item(at+"/volumes", i, len(s.Volumes)), at, v)
	}
	for i, f := range s.EnvFiles {
		r.envFile(r.item(at+"/env_file", i, len(s.EnvFiles)), f.Path)
	}
	r.plainPasswords(at, s)
	switch h := s.HealthCheck; {
	case h == nil:
		r.report(Warning, r.tree.key(at), "add healthcheck: {test: [...]}", "service %s has no health check: nobody will know whether it works", name)
	case h.Disable:
		r.warn(at+"/healthcheck", "write a test", "service %s switches its health check off", name)
	}
	if len(s.Profiles) > 0 {
		r.warn(at+"/profiles", "remove profiles, or the service", "service %s never starts: nothing switches a profile on", name)
	}
}

// item is the path of a list's entry; when the library made several of one, or joined some, that of the list.
func (r *reader) item(list string, i, n int) string {
	if r.tree.has(child(list, strconv.Itoa(n-1))) && !r.tree.has(child(list, strconv.Itoa(n))) {
		return child(list, strconv.Itoa(i))
	}
	return list
}

// Familiar writes a reference as people do: docker.io/library/nginx:1 becomes nginx:1. False for what is no reference with a
// tag or digest.
func Familiar(ref string) (string, bool) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil || reference.IsNameOnly(named) {
		return "", false
	}
	return reference.FamiliarString(named), true
}

func (r *reader) image(at string, s *types.ServiceConfig) {
	if s.Image == "" {
		return // without build, which is refused, the library has said so
	}
	named, err := reference.ParseNormalizedNamed(s.Image)
	if err != nil {
		r.fail(at+"/image", "write it like grafana/grafana:11.2.0", "%q names no image: %v", s.Image, err)
		return
	}
	tagged, isTagged := named.(reference.Tagged)
	_, digested := named.(reference.Digested)
	switch {
	case !isTagged && !digested:
		r.fail(at+"/image", "write it like "+s.Image+":1.2.3", "image %s has no version: every host would run another one", s.Image)
	case isTagged && !digested && tagged.Tag() == "latest":
		r.fail(at+"/image", "name the version that was tested", "image %s: latest is another one each day", s.Image)
	default:
		r.stack.Images = append(r.stack.Images, s.Image)
	}
	if s.PullPolicy != "" && !slices.Contains([]string{"missing", "if_not_present", "never"}, s.PullPolicy) {
		r.fail(at+"/pull_policy", "remove it", "pull_policy %s is refused: images are staged before anything changes", s.PullPolicy)
	}
}

// harmless are the capabilities that a service may add: those that the engine gives anyway, and two that harm nobody else.
func harmless() []string {
	return []string{"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP",
		"SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "IPC_LOCK", "SYS_NICE"}
}

func (r *reader) isolation(at string, s *types.ServiceConfig) {
	for i, c := range s.CapAdd {
		if !slices.Contains(harmless(), strings.TrimPrefix(strings.ToUpper(c), "CAP_")) {
			r.fail(r.item(at+"/cap_add", i, len(s.CapAdd)), "allowed are "+strings.Join(harmless(), ", "), "capability %s is refused: it reaches beyond the container", c)
		}
	}
	if m := s.NetworkMode; m != "" && m != "none" && m != "bridge" && !strings.HasPrefix(m, "service:") {
		r.fail(at+"/network_mode", "publish ports instead", "network_mode %s is refused: the container would be on the host's network, past its firewall", m)
	}
	if m := s.Ipc; m != "" && m != "private" && m != "shareable" && m != "none" && !strings.HasPrefix(m, "service:") {
		r.fail(at+"/ipc", "remove it", "ipc %s is refused: it shares memory outside the stack", m)
	}
	if m := s.Pid; m != "" && !strings.HasPrefix(m, "service:") {
		r.fail(at+"/pid", "remove it", "pid %s is refused: the container would see, and could stop, what others run", m)
	}
	for i, o := range s.SecurityOpt {
		if !slices.Contains([]string{"no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"}, o) {
			r.fail(r.item(at+"/security_opt", i, len(s.SecurityOpt)), "only no-new-privileges:true is allowed", "security_opt %s is refused", o)
		}
	}
	if s.Deploy != nil && s.Deploy.Resources.Reservations != nil && len(s.Deploy.Resources.Reservations.Devices) > 0 {
		r.fail(at+"/deploy/resources/reservations/devices", "run what needs a device on the host", "devices are refused")
	}
	if n := s.GetScale(); n > 1 {
		where := at + "/deploy/replicas"
		if s.Scale != nil {
			where = at + "/scale"
		}
		r.fail(where, "one container for each service", "%d containers of one service are refused", n)
	}
}

func (r *reader) ports(at, name string, s *types.ServiceConfig) {
	for i, p := range s.Ports {
		where := r.item(at+"/ports", i, len(s.Ports))
		a, err := netip.ParseAddr(p.HostIP)
		if p.HostIP != "" && err != nil {
			r.fail(where, "use ${INFRACTL_ADDRESS}", "%q is no address", p.HostIP)
			continue
		}
		if p.HostIP == "" || a.IsUnspecified() {
			published := p.Published
			if published == "" {
				published = "PORT"
			}
			r.fail(where, fmt.Sprintf(`write "${INFRACTL_ADDRESS}:%s:%d", or 127.0.0.1 for the host alone`, published, p.Target),
				"service %s publishes its port %d on every address of the host", name, p.Target)
			continue
		}
		first, last, ok := portRange(p.Published)
		if !ok {
			r.fail(where, "name one", "the port %d has no fixed port on the host: no flow could name it", p.Target)
			continue
		}
		line := r.tree.value(where)
		proto := p.Protocol
		if proto == "" {
			proto = "tcp"
		}
		r.stack.Ports = append(r.stack.Ports, Port{name, a.Unmap(), proto, first, last, line.line, line.column})
	}
}

func portRange(text string) (first, last uint16, ok bool) {
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		to = from
	}
	a, err := strconv.ParseUint(from, 10, 16)
	b, err2 := strconv.ParseUint(to, 10, 16)
	return uint16(a), uint16(b), err == nil && err2 == nil && a > 0 && a <= b
}

// inFolder returns the path of a file of the stack, relative to the Compose file's folder, false when it lies elsewhere.
func (r *reader) inFolder(source string) (string, bool) {
	clean := path.Clean(source)
	if path.IsAbs(clean) || strings.HasPrefix(clean, "~") || clean != r.folder && !strings.HasPrefix(clean, r.folder+"/") {
		return clean, false
	}
	return clean, true
}

// exists reports whether a path of the stack is one of the given files, or a folder of them.
func (r *reader) exists(clean string) bool {
	if _, ok := r.in.Files[clean]; ok {
		return true
	}
	for f := range r.in.Files {
		if strings.HasPrefix(f, clean+"/") {
			return true
		}
	}
	return false
}

// own checks a path that the stack reads, and reports whether it is one of its files.
func (r *reader) own(where, what, source string) (string, bool) {
	clean, ok := r.inFolder(source)
	switch {
	case !ok:
		r.fail(where, "put it into the folder "+r.folder+"/ beside the Compose file, and write ./"+r.folder+"/NAME",
			"%s %s lies outside the stack's folder: only that folder travels to the host", what, source)
	case !r.exists(clean):
		r.fail(where, "write it; names of files are exact", "%s %s does not exist in the stack's folder", what, source)
	default:
		r.stack.Files = append(r.stack.Files, clean)
		return clean, true
	}
	return "", false
}
