package packages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/clock"
)

// fakePackage is a package of the fake repository.
type fakePackage struct {
	version, conffile string
	needs             []string
}

// repository is what the fake mirror has; fresh packages are known only after an update.
var repository = map[string]fakePackage{
	"htop":     {version: "3.2.2-2"},
	"libpcap0": {version: "1.10"},
	"tcpdump":  {version: "4.99", needs: []string{"libpcap0"}, conffile: "/etc/tcpdump.conf"},
	"jq":       {version: "1.6"},
	"nano":     {version: "7.2", conffile: "/etc/nanorc"},
	"lynx":     {version: "2.9"},
	"fresh":    {version: "1.0"},
	"trap":     {version: "1.0", needs: []string{"ferm"}},
	"ferm":     {version: "2.5"},
}

// fakeMachine does to a folder what dpkg, apt and systemd do to a machine.
type fakeMachine struct {
	root string
	mu   sync.Mutex
	// units are the transient units, by name, with their state.
	units map[string]string
	// fail makes a program print a text and fail; the key is argv's start.
	fail map[string]string
	// ran are the commands that ran in units.
	ran []string
}

const baseStatus = `Package: bash
Essential: yes
Status: install ok installed
Priority: required
Architecture: amd64
Version: 5.2

Package: nano
Status: install ok installed
Priority: important
Version: 7.2
Conffiles:
 /etc/nanorc 0123456789abcdef0123456789abcdef
 /etc/nano.old 0123456789abcdef0123456789abcdef obsolete

Package: openssh-server
Status: hold ok installed
Version: 9.2

`

func newMachine(t *testing.T) *fakeMachine {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "infractl-test-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &fakeMachine{root: dir, units: map[string]string{}, fail: map[string]string{}}
	for name, text := range map[string]string{statusFile: baseStatus, "/usr/bin/apt-get": "", "/usr/bin/systemd-run": "",
		"/etc/nanorc": "mine", "/proc/1/comm": "systemd\n", "/run/x": "", "/var/lib/infractl/packages/x": ""} {
		m.write(t, name, text)
	}
	return m
}

func (m *fakeMachine) write(t *testing.T, name, text string) {
	t.Helper()
	if err := writeAll(m.root+name, text); err != nil {
		t.Fatal(err)
	}
}

func (m *fakeMachine) provider(faults *providertest.Faults) *Provider {
	return New(Config{Host: host.New(host.Config{Root: m.root, Runner: faults.Runner(m), Fault: faults.Op}),
		Clock: clock.NewAdjustable(fixed{}), Poll: time.Millisecond, LockWait: 50 * time.Millisecond, Limit: time.Minute})
}

type fixed struct{}

func (fixed) Now() time.Time { return time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) }

func (m *fakeMachine) state() (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := 0 // a unit that has ended well holds nothing, and is forgotten when the next one comes
	for _, s := range m.units {
		if s == "activating" {
			at++
		}
	}
	return fmt.Sprint(at, " units at work"), nil
}

// paragraph is one package in the fake's status file.
type paragraph struct{ name, rest, status string }

func (m *fakeMachine) read() []paragraph {
	data, _ := os.ReadFile(m.root + statusFile)
	var list []paragraph
	for _, text := range strings.Split(strings.TrimSpace(string(data)), "\n\n") {
		p := paragraph{}
		for line := range strings.Lines(text) {
			line = strings.TrimRight(line, "\n")
			switch {
			case strings.HasPrefix(line, "Package: "):
				p.name = line[9:]
			case strings.HasPrefix(line, "Status: "):
				p.status = line[8:]
			default:
				p.rest += line + "\n"
			}
		}
		list = append(list, p)
	}
	return list
}

func (m *fakeMachine) save(list []paragraph) error {
	slices.SortFunc(list, func(a, b paragraph) int { return strings.Compare(a.name, b.name) })
	text := ""
	for _, p := range list {
		if p.name == "bash" {
			text += "Package: bash\nEssential: yes\nStatus: " + p.status + "\n" + strings.Replace(p.rest, "Essential: yes\n", "", 1) + "\n"
			continue
		}
		text += "Package: " + p.name + "\nStatus: " + p.status + "\n" + p.rest + "\n"
	}
	return os.WriteFile(m.root+statusFile, []byte(text), 0o644)
}

func (m *fakeMachine) has(name string) bool {
	return slices.ContainsFunc(m.read(), func(p paragraph) bool {
		return p.name == name && (strings.HasSuffix(p.status, " installed") || strings.HasSuffix(p.status, "triggers-pending"))
	})
}

func (m *fakeMachine) Run(ctx context.Context, cmd host.Cmd) (host.Output, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.run(cmd.Argv)
}

func exit(argv []string, code int, text string) (host.Output, error) {
	return host.Output{Code: code, Stderr: []byte(text)}, &host.ExitError{Argv: argv, Code: code, Stderr: text}
}

func (m *fakeMachine) run(argv []string) (host.Output, error) {
	line := strings.Join(argv, " ")
	for start, text := range m.fail {
		if strings.Contains(line, start) && argv[0] != "systemd-run" {
			return exit(argv, 100, text)
		}
	}
	switch argv[0] {
	case "systemd-run":
		return m.systemdRun(argv)
	case "systemctl":
		return m.systemctl(argv)
	case "apt-cache":
		text := ""
		for _, n := range argv[3:] {
			if p, ok := repository[n]; ok && (n != "fresh" || m.updated()) {
				text += n + ":\n  Installed: (none)\n  Candidate: " + p.version + "\n  Version table:\n"
			}
		}
		return host.Output{Stdout: []byte(text)}, nil
	case "apt-get":
		return m.aptGet(argv)
	case "apt-mark":
		return host.Output{}, m.each(argv[3:], func(p *paragraph) {
			word := map[string]string{"hold": "hold", "unhold": "install"}[argv[1]]
			_, rest, _ := strings.Cut(p.status, " ")
			p.status = word + " " + rest
		})
	case "dpkg":
		return m.dpkg(argv)
	}
	return exit(argv, 127, "no such program: "+argv[0])
}

