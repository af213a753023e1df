//go:build lab

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/infractl/infractl/internal/errs"
)

// trialSite is the example site without what this test does not use.
func trialSite(name, dir string) Config {
	cfg := DefaultSite(name, dir)
	cfg.VMs = slices.DeleteFunc(cfg.VMs, func(vm VMSpec) bool {
		return !slices.Contains([]string{"vrouter", "srv-prod", "srv-pre-prod", "internet"}, vm.Name)
	})
	prod := cfg.VM("srv-prod")
	prod.SmallDisks = []SmallDisk{{Guest: "/srv/small", MiB: 8}}
	prod.Files = []File{{Guest: "/etc/trial", Mode: 0o640, Content: []byte("seeded")}, {Guest: "/etc/hosts", Content: []byte("127.0.0.1 localhost trial\n")}}
	return cfg
}

func TestSite(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute)
	defer cancel()
	cfg := trialSite("lab-test", t.TempDir())
	cfg.Progress = func(text string) { t.Log(text) }
	// Images first, so that nothing but the lab lies between the two looks at the machine.
	if err := BuildImages(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	before := look(t, cfg)

	begin := time.Now()
	l, err := Create(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("Down: %v", err)
		}
	})
	created := time.Now()
	if err := l.StartVM(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitBooted(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("created in %s, booted in %s", created.Sub(begin), time.Since(created))
	if _, err := Create(ctx, cfg); !errs.Is(err, errs.Exists) {
		t.Errorf("a second lab in the same folder = %v, want it refused", err)
	}

	during := look(t, cfg)
	for what, pair := range map[string][2][]string{
		"links": {before.Links, during.Links}, "rules": {before.Rules, during.Rules}, "sysctls": {before.Sysctls, during.Sysctls},
	} {
		if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
			t.Errorf("the running lab changes %s of the machine (-before +during):\n%s", what, diff)
		}
	}
	t.Run("every VM is sound", func(t *testing.T) { sound(ctx, t, l) })
	t.Run("the router routes", func(t *testing.T) { routes(ctx, t, l) })
	t.Run("commands and files", func(t *testing.T) { commandsAndFiles(ctx, t, l) })
	t.Run("machine's sysctls are out of reach", func(t *testing.T) { sysctls(ctx, t, l) })
	t.Run("nested container", func(t *testing.T) { nested(ctx, t, l) })
	t.Run("reboot", func(t *testing.T) { reboots(ctx, t, l) })
	t.Run("cable", func(t *testing.T) { cables(ctx, t, l) })
	t.Run("pause", func(t *testing.T) { pauses(ctx, t, l) })
	t.Run("small disk", func(t *testing.T) { smallDisk(ctx, t, l) })
	t.Run("open again", func(t *testing.T) {
		again, err := Open(ctx, cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := again.VM("internet").Must(ctx, "hostname"); err != nil || got != "internet\n" {
			t.Errorf("hostname = %q, %v", got, err)
		}
	})

	// A program that was left running in a light host, and a lab that nobody holds any more: Down still finds all of it.
	if _, err := l.Namespace("operator").StartProcess(context.Background(), "sleep", "600"); err != nil {
		t.Fatal(err)
	}
	other, err := Open(ctx, cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	if err := other.Down(ctx); err != nil {
		t.Fatalf("Down: %v", err)
	}
	t.Logf("down in %s", time.Since(begin))
	if diff := cmp.Diff(before, look(t, cfg), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("Down left something (-before +after):\n%s", diff)
	}
	if err := other.Down(ctx); err != nil {
		t.Errorf("Down again: %v", err)
	}
}

func must1(ctx context.Context, t *testing.T, vm *VM, argv ...string) string {
	t.Helper()
	out, err := vm.Must(ctx, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func sound(ctx context.Context, t *testing.T, l *Lab) {
	ids := map[string]string{}
	for _, name := range l.cfg.VMNames() {
		vm := l.VM(name)
		if failed := must1(ctx, t, vm, "systemctl", "--failed", "--no-legend", "--plain"); failed != "" {
			t.Errorf("%s: failed units: %s", name, failed)
		}
		for _, file := range []string{"/etc/machine-id", "/proc/sys/kernel/random/boot_id", "/etc/ssh/ssh_host_ed25519_key.pub"} {
			id := must1(ctx, t, vm, "cat", file)
			if ids[id] != "" {
				t.Errorf("%s and %s have the same %s", name, ids[id], file)
			}
			ids[id] = name
		}
		if got := must1(ctx, t, vm, "cat", "/etc/hostname"); got != name {
			t.Errorf("%s: /etc/hostname = %q", name, got)
		}
		// An atomic replacement is what an agent does.
		for _, file := range []string{"/etc/hosts", "/etc/hostname"} {
			must1(ctx, t, vm, "cp", "-p", file, file+".new")
			must1(ctx, t, vm, "mv", file+".new", file)
		}
	}
}

func banner(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	return bufio.NewReader(conn).ReadString('\n')
}

func routes(ctx context.Context, t *testing.T, l *Lab) {
	for _, target := range []string{"203.0.113.5", "10.0.10.21", "10.0.20.10"} {
		must1(ctx, t, l.VM("srv-prod"), "ping", "-c1", "-W2", target)
	}
	for _, target := range []string{"10.0.10.20:22", "10.0.10.21:22"} {
		got, err := banner(ctx, l.Namespace("operator").DialContext, target)
		if err != nil || !strings.HasPrefix(got, "SSH-2.0-") {
			t.Errorf("operator to %s = %q, %v", target, got, err)
		}
		got, err = banner(ctx, l.VM("internet").DialContext, target)
		if err != nil || !strings.HasPrefix(got, "SSH-2.0-") {
			t.Errorf("internet to %s = %q, %v", target, got, err)
		}
	}
	// Closed: nothing leads further out.
	if result, err := l.VM("internet").Exec(ctx, "ip", "route", "get", "198.51.100.1"); err != nil || result.Code == 0 {
		t.Errorf("the outside VM has a route further out: %+v, %v", result, err)
	}
	mac := must1(ctx, t, l.VM("srv-prod"), "cat", "/sys/class/net/eth0/address")
	if mac != MACFor("srv-prod", "eth0") {
		// /sys is the container's own, so this is the card's view from inside.
		t.Errorf("MAC = %s", mac)
	}
}

func commandsAndFiles(ctx context.Context, t *testing.T, l *Lab) {
	vm := l.VM("srv-prod")
	begin := time.Now()
	const rounds = 20
	for range rounds {
		must1(ctx, t, vm, "true")
	}
	t.Logf("Exec: %s each", time.Since(begin)/rounds)
	result, err := vm.ExecIn(ctx, strings.NewReader("hello"), "sh", "-c", "cat; exit 4")
	if err != nil || result.Stdout != "hello" || result.Code != 4 {
		t.Errorf("ExecIn = %+v, %v", result, err)
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := vm.Exec(short, "sh", "-c", "setsid sleep 4242 & sleep 4242"); !errs.Is(err, errs.Timeout) {
		t.Errorf("a hanging command = %v", err)
	}
	if result, _ := vm.Exec(ctx, "pgrep", "-f", "sleep 4242"); result.Code == 0 {
		t.Errorf("left behind: %s", result.Stdout)
	}
	p, err := vm.StartProcess(ctx, "sh", "-c", "echo up; sleep 4243")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	if got := p.Stop(); got != "up\n" {
		t.Errorf("output = %q", got)
	}

	if got, err := vm.ReadFile(ctx, "/etc/trial"); err != nil || string(got) != "seeded" {
		t.Errorf("seeded file = %q, %v", got, err)
	}
	if got, err := vm.ReadFile(ctx, "/etc/hosts"); err != nil || !strings.Contains(string(got), "trial") {
		t.Errorf("seeded /etc/hosts = %q, %v", got, err)
	}
	if err := vm.WriteFile(ctx, "/srv/new/deep/file", 0o600, []byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := vm.AppendFile(ctx, "/srv/new/deep/file", []byte("b")); err != nil {
		t.Fatal(err)
	}
	if got := must1(ctx, t, vm, "stat", "-c", "%a %U %s", "/srv/new/deep/file"); got != "600 root 2" {
		t.Errorf("stat = %s", got)
	}
	// An absolute link in a VM must not lead out of it.
	must1(ctx, t, vm, "ln", "-s", "/etc/hostname", "/srv/link")
	if got, err := vm.ReadFile(ctx, "/srv/link"); err != nil || string(got) != "srv-prod\n" {
		t.Errorf("through a link = %q, %v", got, err)
	}
	if _, err := vm.ReadFile(ctx, "/etc/nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file = %v", err)
	}
}

func sysctls(ctx context.Context, t *testing.T, l *Lab) {
	vm := l.VM("srv-prod")
	must1(ctx, t, vm, "sysctl", "-w", "vm.swappiness=7", "net.ipv4.conf.all.rp_filter=1")
	if got := must1(ctx, t, vm, "sysctl", "-n", "vm.swappiness"); got != "7" {
		t.Errorf("vm.swappiness in the VM = %s", got)
	}
	if own, _ := os.ReadFile("/proc/sys/vm/swappiness"); string(own) == "7\n" {
		t.Error("the VM changed the machine's vm.swappiness")
	}
	if got := must1(ctx, t, l.VM("internet"), "sysctl", "-n", "vm.swappiness"); got == "7" {
		t.Error("the VM changed another VM's vm.swappiness")
	}
	if result, err := vm.Exec(ctx, "sysctl", "-w", "kernel.threads-max=1000000"); err != nil || result.Code == 0 {
		t.Errorf("a sysctl of the machine could be set: %+v, %v", result, err)
	}
}

func nested(ctx context.Context, t *testing.T, l *Lab) {
	vm := l.VM("srv-prod")
	must1(ctx, t, vm, "docker", "network", "create", "app")
	must1(ctx, t, vm, "docker", "run", "-d", "--pull", "never", "--name", "web", "--network", "app", "--restart", "unless-stopped",
		"-p", "8080:80", "infractl-lab/busybox", "sh", "-c", "mkdir /www; echo nested > /www/index.html; exec httpd -f -p 80 -h /www")
	must1(ctx, t, vm, "docker", "run", "-d", "--pull", "never", "--name", "worker", "--network", "app", "infractl-lab/busybox", "sleep", "6000")
	if got := must1(ctx, t, vm, "docker", "exec", "worker", "wget", "-qO-", "http://web/"); got != "nested" {
		t.Errorf("container to container by name = %q", got)
	}
	if got := must1(ctx, t, l.VM("internet"), "curl", "-sS", "-m5", "http://10.0.10.20:8080/"); got != "nested" {
		t.Errorf("published port from outside = %q", got)
	}
	if got := must1(ctx, t, vm, "iptables", "-S", "DOCKER-USER"); !strings.Contains(got, "DOCKER-USER") {
		t.Errorf("DOCKER-USER = %q", got)
	}
}

func reboots(ctx context.Context, t *testing.T, l *Lab) {
	vm := l.VM("srv-prod")
	for name, event := range map[string]func(context.Context) error{"clean": vm.Reboot, "power cut": vm.PowerCut} {
		must1(ctx, t, vm, "iptables", "-A", "INPUT", "-p", "tcp", "--dport", "9999", "-j", "DROP")
		must1(ctx, t, vm, "sh", "-c", "echo kept > /etc/kept; echo gone > /run/gone")
		if err := vm.WriteFile(ctx, "/etc/resolv.conf", 0o644, []byte("nameserver 10.0.10.10\n")); err != nil {
			t.Fatal(err)
		}
		machine, boot := must1(ctx, t, vm, "cat", "/etc/machine-id"), must1(ctx, t, vm, "cat", "/proc/sys/kernel/random/boot_id")
		// Held open, so that its number is not given to another; the cards must come back all the same.
		old, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", vm.Pid()))
		if err != nil {
			t.Fatal(err)
		}
		// A command that is still in the VM when it goes down must not hold it up.
		inside, err := vm.StartProcess(ctx, "sleep", "600")
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := event(ctx); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		started := time.Since(begin)
		if limit := 4 * time.Second; started > limit {
			t.Errorf("%s: started again after %s, want %s at most", name, started, limit)
		}
		if out, err := inside.Wait(); err == nil {
			t.Errorf("%s: the command in the VM went on: %s", name, out)
		}
		if err := vm.WaitBooted(ctx); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Logf("%s: started again after %s, booted after %s", name, started, time.Since(begin))
		before, err := old.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if now, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", vm.Pid())); err != nil || os.SameFile(now, before) {
			t.Errorf("%s: the network namespace was kept (%v)", name, err)
		}
		old.Close()
		if rules := must1(ctx, t, vm, "iptables", "-S", "INPUT"); strings.Contains(rules, "9999") {
			t.Errorf("%s: a rule survived: %s", name, rules)
		}
		if got := must1(ctx, t, vm, "cat", "/etc/resolv.conf", "/etc/kept"); got != "nameserver 10.0.10.10\nkept" {
			t.Errorf("%s: the disk holds %q", name, got)
		}
		if result, _ := vm.Exec(ctx, "test", "-e", "/run/gone"); result.Code == 0 {
			t.Errorf("%s: /run survived", name)
		}
		if got := must1(ctx, t, vm, "cat", "/etc/machine-id"); got != machine {
			t.Errorf("%s: the machine-id changed", name)
		}
		if got := must1(ctx, t, vm, "cat", "/proc/sys/kernel/random/boot_id"); got == boot {
			t.Errorf("%s: the boot id did not change", name)
		}
		must1(ctx, t, vm, "ping", "-c1", "-W2", "203.0.113.1")
		if got := must1(ctx, t, vm, "docker", "inspect", "-f", "{{.State.Running}}", "web"); got != "true" {
			t.Errorf("%s: the nested container did not come back: %s", name, got)
		}
	}
}

func cables(ctx context.Context, t *testing.T, l *Lab) {
	vm := l.VM("srv-pre-prod")
	if err := vm.CableOut(ctx, "eth0"); err != nil {
		t.Fatal(err)
	}
	if _, err := banner(ctx, l.Namespace("operator").DialContext, "10.0.10.21:22"); err == nil {
		t.Error("reached without a cable")
	}
	if got := must1(ctx, t, vm, "cat", "/sys/class/net/eth0/carrier"); got != "0" {
		t.Errorf("carrier = %s", got)
	}
	if err := vm.CableIn(ctx, "eth0"); err != nil {
		t.Fatal(err)
	}
	if _, err := banner(ctx, l.Namespace("operator").DialContext, "10.0.10.21:22"); err != nil {
		t.Errorf("with the cable back: %v", err)
	}
	if err := vm.CableOut(ctx, "eth7"); !errs.Is(err, errs.NotFound) {
		t.Errorf("unknown card = %v", err)
	}
}

func pauses(ctx context.Context, t *testing.T, l *Lab) {
	vm := l.VM("srv-pre-prod")
	if err := vm.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	must1(ctx, t, l.VM("srv-prod"), "ping", "-c1", "-W2", "10.0.10.21")
	if got, err := banner(ctx, l.Namespace("operator").DialContext, "10.0.10.21:22"); err == nil {
		t.Errorf("a frozen VM answered %q", got)
	}
	if err := vm.Unpause(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := banner(ctx, l.Namespace("operator").DialContext, "10.0.10.21:22"); err != nil {
		t.Errorf("after the pause: %v", err)
	}
}

func smallDisk(ctx context.Context, t *testing.T, l *Lab) {
	vm := l.VM("srv-prod")
	must1(ctx, t, vm, "sh", "-c", "echo data > /srv/small/data")
	if err := vm.FillDisk(ctx, "/srv/small"); err != nil {
		t.Fatal(err)
	}
	if result, _ := vm.Exec(ctx, "cp", "/etc/passwd", "/srv/small/more"); result.Code == 0 || !strings.Contains(result.Stderr, "No space") {
		t.Errorf("writing to a full disk = %+v", result)
	}
	if err := vm.PowerCut(ctx); err != nil {
		t.Fatal(err)
	}
	if err := vm.FreeDisk(ctx, "/srv/small"); err != nil {
		t.Fatal(err)
	}
	if got := must1(ctx, t, vm, "cat", "/srv/small/data"); got != "data" {
		t.Errorf("after a power cut the small disk holds %q", got)
	}
	must1(ctx, t, vm, "sh", "-c", "echo more > /srv/small/more")
}

func TestDownOfAHalfBuiltLab(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cfg := trialSite("lab-half", t.TempDir())
	// A mount that is not there makes Create fail when all else is made; the address is a trial of the second family.
	cfg.VM("internet").Mounts = []Mount{{Host: filepath.Join(cfg.Dir, "nothing"), Guest: "/nothing"}}
	cfg.Namespaces[0].Interfaces[0].Addresses = append(cfg.Namespaces[0].Interfaces[0].Addresses, netip.MustParsePrefix("fd00:20::10/64"))
	before := look(t, cfg)
	if _, err := Create(ctx, cfg); err == nil {
		t.Fatal("Create succeeded")
	}
	l, err := Open(ctx, cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	crashEngine(ctx, t)
	if err := l.Down(ctx); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, look(t, cfg), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("Down left something (-before +after):\n%s", diff)
	}
}

func TestVMsOutliveTheEngine(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cfg := trialSite("lab-crash", t.TempDir())
	cfg.VMs = slices.DeleteFunc(cfg.VMs, func(vm VMSpec) bool { return vm.NestedDocker })
	before := look(t, cfg)
	l, err := Create(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("Down: %v", err)
		}
		if diff := cmp.Diff(before, look(t, cfg), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("Down left something (-before +after):\n%s", diff)
		}
	})
	if err := l.StartVM(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitBooted(ctx); err != nil {
		t.Fatal(err)
	}
	boot := must1(ctx, t, l.VM("internet"), "cat", "/proc/sys/kernel/random/boot_id")
	if !crashEngine(ctx, t) {
		return
	}
	if got := must1(ctx, t, l.VM("internet"), "cat", "/proc/sys/kernel/random/boot_id"); got != boot {
		t.Errorf("boot id without the engine = %s, was %s", got, boot)
	}
	// The next lab command that needs the engine starts it again; the VM has not noticed.
	if err := BuildImages(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	again, err := Open(ctx, cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := must1(ctx, t, again.VM("internet"), "cat", "/proc/sys/kernel/random/boot_id"); got != boot {
		t.Errorf("boot id after the engine's restart = %s, was %s", got, boot)
	}
	if err := again.VM("internet").Reboot(ctx); err != nil {
		t.Error(err)
	}
}
