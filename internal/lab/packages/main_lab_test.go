//go:build lab

package packages

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/packages"
	"github.com/infractl/infractl/internal/lab"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// vm is the one machine of these tests. Each test leaves it without the packages that it installed.
var vm *lab.VM

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "infractl-packages-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	// A card that leads nowhere: apt finds a network, and nobody on it.
	l, err := lab.Create(ctx, lab.Config{
		Name: "packages", Dir: dir, Replace: true,
		Networks: []lab.Network{{Name: "lan", CIDR: netip.MustParsePrefix("10.0.10.0/24")}},
		VMs: []lab.VMSpec{{
			Name:       "srv-packages",
			Interfaces: []lab.Interface{{Network: "lan", Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.10.9/24")}}},
			SmallDisks: []lab.SmallDisk{{Guest: "/opt/small", MiB: 2}},
		}},
	})
	if l != nil {
		defer l.Down(context.Background()) // the next lab of this name removes what stayed
	}
	if err == nil {
		err = l.StartVM(ctx)
	}
	if err == nil {
		err = l.WaitBooted(ctx)
	}
	if err == nil {
		vm = l.VM("srv-packages")
		err = repository(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the machine did not come up:", err)
		return 1
	}
	return m.Run()
}

// repository makes packages with dpkg-deb in the machine, and an index of them; nothing else is known to its apt.
func repository(ctx context.Context) error {
	const script = `set -e
mkdir -p /srv/repo /tmp/build; cd /tmp/build
make_package() { # NAME VERSION DEPENDS; files and scripts are in ./NAME already
	mkdir -p $1/DEBIAN
	printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: %s\n' $1 $2 $1 > $1/DEBIAN/control
	if [ -n "$3" ]; then echo "Depends: $3" >> $1/DEBIAN/control; fi
	chmod -f 0755 $1/DEBIAN/postinst || true
	dpkg-deb -b --root-owner-group -Znone $1 /srv/repo/$1_$2.deb >/dev/null
}
script() { mkdir -p $1/DEBIAN; printf '#!/bin/sh\nset -e\n%s\n' "$2" > $1/DEBIAN/postinst; }
mkdir -p tr-base/usr/share/tr-base tr-conf/etc tr-conf/DEBIAN tr-big/opt/small
make_package tr-base 1.0 ""
echo "of the package" > tr-conf/etc/tr.conf; echo /etc/tr.conf > tr-conf/DEBIAN/conffiles
make_package tr-conf 1.0 tr-base
script tr-questions 'if read answer; then echo "somebody answered" >&2; exit 1; fi
[ "$DEBIAN_FRONTEND" = noninteractive ]'
make_package tr-questions 1.0 ""
script tr-slow 'sleep 4; echo once >> /var/tmp/tr-slow'
make_package tr-slow 1.0 tr-base
script tr-fails 'echo "tr-fails: no" >&2; exit 1'
make_package tr-fails 1.0 tr-base
dd if=/dev/urandom of=tr-big/opt/small/big bs=1M count=4 status=none
make_package tr-big 1.0 tr-base
make_package tr-needs 1.0 tr-nowhere
cd /srv/repo
for f in *.deb; do
	dpkg-deb -f $f
	printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' $f $(stat -c %s $f) $(sha256sum < $f | cut -d' ' -f1)
done > Packages
mkdir -p /srv/sources; mv /etc/apt/sources.list /etc/apt/sources.list.d/* /srv/sources/ 2>/dev/null || true
echo 'deb [trusted=yes] file:/srv/repo ./' > /etc/apt/sources.list.d/lab.list
apt-get -q update
`
	r, err := vm.ExecIn(ctx, strings.NewReader(script), "sh")
	if err != nil {
		return err
	}
	return r.OK("make the repository")
}

// inVM runs the provider's commands in the machine; its files are reached through the machine's root folder.
type inVM struct{ log *[]string }

func (i inVM) Run(ctx context.Context, cmd host.Cmd) (host.Output, error) {
	if cmd.Timeout == 0 {
		cmd.Timeout = host.DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, cmd.Timeout)
	defer cancel()
	if i.log != nil {
		*i.log = append(*i.log, strings.Join(cmd.Argv, " "))
	}
	argv := append(append([]string{"env", "LC_ALL=C", "HOME=/root"}, cmd.Env...), cmd.Argv...)
	r, err := vm.ExecIn(ctx, bytes.NewReader(cmd.Stdin), argv...)
	out := host.Output{Stdout: []byte(r.Stdout), Stderr: []byte(r.Stderr), Code: r.Code}
	if err == nil && r.Code != 0 {
		err = &host.ExitError{Argv: cmd.Argv, Code: r.Code, Stderr: r.Stderr}
	}
	return out, err
}

// newProvider is the agent's provider, as after a start of the agent.
func newProvider(lockWait time.Duration, log *[]string) *packages.Provider {
	return packages.New(packages.Config{Host: host.New(host.Config{Root: vm.Root(), Runner: inVM{log}}), LockWait: lockWait})
}

type wish = provider.Wish[*v1.PackagesSpec]

func present(names ...string) wish {
	return wish{Spec: &v1.PackagesSpec{Present: names}, Stage: provider.Additions}
}

func absent(names ...string) wish {
	return wish{Spec: &v1.PackagesSpec{Absent: names}, Stage: provider.Services}
}

// apply does what the engine does, and returns the snapshot.
func apply(ctx context.Context, t *testing.T, p *packages.Provider, w wish) ([]byte, error) {
	t.Helper()
	// Whatever hangs ends before the test binary's own limit does: that would leave the lab and its engine behind.
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	pl, err := p.Plan(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := p.Snapshot(ctx, pl)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(ctx, pl); err != nil {
		return snapshot, err
	}
	return snapshot, p.Verify(ctx, w)
}

func mustApply(t *testing.T, w wish) {
	t.Helper()
	p := newProvider(30*time.Second, nil)
	if _, err := apply(t.Context(), t, p, w); err != nil {
		t.Fatal(err)
	}
	if pl, err := p.Plan(t.Context(), w); err != nil || len(pl.Changes) > 0 {
		t.Errorf("the plan after the apply: %v, %v", pl.Changes, err)
	}
}

// cleared removes packages at the end of a test.
func cleared(t *testing.T, names ...string) {
	t.Helper()
	t.Cleanup(func() {
		r, err := vm.Exec(context.Background(), append([]string{"dpkg", "--purge", "--force-remove-reinstreq"}, names...)...)
		if err != nil || r.Code != 0 {
			t.Errorf("clear %v: %v %s", names, err, r.Stderr)
		}
	})
}

func must(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := vm.Must(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// selections are all packages with their state, as dpkg tells it.
func selections(t *testing.T) string {
	t.Helper()
	return must(t, "dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}${Version}\n")
}
