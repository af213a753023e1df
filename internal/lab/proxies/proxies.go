// Package proxies tries the reverse proxy on a real service: Debian's caddy under systemd, in a virtual machine of the lab.
//
// The tests are those of agent/provider/proxy that need one; they are built here and run inside the machine.
package proxies

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
)

// guest is where the tests are in the machine.
const guest = "/usr/bin/proxy.test"

// Options say what to try with.
type Options struct {
	// Root is the project's folder, Bin the one of the built programs, Dir a folder for the lab.
	Root, Bin, Dir string
	// Name is the lab's name.
	Name string
}

// Run boots the production machine alone, runs the tests in it and returns what they printed.
func Run(ctx context.Context, o Options) (string, error) {
	program := filepath.Join(o.Dir, "proxy.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "lab", "-o", program, "./agent/provider/proxy")
	build.Dir = o.Root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", errs.New(errs.Precondition, "the tests do not build: %w: %s", err, out)
	}
	site, err := demo.Boot(ctx, demo.Options{Root: o.Root, Bin: o.Bin, Dir: o.Dir, Name: o.Name, Bare: true, Out: os.Stderr,
		Customize: func(cfg *lab.Config) {
			cfg.VMs = slices.DeleteFunc(cfg.VMs, func(vm lab.VMSpec) bool { return vm.Name != demo.Prod })
			cfg.VMs[0].Mounts = append(cfg.VMs[0].Mounts, lab.Mount{Host: program, Guest: guest, RO: true})
		}})
	if site != nil {
		defer site.Down(context.WithoutCancel(ctx)) //nolint:errcheck // the next lab of this name removes what stayed
	}
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	result, err := site.Lab.VM(demo.Prod).Exec(ctx, "env", "INFRACTL_VM=1", "TMPDIR=/var/tmp", guest, "-test.v", "-test.run", "TestReal|TestService",
		"-test.timeout", "220s")
	if err != nil {
		return "", errs.Wrap("run the tests in the machine", err)
	}
	output := result.Stdout + result.Stderr
	if result.Code != 0 {
		return output, errs.New(errs.Internal, "the tests in the machine failed: exit code %d", result.Code)
	}
	return output, nil
}
