// Package facts reads what a host is: system, addresses, SSH server, Docker engine.
package facts

import (
	"context"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/agent/host"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// SSH tells where the SSH server listens.
type SSH interface {
	// Listening returns its TCP ports and addresses.
	Listening(ctx context.Context) (ports []uint32, addresses []string, err error)
}

// Config is what a Reader needs.
type Config struct {
	// Host is the machine.
	Host *host.Host
	// SSH tells where sshd listens; nil means to look at the sockets of its processes.
	SSH SSH
	// Warnings returns what people should know about the host; it may be nil.
	Warnings func(context.Context) []string
	// Addresses returns the addresses of the host's interfaces; nil means net.InterfaceAddrs.
	Addresses func() ([]net.Addr, error)
	// DockerVersion asks the Docker engine for its version; nil where there is none to ask.
	DockerVersion func(context.Context) (string, error)
}

// Reader reads facts.
type Reader struct{ cfg Config }

// New returns a Reader.
func New(cfg Config) *Reader {
	if cfg.SSH == nil {
		cfg.SSH = sockets{cfg.Host}
	}
	if cfg.Addresses == nil {
		cfg.Addresses = net.InterfaceAddrs
	}
	if cfg.Warnings == nil {
		cfg.Warnings = func(context.Context) []string { return nil }
	}
	if cfg.DockerVersion == nil {
		cfg.DockerVersion = func(context.Context) (string, error) { return "", nil }
	}
	return &Reader{cfg}
}

// dockerTimeout bounds the question to the engine: one that hangs must not hold a report up.
const dockerTimeout = time.Second

// dockerVersion is empty where no engine answers.
func (r *Reader) dockerVersion(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	v, err := r.cfg.DockerVersion(ctx)
	if err != nil {
		return ""
	}
	return v
}

// Read reads all facts. What cannot be read is left out: a report with gaps says more than none.
func (r *Reader) Read(ctx context.Context) *v1.HostFacts {
	release := r.release()
	f := &v1.HostFacts{
		Os: release["PRETTY_NAME"], OsId: release["ID"], OsVersion: release["VERSION_ID"],
		Kernel: r.line("/proc/sys/kernel/osrelease"), SshHostKeys: r.hostKeys(), Addresses: r.addresses(),
		Warnings: r.cfg.Warnings(ctx), DockerVersion: r.dockerVersion(ctx),
	}
	if f.Hostname = r.line("/proc/sys/kernel/hostname"); f.Hostname == "" {
		f.Hostname, _ = os.Hostname() // "" is the best that is known
	}
	if ports, addresses, err := r.cfg.SSH.Listening(ctx); err != nil {
		f.Warnings = append(f.Warnings, "it is not known where the SSH server listens: "+err.Error())
	} else {
		f.SshPorts, f.SshAddresses = ports, addresses
	}
	f.Warnings = bounded(f.Warnings)
	return f
}

// Bounds of the warnings: they are part of each report.
const (
	maxWarnings = 100
	maxWarning  = 500 // bytes
)

func bounded(list []string) []string {
	if n := len(list) - maxWarnings; n > 0 {
		list = append(list[:maxWarnings:maxWarnings], "and "+strconv.Itoa(n)+" more warnings")
	}
	for i, w := range list {
		if len(w) > maxWarning {
			list[i] = strings.ToValidUTF8(w[:maxWarning], "") + "..."
		}
	}
	return list
}

func (r *Reader) line(path string) string {
	data, err := r.cfg.Host.ReadFile(path)
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(first)
}

// release returns the fields of os-release.
func (r *Reader) release() map[string]string {
	data, err := r.cfg.Host.ReadFile("/etc/os-release")
	if err != nil {
		if data, err = r.cfg.Host.ReadFile("/usr/lib/os-release"); err != nil {
			return nil
		}
	}
	return parseRelease(string(data))
}

func parseRelease(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		fields[name] = value
	}
	return fields
}

// hostKeys returns the public host keys without their comments.
func (r *Reader) hostKeys() []string {
	files, err := r.cfg.Host.Glob("/etc/ssh/ssh_host_*_key.pub")
	if err != nil {
		return nil
	}
	var keys []string
	for _, file := range files {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(r.line(file)))
		if err != nil || !r.cfg.Host.Exists(strings.TrimSuffix(file, ".pub")) {
			continue
		}
		keys = append(keys, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))))
	}
	slices.Sort(keys)
	return keys
}

// addresses returns the host's addresses with prefix length, without loopback and link-local ones.
func (r *Reader) addresses() []string {
	list, err := r.cfg.Addresses()
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range list {
		network, ok := a.(*net.IPNet)
		if !ok || network.IP.IsLoopback() || network.IP.IsLinkLocalUnicast() {
			continue
		}
		out = append(out, network.String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// BootID returns the id of the host's present boot.
func BootID(h *host.Host) string {
	data, err := h.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// Hostname returns the host's short name in the form of node names.
func Hostname(h *host.Host) string {
	data, err := h.ReadFile("/proc/sys/kernel/hostname")
	if err != nil {
		if data, err = h.ReadFile("/etc/hostname"); err != nil {
			return ""
		}
	}
	short, _, _ := strings.Cut(strings.TrimSpace(path.Base(string(data))), ".")
	return strings.ToLower(short)
}
