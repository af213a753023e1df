//go:build lab

package packages

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestInstalledWithoutAQuestion(t *testing.T) {
	cleared(t, "tr-conf", "tr-questions", "tr-base")
	mustApply(t, present("tr-conf", "tr-questions"))
	if out := must(t, "dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "tr-base"); out != "ii" {
		t.Errorf("what it depends on: %q", out)
	}
	if out := must(t, "apt-mark", "showauto", "tr-base"); out != "tr-base" {
		t.Errorf("what came along is marked as wanted: %q", out)
	}
}

func TestNothingToDoStartsNoProcess(t *testing.T) {
	var log []string
	p := newProvider(time.Second, &log)
	started := time.Now()
	pl, err := p.Plan(t.Context(), present("bash", "openssh-server"))
	t.Logf("planned in %s", time.Since(started))
	if err != nil || len(pl.Changes) > 0 || len(log) > 0 {
		t.Errorf("changes %v, ran %q, %v", pl.Changes, log, err)
	}
}

func TestHoldsComeAndGo(t *testing.T) {
	cleared(t, "tr-base")
	held := func(names ...string) wish {
		return wish{Spec: &v1.PackagesSpec{Present: []string{"tr-base"}, Hold: names}, Stage: provider.Additions}
	}
	mustApply(t, held("tr-base", "curl"))
	if out := must(t, "apt-mark", "showhold"); out != "curl\ntr-base" {
		t.Errorf("held: %q", out)
	}
	p := newProvider(time.Second, nil)
	snapshot, err := apply(t.Context(), t, p, held("curl"))
	if out := must(t, "apt-mark", "showhold"); err != nil || out != "curl" {
		t.Errorf("held: %q, %v", out, err)
	}
	if err := p.Rollback(t.Context(), snapshot); err != nil {
		t.Fatal(err)
	}
	if out := must(t, "apt-mark", "showhold"); out != "curl\ntr-base" {
		t.Errorf("held after the rollback: %q", out)
	}
	mustApply(t, held())
	if out := must(t, "apt-mark", "showhold"); out != "" {
		t.Errorf("held at the end: %q", out)
	}
}

func TestRemovedWithItsConfigurationAndBackAgain(t *testing.T) {
	cleared(t, "tr-conf", "tr-base")
	mustApply(t, present("tr-conf"))
	must(t, "sh", "-c", "echo mine > /etc/tr.conf")
	p := newProvider(time.Second, nil)
	if _, err := p.Plan(t.Context(), absent("tr-base")); !errs.Is(err, errs.Denied) || !strings.Contains(err.Error(), "tr-conf") {
		t.Errorf("what another package needs: %v", err)
	}
	if _, err := p.Plan(t.Context(), absent("openssh-server")); !errs.Is(err, errs.Denied) {
		t.Errorf("the way in: %v", err)
	}
	before := selections(t)
	snapshot, err := apply(t.Context(), t, p, absent("tr-conf"))
	if err != nil {
		t.Fatal(err)
	}
	if out := must(t, "sh", "-c", "ls /etc/tr.conf 2>&1 || true"); !strings.Contains(out, "No such file") {
		t.Errorf("its configuration: %s", out)
	}
	if err := p.Rollback(t.Context(), snapshot); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, selections(t)); d != "" {
		t.Error(d)
	}
	if out := must(t, "cat", "/etc/tr.conf"); out != "mine" {
		t.Errorf("its configuration came back as %q", out)
	}
}

