package dns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/zone"
	"github.com/infractl/infractl/internal/zone/zonetest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// fakeMachine does to a folder what systemd and bind do to a machine.
type fakeMachine struct {
	root string
	mu   sync.Mutex
	// served are master files by "view/zone", files where each was read from, as bind has them in memory.
	served, files map[string]string
	// refuseZone makes bind refuse a zone that named-checkzone takes, as a full memory does.
	refuseZone string
}

const tsig = "marker-of-the-transfer-key"

func newMachine(t *testing.T) *fakeMachine {
	t.Helper()
	m := &fakeMachine{root: folder(t), served: map[string]string{}, files: map[string]string{}}
	for name, text := range map[string]string{
		"/proc/1/comm": "systemd\n", "/usr/sbin/named": "", "/usr/bin/named-checkzone": "", "/usr/bin/named-checkconf": "", "/usr/sbin/rndc": "",
		"/usr/lib/systemd/system/named.service": "", "/etc/bind/named.conf": "// Debian's\n", "/etc/bind/named.conf.options": "options { };\n",
		"/etc/bind/named.conf.local":         "// yours\nzone \"old.lab\" {\n\ttype primary;\n\tfile \"/var/lib/bind/old.lab\";\n};\n",
		"/etc/bind/named.conf.default-zones": "", "/var/lib/bind/old.lab": "old.lab. 60 IN SOA a.old.lab. b.old.lab. 1 1 1 1 1\n", "/var/cache/bind/x": "",
		"/etc/systemd/system/multi-user.target.wants/x": "", "/var/lib/infractl/x": "",
	} {
		must(t, errors.Join(os.MkdirAll(filepath.Dir(m.root+name), 0o755), os.WriteFile(m.root+name, []byte(text), 0o644)))
	}
	return m
}

// folder is in memory: thousands of small writes to disk, each of them synced, would take minutes.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "infractl-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var zoneForm = regexp.MustCompile(`(?m)^(?:view "([a-z]+)"|zone "([^"]+)" \{\n\ttype (primary|secondary);\n\tfile "([^"]+)")`)

// configured are the zones of a configuration: file by "view/zone".
func (m *fakeMachine) configured(text string) map[string]string {
	out, view := map[string]string{}, ""
	for _, f := range zoneForm.FindAllStringSubmatch(text, -1) {
		if f[1] != "" {
			view = f[1]
			continue
		}
		out[view+"/"+f[2]] = f[4]
	}
	return out
}

func (m *fakeMachine) read(id, file string) {
	text, err := os.ReadFile(m.root + file)
	if err != nil {
		return
	}
	if _, _, err := zone.Parse(text); err == nil && !strings.HasSuffix(id, "/"+m.refuseZone) {
		m.served[id], m.files[id] = string(text), file
	}
}

// reconfigure reads zones that are new or come from another file, and forgets those that are gone.
func (m *fakeMachine) reconfigure() {
	text, _ := os.ReadFile(m.root + "/etc/bind/named.conf.local")
	all := m.configured(string(text))
	for id, file := range all {
		if m.files[id] != file {
			m.read(id, file)
		}
	}
	for id := range m.served {
		if all[id] == "" {
			delete(m.served, id)
			delete(m.files, id)
		}
	}
}

