package timesync

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

var update = flag.Bool("update", false, "write the golden files")

// fakeMachine does to a folder what systemd, chrony and systemd-timesyncd do to a machine.
type fakeMachine struct {
	root    string
	service service
	mu      sync.Mutex
	loaded  string // what the service read when it started
}

const debianConf = `# Welcome to the chrony configuration file.
confdir /etc/chrony/conf.d
pool 2.debian.pool.ntp.org iburst
sourcedir /run/chrony-dhcp
sourcedir /etc/chrony/sources.d
makestep 1 3
`

func newMachine(t *testing.T, s service, enabled bool) *fakeMachine {
	t.Helper()
	m := &fakeMachine{root: folder(t), service: s}
	files := map[string]string{"/proc/1/comm": "systemd\n", "/etc/systemd/system/x": ""}
	if s.process == "chronyd" {
		files["/usr/sbin/chronyd"], files[chronyMain] = "", debianConf
	} else {
		files["/lib/systemd/systemd-timesyncd"] = ""
	}
	for name, text := range files {
		must(t, errors.Join(os.MkdirAll(filepath.Dir(m.root+name), 0o755), os.WriteFile(m.root+name, []byte(text), 0o644)))
	}
	if enabled {
		for _, link := range s.links {
			must(t, errors.Join(os.MkdirAll(filepath.Dir(m.root+link), 0o755), os.Symlink("/lib/systemd/system/"+s.unit, m.root+link)))
		}
		_, err := m.Run(context.Background(), host.Cmd{Argv: []string{"systemctl", "restart", s.unit}})
		must(t, err)
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

func (m *fakeMachine) Run(_ context.Context, cmd host.Cmd) (host.Output, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	comm := m.root + "/proc/77/comm"
	switch argv := cmd.Argv; argv[0] {
	case "chronyc":
		text := ""
		for line := range strings.Lines(m.loaded) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "server" {
				text += "^,?," + f[1] + ",0,6,0,4294967295,0.0,0.0,0.0\n"
			}
		}
		return host.Output{Stdout: []byte(text)}, nil
	case "timedatectl":
		_, servers, _ := strings.Cut(m.loaded, "NTP=")
		servers, _, _ = strings.Cut(servers, "\n")
		return host.Output{Stdout: []byte(servers + "\n")}, nil
	case "chmod":
		return host.Output{}, os.Chmod(m.root+argv[2], 0o755)
	case "systemctl":
		switch argv[1] {
		case "restart":
			m.loaded = ""
			for _, pattern := range []string{chronyMain, "/etc/chrony/*.d/*", "/etc/systemd/timesyncd.conf.d/*"} {
				files, _ := filepath.Glob(m.root + pattern)
				for _, f := range files {
					data, _ := os.ReadFile(f)
					m.loaded += string(data)
				}
			}
			return host.Output{}, errors.Join(os.MkdirAll(filepath.Dir(comm), 0o755), os.WriteFile(comm, []byte(m.service.process+"\n"), 0o644))
		case "stop":
			m.loaded = ""
			return host.Output{}, os.RemoveAll(filepath.Dir(comm))
		}
		return host.Output{}, nil
	}
	return host.Output{Code: 127}, fmt.Errorf("no such program: %s", cmd.Argv[0])
}

func (m *fakeMachine) state() (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.loaded, nil
}

func (m *fakeMachine) provider(faults *providertest.Faults) *Provider {
	return New(Config{Host: host.New(host.Config{Root: m.root, Runner: faults.Runner(m), Fault: faults.Op}), Wait: 50 * time.Millisecond})
}

type env = providertest.Env[*v1.TimeSpec]

func want(spec *v1.TimeSpec) wish { return wish{Spec: spec, Stage: provider.Additions} }

func client() *v1.TimeSpec { return &v1.TimeSpec{Servers: []string{"10.0.10.1"}} }

func router() *v1.TimeSpec {
	return &v1.TimeSpec{Servers: []string{"0.pool.ntp.org", "203.0.113.5"}, Allow: []string{"10.0.10.0/24", "fd00::/64"}}
}

func TestConformance(t *testing.T) {
	for name, c := range map[string]struct {
		service service
		enabled bool
		second  *v1.TimeSpec
	}{
		"chrony":               {chrony(), true, router()},
		"chrony, switched off": {chrony(), false, router()},
		"timesyncd":            {timesyncd(), true, &v1.TimeSpec{Servers: []string{"10.0.10.1", "ntp.example"}}},
	} {
		t.Run(name, func(t *testing.T) {
			providertest.Run(t, providertest.Suite[*v1.TimeSpec]{
				New: func(t *testing.T, faults *providertest.Faults) env {
					m := newMachine(t, c.service, c.enabled)
					return env{Root: m.root, Provider: m.provider(faults), State: m.state}
				},
				Steps: []providertest.Step[*v1.TimeSpec]{
					{Name: "no server named", Wish: want(&v1.TimeSpec{}), NoChange: true},
					{Name: "client", Wish: want(client())},
					{Name: "client again", Wish: want(client()), NoChange: true},
					{Name: "other servers", Wish: want(c.second)},
				},
				Drifts: []providertest.Drift[*v1.TimeSpec]{
					{Name: "own file removed", Do: func(t *testing.T, e env) {
						for _, f := range []string{chronySources, timesyncdConf} {
							_ = os.Remove(e.Root + f)
						}
					}},
					{Name: "not started at boot", Do: func(t *testing.T, e env) { must(t, os.Remove(e.Root+c.service.links[0])) }},
					{Name: "service dead", Do: func(t *testing.T, e env) { must(t, os.RemoveAll(e.Root+"/proc/77")) }},
				},
				Refusals: []providertest.Refusal[*v1.TimeSpec]{
					{Name: "line end in a server", Code: errs.Invalid, Wish: want(&v1.TimeSpec{Servers: []string{"a\nallow all"}})},
					{Name: "option as a server", Code: errs.Invalid, Wish: want(&v1.TimeSpec{Servers: []string{"-x"}})},
					{Name: "prefix that is none", Code: errs.Invalid, Wish: want(&v1.TimeSpec{Servers: []string{"a"}, Allow: []string{"all"}})},
					{Name: "nothing installed", Code: errs.Precondition, Wish: want(client()), Prepare: func(t *testing.T, e env) {
						_ = os.Remove(e.Root + "/usr/sbin/chronyd")
						_ = os.Remove(e.Root + "/lib/systemd/systemd-timesyncd")
					}},
				},
			})
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesAreAsGolden(t *testing.T) {
	withChrony, without := newMachine(t, chrony(), true), newMachine(t, timesyncd(), true)
	for m, spec := range map[*fakeMachine]*v1.TimeSpec{withChrony: router(), without: client()} {
		p := m.provider(&providertest.Faults{})
		pl, err := p.Plan(context.Background(), want(spec))
		must(t, err)
		must(t, p.Apply(context.Background(), pl))
	}
	for name, path := range map[string]string{"chrony.conf": withChrony.root + chronyMain, "infractl.conf": withChrony.root + chronyConf,
		"infractl.sources": withChrony.root + chronySources, "timesyncd.conf": without.root + timesyncdConf} {
		got, err := os.ReadFile(path)
		must(t, err)
		file := filepath.Join("testdata", name)
		if *update {
			must(t, os.WriteFile(file, got, 0o644))
		}
		golden, err := os.ReadFile(file)
		must(t, err)
		if d := cmp.Diff(string(golden), string(got)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestTimesyncdCannotServe(t *testing.T) {
	m := newMachine(t, timesyncd(), true)
	if _, err := m.provider(&providertest.Faults{}).Plan(context.Background(), want(router())); errs.CodeOf(err) != errs.Precondition {
		t.Errorf("err = %v", err)
	}
}

func TestFoldersThatAreMissingAreAdded(t *testing.T) {
	once := chronyText("server ntp.example\n")
	if want := takenOver + "server ntp.example\nconfdir /etc/chrony/conf.d\nsourcedir /etc/chrony/sources.d\n"; once != want {
		t.Errorf("got\n%s\nwant\n%s", once, want)
	}
	if twice := chronyText(once); twice != once {
		t.Errorf("not stable:\n%s", twice)
	}
}