// TestFailureLeavesTheOldState goes through what apt and dpkg can stumble over.
func TestFailureLeavesTheOldState(t *testing.T) {
	for name, c := range map[string]struct {
		prepare, restore string
		wish             wish
		code             errs.Code
		says             string
	}{
		"script fails":        {"", "", present("tr-fails"), errs.Precondition, "tr-fails"},
		"disk full":           {"", "", present("tr-big"), errs.Exhausted, "disk is full"},
		"no such package":     {"", "", present("tr-nosuch"), errs.NotFound, "tr-nosuch"},
		"dependency missing":  {"", "", present("tr-needs"), errs.Precondition, "depends on"},
		"index without files": {"mv /srv/repo/tr-questions_1.0.deb /srv/away.deb", "mv /srv/away.deb /srv/repo/tr-questions_1.0.deb", present("tr-questions"), errs.Unavailable, "tr-questions"},
		"mirror away": {"echo 'deb [trusted=yes] http://10.0.10.1/debian ./' > /etc/apt/sources.list.d/away.list", "rm /etc/apt/sources.list.d/away.list; apt-get -q update",
			present("tr-nosuch"), errs.Unavailable, "10.0.10.1"},
		"locked": {"systemd-run --quiet --unit=lock python3 -c 'import fcntl,time; f=open(\"/var/lib/dpkg/lock-frontend\",\"w\"); fcntl.lockf(f,fcntl.LOCK_EX); time.sleep(60)'; sleep 1",
			"systemctl stop lock", present("tr-questions"), errs.Unavailable, "python3"},
	} {
		t.Run(name, func(t *testing.T) {
			before := selections(t)
			if c.prepare != "" {
				must(t, "sh", "-c", c.prepare)
			}
			p := newProvider(2*time.Second, nil)
			snapshot, err := apply(t.Context(), t, p, c.wish)
			if c.restore != "" {
				must(t, "sh", "-c", c.restore)
			}
			if errs.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) || errs.HintOf(err) == "" {
				t.Errorf("code %q, hint %q: %v", errs.CodeOf(err), errs.HintOf(err), err)
			}
			t.Log(err)
			if err := p.Rollback(t.Context(), snapshot); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(before, selections(t)); d != "" {
				t.Errorf("packages differ (-before +after):\n%s", d)
			}
			if out := must(t, "dpkg", "--audit"); out != "" {
				t.Errorf("dpkg is not whole: %s", out)
			}
		})
	}
}

func TestLockIsWaitedFor(t *testing.T) {
	cleared(t, "tr-base")
	must(t, "systemd-run", "--quiet", "python3", "-c",
		`import fcntl,time; f=open("/var/lib/dpkg/lock-frontend","w"); fcntl.lockf(f,fcntl.LOCK_EX); time.sleep(4)`)
	time.Sleep(time.Second)
	mustApply(t, present("tr-base"))
}

func TestInterruptedDpkgIsMended(t *testing.T) {
	cleared(t, "tr-questions", "tr-base")
	must(t, "dpkg", "--unpack", "/srv/repo/tr-questions_1.0.deb")
	mustApply(t, present("tr-base"))
	if out := must(t, "dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "tr-questions"); out != "ii" {
		t.Errorf("what was interrupted is %q", out)
	}
}

func TestRestartOfTheAgentDoesNotKillApt(t *testing.T) {
	cleared(t, "tr-slow", "tr-base")
	ctx, cancel := context.WithCancel(t.Context())
	first := newProvider(30*time.Second, nil)
	running := make(chan struct{})
	go func() { // the agent stops when the package's script is at work
		defer close(running)
		for range 200 {
			if r, err := vm.Exec(t.Context(), "pgrep", "-f", "sleep 4"); err == nil && r.Code == 0 {
				cancel()
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	snapshot, err := apply(ctx, t, first, present("tr-slow"))
	cancel()
	<-running
	if err == nil {
		t.Fatal("the apply was not stopped")
	}
	if err := first.Rollback(t.Context(), snapshot); !errs.Is(err, errs.Unavailable) {
		t.Errorf("rollback of an agent that stops: %v", err)
	}
	var log []string
	if _, err := apply(t.Context(), t, newProvider(30*time.Second, &log), present("tr-slow")); err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(log, "\n"); strings.Contains(text, "systemd-run") {
		t.Errorf("the second try did not join the first:\n%s", text)
	}
	if out := must(t, "cat", "/var/tmp/tr-slow"); out != "once" {
		t.Errorf("the script ran: %q", out)
	}
}

func TestUnitsAreForgotten(t *testing.T) {
	eventually := func(r lab.Result, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(r.Stdout)
	}
	if out := eventually(vm.Exec(t.Context(), "systemctl", "list-units", "--all", "--no-legend", "infractl-apt-*")); out != "" {
		t.Errorf("units are left: %s", out)
	}
}