func (m *fakeMachine) Run(_ context.Context, cmd host.Cmd) (host.Output, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	comm := m.root + "/proc/88/comm"
	fail := func(why string) (host.Output, error) {
		return host.Output{Code: 1, Stdout: []byte(why)}, &host.ExitError{Argv: cmd.Argv, Code: 1, Stderr: why}
	}
	switch argv := cmd.Argv; argv[0] {
	case "named-checkzone":
		text, err := os.ReadFile(argv[len(argv)-1])
		if err != nil {
			return fail(err.Error())
		}
		if _, _, err := zone.Parse(text); err != nil {
			return fail(err.Error())
		}
		return host.Output{}, nil
	case "named-checkconf":
		text, err := os.ReadFile(argv[2])
		if err != nil {
			return fail(err.Error())
		}
		for id, file := range m.configured(string(text)) {
			if _, err := os.Stat(m.root + file); err != nil && !strings.HasPrefix(file, cacheDir) {
				return fail("zone " + id + ": file not found")
			}
		}
		return host.Output{}, nil
	case "rndc":
		if _, err := os.Stat(comm); err != nil {
			return fail("connection refused")
		}
		switch argv[1] {
		case "reconfig":
			m.reconfigure()
		case "zonestatus":
			if _, serial, err := zone.Parse([]byte(m.served[outside+"/"+argv[2]])); err == nil && serial > 0 {
				return host.Output{Stdout: fmt.Appendf(nil, "name: x\nserial: %d\n", serial)}, nil
			}
			return fail("no matching zone")
		default:
			for id, file := range m.files {
				if len(argv) == 2 || strings.HasSuffix(id, "/"+argv[2]) {
					m.read(id, file)
				}
			}
		}
		return host.Output{Stdout: []byte("zone reload queued\n")}, nil
	case "chmod":
		return host.Output{}, os.Chmod(m.root+argv[2], 0o755)
	case "systemctl":
		clear(m.served)
		clear(m.files)
		if argv[1] == "stop" {
			return host.Output{}, os.RemoveAll(filepath.Dir(comm))
		}
		m.reconfigure()
		return host.Output{}, errors.Join(os.MkdirAll(filepath.Dir(comm), 0o755), os.WriteFile(comm, []byte("named\n"), 0o644))
	}
	return host.Output{Code: 127}, fmt.Errorf("no such program: %s", cmd.Argv[0])
}

// exchange answers as bind does from what it has in memory.
func (m *fakeMachine) exchange(_ context.Context, q *mdns.Msg, _ string) (*mdns.Msg, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := os.Stat(m.root + "/proc/88/comm"); err != nil {
		return nil, errors.New("connection refused")
	}
	a := new(mdns.Msg)
	a.SetRcode(q, mdns.RcodeRefused)
	ids := slices.SortedFunc(maps.Keys(m.served), func(a, b string) int { return len(b) - len(a) }) // the closest zone answers
	for _, id := range ids {
		text := m.served[id]
		view, name, _ := strings.Cut(id, "/")
		if view == outside || !mdns.IsSubDomain(mdns.Fqdn(name), q.Question[0].Name) {
			continue
		}
		a.Rcode = mdns.RcodeNameError
		p := mdns.NewZoneParser(strings.NewReader(text), "", "")
		for rr, ok := p.Next(); ok; rr, ok = p.Next() {
			if strings.EqualFold(rr.Header().Name, q.Question[0].Name) {
				a.Rcode = mdns.RcodeSuccess
				if rr.Header().Rrtype == q.Question[0].Qtype {
					a.Answer = append(a.Answer, rr)
				}
			}
		}
		return a, nil
	}
	local, _ := os.ReadFile(m.root + "/etc/bind/named.conf.local")
	for id, file := range m.configured(string(local)) {
		if strings.HasPrefix(file, cacheDir) && mdns.Fqdn(strings.TrimPrefix(id, "/")) == q.Question[0].Name {
			a.Rcode = mdns.RcodeServerFailure
		}
	}
	return a, nil
}

func (m *fakeMachine) state() (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for id, text := range m.served {
		out = append(out, id+" from "+m.files[id]+"\n"+text)
	}
	slices.Sort(out)
	return strings.Join(out, "\n"), nil
}

// server gives contents and secrets.
type server struct{ contents map[string][]byte }

func (s server) Content(_ context.Context, digest string) ([]byte, error) {
	if text, ok := s.contents[digest]; ok {
		return text, nil
	}
	return nil, errs.New(errs.Denied, "no such content")
}

func (s server) Secrets(_ context.Context, refs []*v1.SecretRef) ([]*v1.SecretValue, error) {
	var out []*v1.SecretValue
	for _, r := range refs {
		out = append(out, &v1.SecretValue{Name: r.GetName(), Version: r.GetVersion(), Value: []byte(tsig + r.GetVersion())})
	}
	return out, nil
}

func (m *fakeMachine) provider(s server, faults *providertest.Faults) *Provider {
	return New(Config{Host: host.New(host.Config{Root: m.root, Runner: faults.Runner(m), Fault: faults.Op}), Fetcher: s, Exchange: zonetest.Exchange(m.exchange),
		Wait: 300 * time.Millisecond})
}
