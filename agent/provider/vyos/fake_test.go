package vyos

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

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/vyos"
)

// fakeRouter is a FAKE: it records scripts and does to lines of text what vbash does to a configuration. It keeps the quirks that
// matter: a refused set says "Set failed", a refused commit ends with code 1 and leaves the running configuration alone, and
// whoever comes without the group vyattacfg spoils the session. Real VyOS was never asked.
type fakeRouter struct {
	root    string
	version vyos.Version
	mu      sync.Mutex
	running []vyos.Line
	saved   []vyos.Line
	refuse  string // what a commit says that is refused
	scripts []string
	spoiled bool
}

func newFake(t testing.TB, version vyos.Version, release, running string) *fakeRouter {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "infractl-test-")
	if err != nil {
		dir = t.TempDir()
	} else {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	f := &fakeRouter{root: dir, version: version}
	must(t, f.write(versionJSON, `{"version": "`+release+`", "build_by": "a fake"}`))
	for s := range strings.Lines(running) {
		if l, err := vyos.ParseLine(strings.TrimSpace(s)); err != nil {
			t.Fatal(err)
		} else if l != nil {
			f.running = append(f.running, l)
		}
	}
	f.saved = slices.Clone(f.running)
	must(t, f.services())
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fakeRouter) write(path, text string) error {
	return errors.Join(os.MkdirAll(filepath.Dir(f.root+path), 0o755), os.WriteFile(f.root+path, []byte(text), 0o644))
}

// services makes the port of sshd show in /proc.
func (f *fakeRouter) services() error {
	table := "  sl  local_address rem_address   st\n"
	for _, l := range f.running {
		if len(l) == 4 && l[0] == "service" && l[1] == "ssh" && l[2] == "port" {
			var port int
			if _, err := fmt.Sscan(l[3], &port); err != nil {
				return err
			}
			table += fmt.Sprintf("   0: 00000000:%04X 00000000:0000 0A\n", port)
		}
	}
	return f.write("/proc/net/tcp", table)
}

func fails(cmd host.Cmd, stdout, stderr string) (host.Output, error) {
	return host.Output{Stdout: []byte(stdout), Stderr: []byte(stderr), Code: 1}, &host.ExitError{Argv: cmd.Argv, Code: 1, Stderr: stderr}
}

// Run implements host.Runner.
func (f *fakeRouter) Run(_ context.Context, cmd host.Cmd) (host.Output, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch argv := cmd.Argv; {
	case argv[0] == "cli-shell-api" && slices.Equal(argv[1:], []string{"showCfg", "--show-active-only"}):
		return host.Output{Stdout: []byte(f.text())}, nil
	case argv[0] == "vyos-config-to-commands":
		return host.Output{Stdout: cmd.Stdin}, nil
	case argv[0] == "sg" && len(argv) == 4 && argv[1] == "vyattacfg" && argv[2] == "-c":
		path, ok := strings.CutPrefix(argv[3], "/bin/vbash ")
		if !ok || strings.ContainsAny(path, " ;'\"") {
			return fails(cmd, "", "not a script: "+argv[3])
		}
		script, err := os.ReadFile(f.root + path)
		if err != nil {
			return fails(cmd, "", err.Error())
		}
		return f.session(cmd, string(script))
	case strings.HasSuffix(argv[0], "vbash"):
		f.spoiled = true
		return fails(cmd, "", "Set failed")
	}
	return host.Output{Code: 127}, fmt.Errorf("the fake router has no program %s", cmd.Argv[0])
}

func (f *fakeRouter) text() string {
	var b strings.Builder
	for _, l := range f.running {
		b.WriteString(l.String() + "\n")
	}
	return b.String()
}

func (f *fakeRouter) session(cmd host.Cmd, script string) (host.Output, error) {
	f.scripts = append(f.scripts, script)
	if f.spoiled {
		return fails(cmd, "", "Set failed")
	}
	_, body, ok := strings.Cut(script, "\nconfigure\n")
	if !ok {
		return fails(cmd, "", "not in configuration mode")
	}
	checker := vyos.NewChecker(f.version)
	work := slices.Clone(f.running)
	for line := range strings.Lines(body) {
		command, number, _ := strings.Cut(strings.TrimSpace(line), " || refused ")
		refused := "\ninfractl: command " + number + " was refused"
		verb, rest, _ := strings.Cut(command, " ")
		l, err := vyos.ParseLine("set " + rest)
		if err != nil {
			return fails(cmd, "", "unexpected EOF while looking for matching quote")
		}
		switch verb {
		case "set":
			if err := checker.Line(l); err != nil {
				return fails(cmd, "Configuration path: ["+rest+"] is not valid\nSet failed\n", refused)
			}
			work = vyos.Applied(checker, work, vyos.Difference{Set: []vyos.Line{l}})
		case "delete":
			next := vyos.Applied(checker, work, vyos.Difference{Delete: []vyos.Line{l}})
			if len(next) == len(work) {
				return fails(cmd, "Nothing to delete (the specified node does not exist)\n", refused)
			}
			work = next
		case "commit":
			if f.refuse != "" {
				return fails(cmd, "", f.refuse+"\nCommit failed"+refused)
			}
			f.running = work
			if err := f.services(); err != nil {
				return host.Output{}, err
			}
		case "save":
			f.saved = slices.Clone(f.running)
		}
	}
	return host.Output{Stdout: []byte("this is a fake\n")}, nil
}

// state is what the router runs and what it saved, in any order of lines.
func (f *fakeRouter) state() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := func(lines []vyos.Line) string {
		var out []string
		for _, l := range lines {
			out = append(out, l.String())
		}
		slices.Sort(out)
		return strings.Join(out, "\n")
	}
	return "running\n" + list(f.running) + "\nsaved\n" + list(f.saved), nil
}

func (f *fakeRouter) provider(faults *providertest.Faults) *Provider {
	cfg := host.Config{Root: f.root, Runner: f}
	if faults != nil {
		cfg.Runner, cfg.Fault = faults.Runner(f), faults.Op
	}
	return New(Config{Host: host.New(cfg), Wait: 50_000_000})
}
