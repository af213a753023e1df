//go:build lab

package packaging

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/labtest"
)

// Two versions of the same sources, and where the machines see them.
const (
	older   = "1.0.0"
	newer   = "2.0.0"
	inGuest = "/packages"
)

// Machines of these tests: one becomes the server, one a node, one a router with a /config folder.
const (
	server = "srv-main"
	node   = "srv-node"
	router = "vyos"
)

var (
	machines *lab.Lab
	// dist is the folder of the packages, root that of the sources.
	dist, root string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "infractl-packaging-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if root, err = filepath.Abs("../../.."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dist = filepath.Join(dir, "dist")
	for _, version := range []string{older, newer} {
		// INFRACTL_DIST may name a folder with a folder per version, to spare the building.
		if made := os.Getenv("INFRACTL_DIST"); made != "" {
			dist = made
		} else if err := build(ctx, version, filepath.Join(dist, version)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	cfg := lab.Config{Name: "packaging", Dir: filepath.Join(dir, "lab"), Replace: true,
		Networks: []lab.Network{{Name: "lan", CIDR: netip.MustParsePrefix("10.0.10.0/24")}}}
	for i, name := range []string{server, node, router} {
		cfg.VMs = append(cfg.VMs, lab.VMSpec{Name: name,
			Interfaces: []lab.Interface{{Network: "lan", Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.0.10.%d/24", 4+i))}}},
			Mounts:     []lab.Mount{{Host: dist, Guest: inGuest, RO: true}}})
	}
	machines, err = lab.Create(ctx, cfg)
	if machines != nil {
		defer machines.Down(context.Background()) // the next lab of this name removes what stayed
	}
	if err == nil {
		err = machines.StartVM(ctx)
	}
	if err == nil {
		err = machines.WaitBooted(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the machines did not come up:", err)
		return 1
	}
	return m.Run()
}

func build(ctx context.Context, version, out string) error {
	c := exec.CommandContext(ctx, filepath.Join(root, "packaging/build.sh"), version, "amd64", out)
	c.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if text, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", version, err, text)
	}
	return nil
}

// in runs a command in a machine and returns what it printed and its code.
func in(t *testing.T, vm string, argv ...string) (string, int) {
	t.Helper()
	return labtest.In(t, machines, vm, argv...)
}

// must runs a command in a machine, wants it to succeed, and returns standard output.
func must(t *testing.T, vm string, argv ...string) string {
	t.Helper()
	return strings.TrimSpace(labtest.Must(t, machines, vm, argv...))
}

// apt installs packages of a version from their files, as the guide says.
func apt(t *testing.T, vm, version string, names ...string) string {
	t.Helper()
	argv := []string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-q", "--no-install-recommends", "--allow-downgrades"}
	for _, name := range names {
		argv = append(argv, fmt.Sprintf("%s/%s/%s_%s_amd64.deb", inGuest, version, name, version))
	}
	return must(t, vm, argv...)
}

// is returns what systemctl says in one word.
func is(t *testing.T, vm, what, unit string) string {
	t.Helper()
	out, _ := in(t, vm, "systemctl", "is-"+what, unit)
	return strings.TrimSpace(out)
}

// files lists all files of a machine but those of the package manager, logs and caches.
func files(t *testing.T, vm string) string {
	t.Helper()
	return must(t, vm, "sh", "-c", `find / -xdev \( -path /proc -o -path /sys -o -path /tmp -o -path /var/tmp -o -path /var/log -o -path /var/cache `+
		`-o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/lib/systemd -o -path /root -o -path /packages \) -prune -o -print | sort; `+
		`find /run -xdev -name '*infractl*'; iptables -S`)
}