func (m *fakeMachine) updated() bool {
	_, err := os.Stat(m.root + "/run/lists")
	return err == nil
}

func (m *fakeMachine) each(names []string, f func(p *paragraph)) error {
	list := m.read()
	for i := range list {
		if slices.Contains(names, list[i].name) {
			f(&list[i])
		}
	}
	return m.save(list)
}

func (m *fakeMachine) systemdRun(argv []string) (host.Output, error) {
	at := slices.Index(argv, "--")
	unit := ""
	for _, a := range argv[:at] {
		if u, ok := strings.CutPrefix(a, "--unit="); ok {
			unit = u
		}
	}
	if _, there := m.units[unit]; there {
		return exit(argv, 1, "Failed to start transient service unit: Unit "+unit+" was already loaded or has a fragment file.")
	}
	m.ran = append(m.ran, strings.Join(argv[at+1:], " "))
	out, err := m.run(argv[at+1:])
	m.units[unit] = "active"
	if err != nil {
		m.units[unit] = "failed"
	}
	return host.Output{}, os.WriteFile(m.root+logFile(unit), append(out.Stdout, out.Stderr...), 0o600)
}

func (m *fakeMachine) systemctl(argv []string) (host.Output, error) {
	unit := argv[len(argv)-1]
	switch argv[1] {
	case "show":
		if argv[2] == "--property=Id" {
			text := ""
			for u := range m.units {
				text += "Id=" + u + "\n\n"
			}
			return host.Output{Stdout: []byte(text)}, nil
		}
		s := m.units[unit]
		if s == "" {
			s = "inactive"
		}
		return host.Output{Stdout: []byte("ActiveState=" + s + "\nResult=" + map[string]string{"failed": "exit-code"}[s] + "\n")}, nil
	case "stop":
		if m.units[unit] == "active" {
			delete(m.units, unit)
		}
		return host.Output{}, nil
	case "reset-failed":
		if m.units[unit] != "failed" {
			return exit(argv, 1, "Failed to reset failed state of unit: Unit not loaded.")
		}
		delete(m.units, unit)
		return host.Output{}, nil
	}
	return exit(argv, 1, "unknown verb")
}

// plan lists what an install brings, needs first.
func (m *fakeMachine) plan(names []string) []string {
	var list []string
	for _, n := range names {
		n, _, _ = strings.Cut(n, "=")
		for _, need := range append(slices.Clone(repository[n].needs), n) {
			if !m.has(need) && !slices.Contains(list, need) {
				list = append(list, need)
			}
		}
	}
	return list
}

func (m *fakeMachine) aptGet(argv []string) (host.Output, error) {
	if slices.Contains(argv, "update") {
		return host.Output{}, os.WriteFile(m.root+"/run/lists", nil, 0o644)
	}
	at := slices.Index(argv, "--")
	if slices.Contains(argv, "purge") {
		text := ""
		for _, n := range argv[slices.Index(argv, "purge")+1:] {
			text += "Purg " + n + " [1]\n"
			for other, p := range repository {
				if slices.Contains(p.needs, n) && m.has(other) {
					text += "Remv " + other + " [1]\n"
				}
			}
		}
		return host.Output{Stdout: []byte(text)}, nil
	}
	todo := m.plan(argv[at+1:])
	if slices.Contains(argv, "-s") {
		text := "Reading package lists...\n"
		for _, n := range todo {
			text += "Inst " + n + " (" + repository[n].version + " Debian:12 [amd64])\n"
		}
		return host.Output{Stdout: []byte(text)}, nil
	}
	list := m.read()
	for _, n := range todo {
		list = slices.DeleteFunc(list, func(p paragraph) bool { return p.name == n })
		rest := "Version: " + repository[n].version + "\n"
		if c := repository[n].conffile; c != "" {
			rest += "Conffiles:\n " + c + " 0123456789abcdef0123456789abcdef\n"
			if err := os.WriteFile(m.root+c, []byte("of the package"), 0o644); err != nil {
				return host.Output{}, err
			}
		}
		if n == "nano" {
			rest = "Priority: important\nVersion: 7.2\nConffiles:\n /etc/nanorc 0123456789abcdef0123456789abcdef\n" +
				" /etc/nano.old 0123456789abcdef0123456789abcdef obsolete\n"
		}
		list = append(list, paragraph{name: n, status: "install ok installed", rest: rest})
	}
	return host.Output{}, m.save(list)
}

func (m *fakeMachine) dpkg(argv []string) (host.Output, error) {
	if slices.Contains(argv, "--configure") {
		for _, f := range []string{"0001", "0002"} {
			_ = os.Remove(m.root + "/var/lib/dpkg/updates/" + f)
		}
		list := m.read()
		for i := range list {
			if strings.HasSuffix(list[i].status, "half-configured") || strings.HasSuffix(list[i].status, "unpacked") {
				list[i].status = "install ok installed"
			}
		}
		return host.Output{}, m.save(list)
	}
	names := argv[slices.Index(argv, "--")+1:]
	list := m.read()
	for _, n := range names {
		_ = os.Remove(m.root + repository[n].conffile)
		list = slices.DeleteFunc(list, func(p paragraph) bool { return p.name == n })
	}
	return host.Output{}, m.save(list)
}

func writeAll(path, text string) error {
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
}
