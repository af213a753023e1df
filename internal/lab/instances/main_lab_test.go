//go:build lab

package instances

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/labtest"
)

// fleet is the one lab that all tests of this package share. Tests run in the order of the files' names; acme and beta are there
// from the first file to the last.
var fleet *Fleet

// instancesDisk is a file system of its own, to be filled.
const instancesDisk = "/var/lib/infractl/instances"

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	o, done, err := demo.ForTests("inst")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute) // the images are built the first time
	defer cancel()
	o.Overlay = "rollout: {window: 10s}\n"
	o.Customize = func(cfg *lab.Config) {
		prod := cfg.VM(demo.Prod)
		prod.SmallDisks = append(prod.SmallDisks, lab.SmallDisk{Guest: instancesDisk, MiB: 32})
	}
	fleet, err = Boot(ctx, o)
	if fleet != nil && fleet.Site != nil {
		defer fleet.Down(context.Background()) // the next lab of this name removes what stayed
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the fleet did not come up:", err)
		explain()
		return 1
	}
	code := m.Run()
	if code != 0 {
		explain()
	}
	return code
}

func explain() {
	if fleet == nil || fleet.Site == nil || fleet.Lab == nil {
		return
	}
	fleet.Explain(context.Background(), os.Stderr)
	for _, args := range [][]string{{"instance", "list", "--all"}, {"operation", "list"}} {
		if r, err := fleet.Infractl(context.Background(), args...); err == nil {
			fmt.Fprintf(os.Stderr, "--- infractl %v\n%s%s", args, r.Stdout, r.Stderr)
		}
	}
	if r, err := fleet.Lab.VM(demo.Prod).Exec(context.Background(), "docker", "ps", "-a"); err == nil {
		fmt.Fprintf(os.Stderr, "--- %s\n%s", demo.Prod, r.Stdout)
	}
}

// in runs a command in a VM and returns what it printed and its code.
func in(t *testing.T, vm string, argv ...string) (string, int) {
	t.Helper()
	return labtest.In(t, fleet.Lab, vm, argv...)
}

// infractl runs the command line as the operator and wants a code.
func infractl(t *testing.T, wantCode int, args ...string) string {
	t.Helper()
	return labtest.Infractl(t, fleet, wantCode, args...)
}

// create makes an instance that has to come.
func create(t *testing.T, name string, args ...string) (password string) {
	t.Helper()
	begun := time.Now()
	password, err := fleet.MustCreate(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.WaitLogin(t.Context(), name, pageLimit); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: create to its login page on the internet: %.1f s", name, time.Since(begun).Seconds())
	return password
}

func show(t *testing.T, name string) Instance {
	t.Helper()
	i, err := fleet.Show(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// wellOff wants acme and beta to answer as if nothing had happened: what goes wrong elsewhere is not theirs.
func wellOff(t *testing.T) {
	t.Helper()
	for _, name := range []string{"acme", "beta"} {
		if _, err := fleet.WaitLogin(t.Context(), name, pageLimit); err != nil {
			t.Errorf("a neighbour suffers: %v", err)
		}
	}
}

// traces are what is left of an instance anywhere: on its host by id, and by name in proxy, names and secrets.
func traces(t *testing.T, name, id string) []string {
	t.Helper()
	var found []string
	note := func(what, text string) {
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" {
				found = append(found, what+": "+line)
			}
		}
	}
	for what, argv := range map[string][]string{
		"container": {"docker", "ps", "-a", "--filter", "label=infractl.instance=" + name, "--format", "{{.Names}}"},
		"volume":    {"docker", "volume", "ls", "-q", "--filter", "label=infractl.instance=" + name},
		"network":   {"docker", "network", "ls", "-q", "--filter", "label=infractl.instance=" + name},
	} {
		out, _ := in(t, demo.Prod, argv...)
		note(what, out)
	}
	if id != "" {
		for what, argv := range map[string][]string{
			"container by id": {"docker", "ps", "-a", "--filter", "label=infractl.id=" + id, "--format", "{{.Names}}"},
			"volume by name":  {"docker", "volume", "ls", "-q", "--filter", "name=" + id},
			"network by name": {"docker", "network", "ls", "-q", "--filter", "name=" + id},
			"folder":          {"find", filepath.Join(instancesDisk, id), "-maxdepth", "0"},
			"mount":           {"grep", "-c", id, "/proc/self/mountinfo"},
		} {
			out, code := in(t, demo.Prod, argv...)
			if code == 0 {
				note(what, out)
			}
		}
	}
	host := name + "." + Domain
	if out, code := in(t, services, "dig", "+short", "+time=2", "@10.0.10.10", host); code == 0 { // no server has no names
		note("inside name", out)
	}
	if out, code := in(t, services, "grep", "-o", host, "/etc/caddy/infractl.json"); code == 0 {
		note("proxy host", out)
	}
	return found
}

// gone wants nothing of an instance to be left. Agents may take a moment for the last of it.
func gone(t *testing.T, name, id string) {
	t.Helper()
	var left []string
	for range 40 {
		if left = traces(t, name, id); len(left) == 0 {
			return
		}
		time.Sleep(250 * time.Millisecond)
	}
	t.Errorf("of %s (%s) there is left: %s", name, id, strings.Join(left, "; "))
}
