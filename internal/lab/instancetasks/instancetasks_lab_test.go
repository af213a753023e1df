//go:build lab

package instancetasks

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
)

const version = "19.0.4"

func TestInstancesOnARealEngine(t *testing.T) {
	bin := os.Getenv("INFRACTL_BIN")
	if bin == "" {
		t.Fatal("INFRACTL_BIN must name the folder of the built programs; use make e2e")
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "infractl-tasks-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	program := filepath.Join(dir, "dolibarr.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "lab", "-o", program, "./agent/provider/dolibarr")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("the tests do not build: %v: %s", err, out)
	}
	site, err := demo.Boot(ctx, demo.Options{Root: root, Bin: bin, Dir: dir, Name: "tasks", Bare: true, Out: os.Stderr,
		Customize: func(cfg *lab.Config) {
			cfg.VMs = slices.DeleteFunc(cfg.VMs, func(vm lab.VMSpec) bool { return vm.Name != demo.Prod })
			cfg.VMs[0].Mounts = append(cfg.VMs[0].Mounts, lab.Mount{Host: program, Guest: "/usr/bin/dolibarr.test", RO: true})
		}})
	if site != nil {
		t.Cleanup(func() { _ = site.Down(context.Background()) })
	}
	if err != nil {
		t.Fatal(err)
	}
	vm := site.Lab.VM(demo.Prod)
	for _, image := range []func(context.Context) (string, error){
		func(ctx context.Context) (string, error) { return site.Lab.DolibarrImage(ctx, version) }, site.Lab.MariadbImage, site.Lab.FrontImage,
	} {
		archive, err := image(ctx)
		if err != nil {
			t.Fatal(err)
		}
		load(ctx, t, vm, archive)
	}
	limited, stop := context.WithTimeout(ctx, 9*time.Minute)
	defer stop()
	result, err := vm.Exec(limited, "env", "INFRACTL_VERSION="+version, "TMPDIR=/var/tmp", "/usr/bin/dolibarr.test", "-test.v", "-test.run", "TestReal",
		"-test.timeout", "500s")
	t.Log(result.Stdout + result.Stderr)
	if err != nil || result.Code != 0 {
		t.Errorf("the tests in the machine failed: %v, exit code %d", err, result.Code)
	}
}

func load(ctx context.Context, t *testing.T, vm *lab.VM, archive string) {
	t.Helper()
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	limited, stop := context.WithTimeout(ctx, 3*time.Minute)
	defer stop()
	result, err := vm.ExecIn(limited, file, "docker", "load", "-q")
	if err == nil {
		err = result.OK("docker", "load")
	}
	if err != nil {
		t.Fatal(err)
	}
}
