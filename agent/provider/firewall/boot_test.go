package firewall

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables/nstest"
	"github.com/infractl/infractl/agent/provider"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const firstBoot = `{"ssh_from": ["10.99.0.4", "fd99::4"], "ports": [7443]}`

// rebooted returns the world's host as it is after a reboot: files are there, rules are gone.
func (w *world) rebooted(t *testing.T, root string) *host.Host {
	t.Helper()
	for _, program := range []string{"iptables", "ip6tables"} {
		nstest.MustRun(t, nstest.Inside(w.host, program, "-F")...)
		nstest.MustRun(t, nstest.Inside(w.host, program, "-X")...)
	}
	return host.New(host.Config{Root: root, Runner: nstest.Runner{NS: w.host}})
}

func write(t *testing.T, root, path, content string) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestBoot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	listen(t, w.host, 22, 202, 7443, 80)
	listen(t, w.peer, 80)
	see := func(t *testing.T, ssh, admin, session, web, outgoing string) {
		t.Helper()
		var wants []want
		for port, outcome := range map[uint16]string{22: ssh, 202: admin} {
			wants = append(wants, bothFamilies(w.peer, relayAddr, hostAddr, port, outcome, "relay")...)
		}
		wants = append(wants, bothFamilies(w.peer, otherAddr, hostAddr, 22, silent, "not the relay")...)
		wants = append(wants, bothFamilies(w.peer, otherAddr, hostAddr, 7443, session, "session")...)
		wants = append(wants, bothFamilies(w.peer, outerAddr, hostAddr, 80, web, "web")...)
		wants = append(wants, bothFamilies(w.host, hostAddr, otherAddr, 80, outgoing, "outgoing")...)
		expect(t, wants...)
	}
	boot := func(t *testing.T, root string, want Booted, wrong bool) {
		t.Helper()
		got, err := Boot(context.Background(), w.rebooted(t, root))
		if got != want || (err != nil) != wrong {
			t.Fatalf("Boot = %q, %v; want %q, error %v", got, err, want, wrong)
		}
	}
	keep := func(t *testing.T, root string) {
		t.Helper()
		write(t, root, FirstBootFile, firstBoot)
		p := New(Config{Host: w.rebooted(t, root)})
		kept(t, p, wishFor(spec(
			tcp(in, "bastion", 202, addrs("10.99.0.4", "fd99::4"), anyone(), "relay"),
			tcp(in, "web", 80, internet(), anyone()),
		), provider.Narrowing))
	}

	t.Run("nothing kept and no first-boot file leaves the host alone", func(t *testing.T) {
		boot(t, t.TempDir(), BootedNothing, false)
		expect(t, bothFamilies(w.peer, otherAddr, hostAddr, 22, open, "no rules")...)
	})
	t.Run("first boot lets in the relay and the server's ports", func(t *testing.T) {
		root := t.TempDir()
		write(t, root, FirstBootFile, firstBoot)
		boot(t, root, BootedFirst, false)
		see(t, open, silent, open, silent, open)
	})
	t.Run("files beside the first-boot file add ports", func(t *testing.T) {
		root := t.TempDir()
		write(t, root, FirstBootFile, `{"ssh_from": ["10.99.0.4", "fd99::4"]}`)
		boot(t, root, BootedFirst, false)
		see(t, open, silent, silent, silent, open)
		write(t, root, "/etc/infractl/firstboot.d/server.json", `{"ports": [7443, 7444]}`) // as infractl-server init writes it
		write(t, root, "/etc/infractl/firstboot.d/notes.txt", "not ours")
		boot(t, root, BootedFirst, false)
		see(t, open, silent, open, silent, open)
		write(t, root, "/etc/infractl/firstboot.d/wrong.json", `{"ports": ["http"]}`)
		boot(t, root, BootedFirst, true) // an error, but not an open host
		see(t, open, silent, silent, silent, open)
	})
	t.Run("files beside no first-boot file leave the host alone", func(t *testing.T) {
		root := t.TempDir()
		write(t, root, "/etc/infractl/firstboot.d/server.json", `{"ports": [7443]}`)
		boot(t, root, BootedNothing, false)
	})
	t.Run("a wrong first-boot file is an error", func(t *testing.T) {
		root := t.TempDir()
		write(t, root, FirstBootFile, `{"ssh_from": [], "port": 1}`)
		boot(t, root, BootedNothing, true)
	})
	t.Run("kept rules come back", func(t *testing.T) {
		root := t.TempDir()
		keep(t, root)
		boot(t, root, BootedKept, false)
		see(t, silent, open, silent, open, silent)
		if got, err := Boot(context.Background(), host.New(host.Config{Root: root, Runner: nstest.Runner{NS: w.host}})); err != nil || got != BootedKept {
			t.Errorf("second Boot = %q, %v", got, err)
		}
	})
	t.Run("rules that do not load close everything but named sources", func(t *testing.T) {
		root := t.TempDir()
		keep(t, root)
		for _, path := range []string{RulesFileV4, RulesFileV6} {
			data, err := os.ReadFile(filepath.Join(root, path))
			if err != nil {
				t.Fatal(err)
			}
			write(t, root, path, strings.Replace(string(data), "-j DROP", "-j NOSUCHTARGET", 1))
		}
		boot(t, root, BootedEmergency, true)
		see(t, silent, open, silent, silent, open)
	})
	t.Run("lost files close everything but first boot's sources", func(t *testing.T) {
		root := t.TempDir()
		keep(t, root)
		write(t, root, KeptFile, "{")
		write(t, root, RulesFileV4, "")
		write(t, root, RulesFileV6, "")
		boot(t, root, BootedEmergency, true)
		see(t, open, silent, silent, silent, open)
	})
}

