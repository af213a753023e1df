// Package inside runs the tests of one package on a machine of the lab: they are built here and run there as a program.
package inside

import (
	"context"
	"fmt"
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

// guest is where the tests are in the machine.
const guest = "/usr/bin/tests-inside"

// Tests say what runs where.
type Tests struct {
	// Package is the package's path below the project's folder, Run chooses its tests as -test.run does.
	Package, Run string
	// Machine is the VM; no other one boots.
	Machine string
	// Env are variables of the tests: NAME=VALUE.
	Env []string
	// Prepare makes the machine ready and returns more variables; nil where nothing is to be done.
	Prepare func(ctx context.Context, site *demo.Site, vm *lab.VM) (env []string, err error)
	// Limit bounds the tests.
	Limit time.Duration
}

// Figures are measurements by name: the tests print them as "FIGURE name value".
type Figures map[string]float64

// Run boots the machine, runs the tests on it and returns what they measured and printed. Where and how the lab is built stands in o.
func Run(ctx context.Context, o demo.Options, tests Tests) (Figures, string, error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, "", errs.Wrap("make the lab's folder", err)
	}
	program := filepath.Join(o.Dir, "tests-inside")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "lab", "-o", program, "./"+tests.Package)
	build.Dir = o.Root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, "", errs.New(errs.Precondition, "the tests do not build: %w: %s", err, out)
	}
	o.Bare, o.Out = true, os.Stderr
	o.Customize = func(cfg *lab.Config) {
		cfg.VMs = slices.DeleteFunc(cfg.VMs, func(vm lab.VMSpec) bool { return vm.Name != tests.Machine })
		cfg.VMs[0].Mounts = append(cfg.VMs[0].Mounts, lab.Mount{Host: program, Guest: guest, RO: true})
	}
	site, err := demo.Boot(ctx, o)
	if site != nil {
		defer site.Down(context.WithoutCancel(ctx)) //nolint:errcheck // the next lab of this name removes what stayed
	}
	if err != nil {
		return nil, "", err
	}
	return run(ctx, site, tests)
}

func run(ctx context.Context, site *demo.Site, tests Tests) (Figures, string, error) {
	vm := site.Lab.VM(tests.Machine)
	argv := append([]string{"env", "TMPDIR=/var/tmp"}, tests.Env...)
	if tests.Prepare != nil {
		more, err := tests.Prepare(ctx, site, vm)
		if err != nil {
			return nil, "", errs.Wrap("prepare the machine", err)
		}
		argv = append(argv, more...)
	}
	ctx, cancel := context.WithTimeout(ctx, tests.Limit)
	defer cancel()
	// Tests that hang say where before the machine goes.
	limit := fmt.Sprint(tests.Limit - 10*time.Second)
	result, err := vm.Exec(ctx, append(argv, guest, "-test.v", "-test.run", tests.Run, "-test.timeout", limit)...)
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
