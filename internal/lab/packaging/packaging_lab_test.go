//go:build lab

package packaging

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/internal/lab/labtest"
)

// TestSameSourcesGiveSameBytes builds once more, in another folder.
func TestSameSourcesGiveSameBytes(t *testing.T) {
	again := t.TempDir()
	if os.Getenv("INFRACTL_DIST") != "" {
		again = filepath.Join(dist, "again")
	} else if err := build(t.Context(), older, again); err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadDir(filepath.Join(dist, older))
	if err != nil || len(made) != 4 {
		t.Fatalf("%d files, want 3 packages and a tarball: %v", len(made), err)
	}
	for _, f := range made {
		first, err := os.ReadFile(filepath.Join(dist, older, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		second, err := os.ReadFile(filepath.Join(again, f.Name()))
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s differs, %v", f.Name(), err)
		}
	}
}

func TestManualAndCompletionAreInside(t *testing.T) {
	for name, section := range map[string]string{"infractl": "1", "infractl-server": "8", "infractl-agent": "8"} {
		list := must(t, node, "dpkg-deb", "-c", inGuest+"/"+older+"/"+name+"_"+older+"_amd64.deb")
		for _, want := range []string{"./usr/share/man/man" + section + "/" + name + "." + section + ".gz",
			"./usr/share/bash-completion/completions/" + name, "./usr/share/zsh/vendor-completions/_" + name,
			"./usr/share/fish/vendor_completions.d/" + name + ".fish"} {
			if !strings.Contains(list, want+"\n") && !strings.HasSuffix(list, want) {
				t.Errorf("%s has no %s", name, want)
			}
		}
	}
}

// TestLifeOfThePackages installs, configures, upgrades, downgrades, removes and purges. Its steps build on each other.
func TestLifeOfThePackages(t *testing.T) {
	defer explain(t)
	nodeBefore, serverBefore := files(t, node), files(t, server)
	installed(t)
	configured(t)
	who := identity(t)
	if !strings.Contains(who, "infractl://projetpro/node/"+node) {
		t.Fatalf("identity: %s", who)
	}
	// docs/operations.md: the server is never older than an agent.
	serverMoved(t, newer)
	agentMoved(t, newer, who)
	agentMoved(t, older, who)
	waitsForAnOpenCommit(t)
	removed(t)
	serverMoved(t, older)
	purged(t, nodeBefore, serverBefore)
}

// explain shows what both machines say when a test has failed.
func explain(t *testing.T) {
	if !t.Failed() {
		return
	}
	for vm, unit := range map[string]string{server: "infractl-server", node: "infractl-agent"} {
		out, _ := in(t, vm, "sh", "-c", "infractl-agent status; systemctl status --no-pager -l '"+unit+".*'; journalctl --no-pager -n 40 -u '"+unit+"*'")
		t.Logf("%s:\n%s", vm, out)
	}
}

func installed(t *testing.T) {
	apt(t, server, older, "infractl-server", "infractl")
	apt(t, node, older, "infractl-agent")
	for vm, unit := range map[string]string{server: "infractl-server.service", node: "infractl-agent.service"} {
		if active, enabled := is(t, vm, "active", unit), is(t, vm, "enabled", unit); active != "inactive" || enabled != "enabled" {
			t.Errorf("%s before it is configured: %s, %s", unit, active, enabled)
		}
	}
	for _, unit := range []string{"infractl-revert.service", "infractl-firewall.service", "infractl-firewall-docker.service"} {
		if enabled := is(t, node, "enabled", unit); enabled != "enabled" {
			t.Errorf("%s is %s", unit, enabled)
		}
	}
}

// configured sets the server up and puts a token into place; the agent starts by itself.
func configured(t *testing.T) {
	out := must(t, server, "infractl-server", "init", "--site", "projetpro", "--address", "10.0.10.4")
	code := regexp.MustCompile(`admin code\s+(\S+)`).FindStringSubmatch(out)
	if code == nil {
		t.Fatal(out)
	}
	must(t, server, "systemctl", "enable", "--now", "infractl-server.service")
	r, err := machines.VM(server).ExecIn(t.Context(), strings.NewReader(code[1]+"\n"), "infractl", "login", "--name", "anna")
	if err != nil || r.Code != 0 {
		t.Fatalf("login: %v %s%s", err, r.Stdout, r.Stderr)
	}
	token := must(t, server, "infractl", "token", "create", "--node", node)
	if err := machines.VM(node).WriteFile(t.Context(), "/etc/infractl/join-token", 0o600, []byte(token+"\n")); err != nil {
		t.Fatal(err)
	}
	labtest.Eventually(t, 30*time.Second, "the agent has a session", func() bool { return session(t) })
	// A token makes an unknown node known; where the site has none of that name it waits to be approved, with an identity all the same.
}

// session reports whether the agent of the node says that it is connected.
func session(t *testing.T) bool {
	t.Helper()
	out, code := in(t, node, "infractl-agent", "status")
	return code == 0 && regexp.MustCompile(`(?m)^session\s+connected`).MatchString(out)
}

// identity is who the node is: its URI and its certificate's serial.
func identity(t *testing.T) string {
	t.Helper()
	out := must(t, node, "infractl-agent", "status")
	return strings.Join(regexp.MustCompile(`(?m)^(identity\s.*|certificate\s+\S+)`).FindAllString(out, -1), "\n")
}

// agentMoved upgrades or downgrades the agent, which stays who it is.
func agentMoved(t *testing.T, version, who string) {
	t.Helper()
	must(t, node, "sh", "-c", "echo INFRACTL_LOG_LEVEL=debug > /etc/infractl/agent.env")
	pid := must(t, node, "systemctl", "show", "-P", "MainPID", "infractl-agent")
	apt(t, node, version, "infractl-agent")
	if now := must(t, node, "infractl-agent", "version"); !strings.Contains(now, version) {
		t.Errorf("version %s after an install of %s", now, version)
	}
	if must(t, node, "systemctl", "show", "-P", "MainPID", "infractl-agent") == pid {
		t.Error("the old program still runs")
	}
	labtest.Eventually(t, 30*time.Second, "the agent is back", func() bool { return session(t) })
	if now := identity(t); now != who {
		t.Errorf("identity %q, want %q", now, who)
	}
	if out := must(t, node, "cat", "/etc/infractl/agent.env"); out != "INFRACTL_LOG_LEVEL=debug" {
		t.Errorf("the settings were replaced: %s", out)
	}
}

// serverMoved upgrades or downgrades the server, and the agent finds it again.
func serverMoved(t *testing.T, version string) {
	t.Helper()
	apt(t, server, version, "infractl-server", "infractl")
	labtest.Eventually(t, 30*time.Second, "the server answers", func() bool { _, code := in(t, server, "infractl", "whoami"); return code == 0 })
	labtest.Eventually(t, 60*time.Second, "the agent is back at the server", func() bool { return session(t) })
	if out := must(t, server, "infractl-server", "version"); !strings.Contains(out, version) {
		t.Errorf("the server is %s", out)
	}
}

// waitsForAnOpenCommit: a program is not replaced under a commit that is open.
func waitsForAnOpenCommit(t *testing.T) {
	record := "/var/lib/infractl/commits/trial/armed.json"
	must(t, node, "sh", "-c", "mkdir -p /var/lib/infractl/commits/trial; echo '{}' > "+record)
	if out, code := in(t, node, "apt-get", "remove", "-y", "-q", "infractl-agent"); code == 0 || !strings.Contains(out, "commit is open") {
		t.Errorf("removed under an open commit: code %d\n%s", code, out)
	}
	must(t, node, "systemd-run", "--quiet", "sh", "-c", "sleep 4; rm -r /var/lib/infractl/commits/trial")
	started := time.Now()
	if out := apt(t, node, newer, "infractl-agent"); !strings.Contains(out, "waiting for an open commit") {
		t.Errorf("it did not wait (%s): %s", time.Since(started), out)
	}
	if _, code := in(t, node, "test", "-e", record); code == 0 {
		t.Error("installed while the commit was open")
	}
	labtest.Eventually(t, 30*time.Second, "the agent is back", func() bool { return session(t) })
}

func removed(t *testing.T) {
	who := identity(t)
	must(t, node, "apt-get", "remove", "-y", "-q", "infractl-agent")
	if out, code := in(t, node, "pgrep", "-x", "infractl-agent"); code == 0 {
		t.Errorf("the agent still runs: %s", out)
	}
	if out, _ := in(t, node, "sh", "-c", "ls /etc/systemd/system/*.wants/infractl* 2>/dev/null"); out != "" {
		t.Errorf("still started at boot: %s", out)
	}
	must(t, node, "test", "-d", "/var/lib/infractl/identity")
	apt(t, node, older, "infractl-agent")
	labtest.Eventually(t, 30*time.Second, "the agent is back after a removal", func() bool { return session(t) })
	if now := identity(t); now != who {
		t.Errorf("identity %q after a removal, want %q", now, who)
	}
	must(t, server, "systemctl", "enable", "--now", "infractl-server-backup.timer")
	must(t, server, "systemctl", "start", "infractl-server-backup.service")
	must(t, server, "apt-get", "remove", "-y", "-q", "infractl-server")
	if out, code := in(t, server, "systemctl", "is-active", "infractl-server-backup.timer"); code == 0 {
		t.Errorf("the backup's timer still runs: %s", out)
	}
	if out, _ := in(t, server, "sh", "-c", "ls /etc/systemd/system/*.wants/infractl-server* 2>/dev/null"); out != "" {
		t.Errorf("still started at boot: %s", out)
	}
	must(t, server, "test", "-e", "/var/lib/infractl-server/server.json")
	apt(t, server, older, "infractl-server")
	labtest.Eventually(t, 60*time.Second, "the agent is back at a server that was removed", func() bool { return session(t) })
}

func purged(t *testing.T, nodeBefore, serverBefore string) {
	must(t, node, "apt-get", "purge", "-y", "-q", "infractl-agent")
	if d := cmp.Diff(strings.Split(nodeBefore, "\n"), strings.Split(files(t, node), "\n")); d != "" {
		t.Errorf("the agent leaves (-before +after):\n%s", d)
	}
	must(t, server, "apt-get", "purge", "-y", "-q", "infractl-server", "infractl")
	// Without the authority the backups are all that is left of it.
	must(t, server, "sh", "-c", "ls /var/lib/infractl-server-backups/*.age && rm -r /var/lib/infractl-server-backups")
	if d := cmp.Diff(strings.Split(serverBefore, "\n"), strings.Split(files(t, server), "\n")); d != "" {
		t.Errorf("the server leaves (-before +after):\n%s", d)
	}
}

// TestVyOSTarballLivesBelowConfig stands in for a router: /config and the hook are there, VyOS itself is not.
func TestVyOSTarballLivesBelowConfig(t *testing.T) {
	const hook = "/config/scripts/vyos-postconfig-bootup.script"
	must(t, router, "sh", "-c", "mkdir -p /config/scripts /tmp/new; printf '#!/bin/sh\\n# mine\\nexit 0\\n' > "+hook+
		"; tar -C /tmp/new -xzf "+inGuest+"/"+older+"/infractl-agent_"+older+"_vyos.tar.gz")
	must(t, router, "/tmp/new/infractl-agent/install.sh")
	text := must(t, router, "cat", hook)
	must(t, router, "sh", "-c", "tar -C /tmp/new -xzf "+inGuest+"/"+newer+"/infractl-agent_"+newer+"_vyos.tar.gz; /tmp/new/infractl-agent/install.sh")
	if again := must(t, router, "cat", hook); again != text || !strings.Contains(text, "# mine\nexit 0") || !strings.HasPrefix(text, "#!/bin/sh\n# infractl: begin") {
		t.Errorf("the hook:\n%s\nafter a second install:\n%s", text, again)
	}
	if out := must(t, router, "infractl-agent", "version"); !strings.Contains(out, newer) {
		t.Errorf("version %s", out)
	}
	// A boot of a new image: nothing but /config is there.
	must(t, router, "sh", "-c", "systemctl stop infractl-agent; rm -rf /run/systemd/system/infractl-* /usr/bin/infractl-agent /var/lib/infractl; systemctl daemon-reload; "+hook)
	if state := is(t, router, "active", "infractl-agent"); state != "active" {
		t.Errorf("the agent is %s after a boot", state)
	}
	if out := must(t, router, "readlink", "-f", "/var/lib/infractl"); out != "/config/infractl/state" {
		t.Errorf("its state is in %s", out)
	}
}