func TestFirstCommitStartsFromTheFirstBootRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := t.TempDir()
	write(t, root, FirstBootFile, firstBoot)
	h := w.rebooted(t, root)
	if _, err := Boot(context.Background(), h); err != nil {
		t.Fatal(err)
	}
	p := New(Config{Host: h})
	plan, err := p.Plan(context.Background(), wishFor(spec(tcp(in, "bastion", 202, addrs("10.99.0.4"), anyone())), provider.Widening))
	if err != nil {
		t.Fatal(err)
	}
	got := lines(plan.Changes)
	want := `INPUT UPDATE + accept tcp 202 from 10.99.0.4 (bastion)
OUTPUT CREATE + leave everything else to the rules below
FORWARD CREATE + leave everything else to the rules below
`
	if got != want {
		t.Errorf("changes:\n%s\nwant\n%s", got, want)
	}
}

func lines(changes []*v1.Change) string {
	var b strings.Builder
	for _, c := range changes {
		action := strings.TrimPrefix(c.GetAction().String(), "CHANGE_ACTION_")
		for _, s := range c.GetBefore() {
			b.WriteString(c.GetSubject() + " " + action + " - " + s + "\n")
		}
		for _, s := range c.GetAfter() {
			b.WriteString(c.GetSubject() + " " + action + " + " + s + "\n")
		}
	}
	return b.String()
}

func TestDockersChainIsThereBeforeDockerStarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := t.TempDir()
	kept(t, New(Config{Host: w.rebooted(t, root)}), wishFor(firstSpec(), provider.Narrowing))
	if _, err := Boot(context.Background(), w.rebooted(t, root)); err != nil {
		t.Fatal(err)
	}
	got := nstest.MustRun(t, nstest.Inside(w.host, "iptables", "-S", dockerUser)...)
	if want := "-N DOCKER-USER\n-A DOCKER-USER -j INFRACTL-FWD\n"; got != want {
		t.Errorf("%s holds\n%s\nwant\n%s", dockerUser, got, want)
	}
}
