// Package dns tries the name service: on a machine of the lab alone, where it is measured, and on a whole site in its tests.
//
// The tests on the machine are those of agent/provider/dns that need bind; they are built here and run inside.
package dns

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
)

// Options say what to try with.
type Options struct {
	// Root is the project's folder, Bin the one of the built programs, Dir a folder for the lab.
	Root, Bin, Dir string
	// Name is the lab's name.
	Name string
}

// Figures are measurements by name: live_s, one_more_s, noop_plan_ms.
type Figures map[string]float64

// services is the machine that serves names.
const services = "srv-dhcp-dns"

// Run boots the services machine alone, runs the tests in it and returns what they measured and printed.
func Run(ctx context.Context, o Options) (Figures, string, error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, "", errs.Wrap("make the lab's folder", err)
	}
	program := filepath.Join(o.Dir, "dns.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "lab", "-o", program, "./agent/provider/dns")
	build.Dir = o.Root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, "", errs.New(errs.Precondition, "the tests do not build: %w: %s", err, out)
	}
	site, err := demo.Boot(ctx, demo.Options{Root: o.Root, Bin: o.Bin, Dir: o.Dir, Name: o.Name, Bare: true, Out: os.Stderr,
		Customize: func(cfg *lab.Config) {
			cfg.VMs = slices.DeleteFunc(cfg.VMs, func(vm lab.VMSpec) bool { return vm.Name != services })
			cfg.VMs[0].Mounts = append(cfg.VMs[0].Mounts, lab.Mount{Host: program, Guest: "/usr/bin/dns.test", RO: true})
		}})
	if site != nil {
		defer site.Down(context.WithoutCancel(ctx)) //nolint:errcheck // the next lab of this name removes what stayed
	}
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	result, err := site.Lab.VM(services).Exec(ctx, "env", "INFRACTL_REAL_BIND=1", "TMPDIR=/var/tmp",
		"/usr/bin/dns.test", "-test.v", "-test.run", "TestReal", "-test.timeout", "150s")
	if err != nil {
		return nil, "", errs.Wrap("run the tests in the machine", err)
	}
	output := result.Stdout + result.Stderr
	if result.Code != 0 {
		return nil, output, errs.New(errs.Internal, "the tests in the machine failed: exit code %d", result.Code)
	}
	return figures(output), output, nil
}

func figures(output string) Figures {
	f := Figures{}
	for line := range strings.Lines(output) {
		words := strings.Fields(line)
		if len(words) == 3 && words[0] == "FIGURE" {
			if value, err := strconv.ParseFloat(words[2], 64); err == nil {
				f[words[1]] = value
			}
		}
	}
	return f
}
