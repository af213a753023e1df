//go:build lab

package demo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestABadSiteFileReachesNoHost(t *testing.T) {
	before, _ := in(t, Prod, "stat", "-c", "%y", "/var/lib/infractl/state.json")
	path := filepath.Join(t.TempDir(), "site.yaml")
	for name, content := range map[string]string{
		"not yaml":    "site: [",
		"unknown key": "site: x\nnodez: {}\n",
		"empty":       "",
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			out := infractl(t, 1, "apply", "-f", path, "--yes")
			if !strings.Contains(out, path+":") {
				t.Errorf("no file:line in %q", out)
			}
		})
	}
	if after, _ := in(t, Prod, "stat", "-c", "%y", "/var/lib/infractl/state.json"); after != before {
		t.Error("a host heard of it")
	}
}

func TestAnEditThatClosesTheBastionReachesNoHost(t *testing.T) {
	file := edited(t, "{name: bastion,    from: client-relay, to: all, ", "{name: bastion,    from: client-relay, to: srv-dhcp-dns, ")
	if out := apply(t, 1, file); !strings.Contains(out, "no flow lets the relay") {
		t.Errorf("apply said: %s", out)
	}
}

func TestSshdThatRefusesEverybodyIsUndoneAndRemembered(t *testing.T) {
	defer restore(t)
	vm := site.Lab.VM(Prod)
	if err := RefusingSshd().Install(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	file := edited(t, "max_auth_tries: 4", "max_auth_tries: 5")
	out := apply(t, 12, file)
	if !strings.Contains(out, "halted") {
		t.Errorf("apply said: %s", out)
	}
	if err := RefusingSshd().Remove(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	infractl(t, 0, "ssh", Prod, "--user", "operator", "--", "true")
	if out := apply(t, 12, file); !strings.Contains(out, "before") {
		t.Errorf("the second try does not say that it is known-bad: %s", out)
	}
	if out := infractl(t, 0, "node", "show", Prod); !strings.Contains(out, "known-bad") {
		t.Errorf("node show: %s", out)
	}
	infractl(t, 0, "node", "clear", Prod)
	apply(t, 0, file)
}

func TestTheSSHPortMovesAndTheOldOneCloses(t *testing.T) {
	defer restore(t)
	apply(t, 0, edited(t, "port: 202", "port: 2202"))
	for _, node := range Nodes() {
		infractl(t, 0, "ssh", node, "--user", "operator", "--", "true")
	}
	if _, code := in(t, Relay, "nc", "-z", "-w", "2", "10.0.10.20", "202"); code == 0 {
		t.Error("the old port is still open")
	}
}

func TestRollbackBringsAnOldRevisionBack(t *testing.T) {
	defer restore(t)
	apply(t, 0, edited(t, "max_auth_tries: 4", "max_auth_tries: 3"))
	out, _ := in(t, Prod, "sshd", "-T")
	if !strings.Contains(out, "maxauthtries 3") {
		t.Fatal("the edit did not arrive")
	}
	infractl(t, 0, "site", "rollback", "1", "--yes")
	out, _ = in(t, Prod, "sshd", "-T")
	if !strings.Contains(out, "maxauthtries 4") {
		t.Error("the rollback did not arrive")
	}
}
