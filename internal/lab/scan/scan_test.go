package scan_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/scan"
)

// here is this machine in place of a VM, with a journal and an engine of the test's.
type here struct{ bin string }

func (here) Name() string { return "vm1" }

func (h here) ExecIn(ctx context.Context, stdin io.Reader, argv ...string) (lab.Result, error) {
	var out, stderr strings.Builder
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Stdin, c.Stdout, c.Stderr = stdin, &out, &stderr
	c.Env = []string{"PATH=" + h.bin + ":" + os.Getenv("PATH")}
	err := c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return lab.Result{Stdout: out.String(), Stderr: stderr.String(), Code: c.ProcessState.ExitCode()}, err
}

// program writes a program that stands for another.
func program(t *testing.T, dir, name, script string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
}

// start runs a command until the test ends; it is there when start returns.
func start(t *testing.T, env []string, argv ...string) {
	t.Helper()
	c := exec.Command(argv[0], argv[1:]...)
	c.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = c.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
}

// TestEveryPlantedLeakIsFound plants a value in one place after the other: a scan that finds nothing proves nothing otherwise.
func TestEveryPlantedLeakIsFound(t *testing.T) {
	const wait = "echo there; read -r line" // no child that inherits
	for name, c := range map[string]struct {
		plant func(t *testing.T, value, bin, dir string, target *scan.Target)
		want  string
	}{
		"arguments": {func(t *testing.T, v, _, _ string, _ *scan.Target) { start(t, nil, "sh", "-c", wait, "--password="+v) }, "vm1: process cmdline: sh"},
		"environment": {func(t *testing.T, v, _, _ string, _ *scan.Target) {
			start(t, []string{"PASSWORD=" + v}, "sh", "-c", wait)
		},
			"vm1: process environ: sh"},
		"journal": {func(t *testing.T, v, bin, dir string, _ *scan.Target) {
			// The value is in a file: the stand-in's text must not be what is found.
			put(t, filepath.Join(dir, "..", "journal"), "Jan 1 00:00:00 vm1 agent[1]: password is "+v+"\n")
			program(t, bin, "journalctl", "cat "+filepath.Join(dir, "..", "journal")+"\n")
		}, "vm1: journal: agent[1]: "},
		"inspect": {func(t *testing.T, v, bin, dir string, _ *scan.Target) {
			put(t, filepath.Join(dir, "..", "inspect"), `{"Env": ["PASSWORD=`+v+`"]}`)
			program(t, bin, "docker", "case $1 in ps) echo c1;; inspect) cat "+filepath.Join(dir, "..", "inspect")+";; esac\n")
		}, "vm1: docker inspect: c1"},
		"container log": {func(t *testing.T, v, bin, dir string, _ *scan.Target) {
			put(t, filepath.Join(dir, "..", "log"), v)
			program(t, bin, "docker", "case $1 in ps) echo c1;; logs) cat "+filepath.Join(dir, "..", "log")+">&2;; esac\n")
		}, "vm1: docker logs: c1"},
		"file": {func(t *testing.T, v, _, dir string, _ *scan.Target) {
			put(t, filepath.Join(dir, "store.db"), "\x00\x01"+v+"\x00")
		}, "/store.db"},
		"file in base64": {func(t *testing.T, v, _, dir string, _ *scan.Target) {
			put(t, filepath.Join(dir, "x.json"), `{"value":"`+base64.StdEncoding.EncodeToString([]byte(v))+`"}`)
		}, "/x.json"},
		"text": {func(_ *testing.T, v, _, _ string, target *scan.Target) {
			target.Texts = map[string]string{"plan": "+ " + v}
		}, "text: text: plan"},
		"local file": {func(t *testing.T, v, _, dir string, target *scan.Target) {
			target.Local = []string{t.TempDir()}
			put(t, filepath.Join(target.Local[0], "bench.txt"), v)
		}, "/bench.txt"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			bin, dir := filepath.Join(root, "bin"), filepath.Join(root, "state")
			for _, d := range []string{bin, dir, filepath.Join(dir, "secrets")} {
				if err := os.MkdirAll(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			program(t, bin, "journalctl", "exit 0\n")
			program(t, bin, "docker", "exit 0\n")
			value := "planted+" + strings.ReplaceAll(t.Name(), "/", "-")
			target := scan.Target{Values: []string{value}, Folders: []string{dir, filepath.Join(root, "nowhere")}, Spare: []string{"*/secrets/*"}}
			put(t, filepath.Join(dir, "secrets", "db"), value) // where it belongs
			look := func() []string {
				leaks, err := scan.Scan(t.Context(), []scan.Machine{here{bin}}, target)
				if err != nil {
					t.Fatal(err)
				}
				var out []string
				for _, l := range leaks {
					if strings.Contains(l.String(), value) {
						t.Errorf("the leak shows the value: %s", l)
					}
					out = append(out, l.String())
				}
				return out
			}
			if before := look(); len(before) != 0 {
				t.Fatalf("found before anything was planted: %v", before)
			}
			c.plant(t, value, bin, dir, &target)
			if got := look(); len(got) != 1 || !strings.HasSuffix(got[0], c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// broken is a machine on which the scan does not come to its end.
type broken struct{ here }

func (broken) ExecIn(context.Context, io.Reader, ...string) (lab.Result, error) {
	return lab.Result{Stdout: "", Code: 0}, nil
}

func TestAScanThatDidNotHappenIsAnError(t *testing.T) {
	good := scan.Target{Values: []string{"long-enough-value"}}
	if _, err := scan.Scan(t.Context(), []scan.Machine{broken{}}, good); err == nil {
		t.Error("a scan without its end was taken for a clean one")
	}
	for _, values := range [][]string{nil, {"short"}, {"two lines are\nno value"}} {
		if _, err := scan.Scan(t.Context(), nil, scan.Target{Values: values}); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", values, err)
		}
	}
	if !slices.Contains(scan.DefaultFolders(), "/var/lib/infractl-server") {
		t.Error("the server's store is not looked at")
	}
}
