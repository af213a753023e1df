// Package stacks tries container stacks on a real engine: that of a virtual machine of the lab.
//
// The tests are those of agent/provider/containers that need an engine; they are built here and run inside the machine.
package stacks

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

// Figures are measurements by name: noop_plan_ms, first_up_s, first_up_by_hand_s, first_up_ratio, helper_peak_rss_mb.
type Figures map[string]float64

// Run boots the production machine alone, runs the tests in it and returns what they measured and printed.
func Run(ctx context.Context, o Options) (Figures, string, error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, "", errs.Wrap("make the lab's folder", err)
	}
	program := filepath.Join(o.Dir, "containers.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "lab", "-o", program, "./agent/provider/containers")
	build.Dir = o.Root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, "", errs.New(errs.Precondition, "the tests do not build: %w: %s", err, out)
	}
	site, err := demo.Boot(ctx, demo.Options{Root: o.Root, Bin: o.Bin, Dir: o.Dir, Name: o.Name, Bare: true, Out: os.Stderr,
		Customize: func(cfg *lab.Config) {
			cfg.VMs = slices.DeleteFunc(cfg.VMs, func(vm lab.VMSpec) bool { return vm.Name != demo.Prod })
			cfg.VMs[0].Mounts = append(cfg.VMs[0].Mounts, lab.Mount{Host: program, Guest: "/usr/bin/containers.test", RO: true})
		}})
	if site != nil {
		defer site.Down(context.WithoutCancel(ctx)) //nolint:errcheck // the next lab of this name removes what stayed
	}
	if err != nil {
		return nil, "", err
	}
	vm := site.Lab.VM(demo.Prod)
	image, err := vm.Must(ctx, "docker", "images", "--format", "{{.Repository}}:{{.Tag}}", "infractl-lab/busybox")
	if err != nil {
		return nil, "", errs.Wrap("find the image in the machine", err)
	}
	image, _, _ = strings.Cut(strings.TrimSpace(image), "\n")
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	result, err := vm.Exec(ctx, "env", "INFRACTL_COMPOSE=/usr/bin/infractl-compose", "INFRACTL_IMAGE="+image, "TMPDIR=/var/tmp",
		"/usr/bin/containers.test", "-test.v", "-test.run", "TestReal", "-test.timeout", "220s")
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
