//go:build lab

package identity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/labtest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// aside lists the identities that an agent has set aside for a reason.
func aside(t *testing.T, vm, reason string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(site.Lab.VM(vm).Root(), "var/lib/infractl/identity."+reason+"-*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestARevokedMachineIsCutOffAndEnrolsAgainOnlyAnew(t *testing.T) {
	whole(t)
	// A server that is away is no revocation.
	must(t, demo.Relay, "systemctl", "stop", "infractl-server")
	labtest.Eventually(t, 10*time.Second, "the agent notices", func() bool { return strings.HasPrefix(sessionOf(t, spare), "none since") })
	time.Sleep(time.Second)
	must(t, demo.Relay, "systemctl", "start", "infractl-server")
	if list := aside(t, spare, "*"); len(list) > 0 {
		t.Fatalf("the agent gave its identity up without a notice: %v", list)
	}
	labtest.Eventually(t, 40*time.Second, "it is back", func() bool { return online(t, spare) })

	infractl(t, 0, "node", "revoke", spare, "--reason", "stolen", "--yes")
	deadline := time.Now().Add(time.Second)
	for len(aside(t, spare, "revoked")) == 0 || must(t, spare, "ss", "-Htn", "state", "established", "dport = :7443") != "" {
		if time.Now().After(deadline) {
			t.Fatalf("not cut within a second: %s", agentSays(t, spare))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n := node(t, spare); n.GetState() != v1.NodeState_NODE_STATE_REVOKED || !strings.Contains(n.GetMessage(), "stolen") {
		t.Errorf("node list shows %s %q", n.GetState(), n.GetMessage())
	}

	// Whoever puts the key back hears the same again.
	before := refused(t, "revoked")
	must(t, spare, "systemctl", "stop", "infractl-agent")
	must(t, spare, "sh", "-c", "mv /var/lib/infractl/identity.revoked-* /var/lib/infractl/identity")
	must(t, spare, "systemctl", "start", "infractl-agent")
	labtest.Eventually(t, 10*time.Second, "it is set aside again", func() bool { return len(aside(t, spare, "revoked")) == 1 })
	if after := refused(t, "revoked"); after <= before {
		t.Errorf("the server counted %d refusals before and %d after", before, after)
	}

	put(t, spare, "/etc/infractl/join-token", token(t, spare))
	labtest.Eventually(t, 10*time.Second, "the name is refused", func() bool { return strings.Contains(agentSays(t, spare), "the node was revoked") })
	must(t, spare, "rm", "/etc/infractl/join-token")
	infractl(t, 0, "node", "forget", spare, "--yes")
	labtest.Eventually(t, 60*time.Second, "the old token has expired", func() bool {
		for _, k := range ask(t, &v1.ListTokensResponse{}, "token", "list").GetTokens() {
			if k.GetNode() == spare && time.Now().After(k.GetExpires().AsTime()) {
				return true
			}
		}
		return false
	})
	refusesToken(t, spare, early.expired, "has expired")
	put(t, spare, "/etc/infractl/join-token", token(t, spare))
	labtest.Eventually(t, 60*time.Second, "it is taken up again", func() bool { return inSync(t, spare) })
	settled(t)
}

func TestARebuiltMachineEnrolsAtBootAndIsTakenUp(t *testing.T) {
	whole(t)
	old := node(t, demo.Preprod)
	infractl(t, 0, "node", "revoke", demo.Preprod, "--yes")
	infractl(t, 0, "node", "forget", demo.Preprod, "--yes")
	seed := lab.File{Guest: "/var/lib/cloud/seed/infractl/join-token", Mode: 0o600, Content: []byte(token(t, demo.Preprod))}
	begun := time.Now()
	if err := site.Lab.VM(demo.Preprod).Rebuild(t.Context(), seed); err != nil {
		t.Fatal(err)
	}
	labtest.Eventually(t, 90*time.Second, "it is taken up by itself", func() bool { return inSync(t, demo.Preprod) })
	step("rebuilt, enrolled at boot and in sync after %.1f s", time.Since(begun).Seconds())
	made := node(t, demo.Preprod)
	if made.GetFingerprint().GetMachineId() == old.GetFingerprint().GetMachineId() || made.GetSerial() == old.GetSerial() {
		t.Error("it is the former machine")
	}
	if out := infractl(t, 0, "ssh", demo.Preprod, "--user", "operator", "--", "hostname"); strings.TrimSpace(out) != demo.Preprod {
		t.Errorf("infractl ssh said %q", out)
	}
	settled(t)
}

// sessionOf returns what an agent says of its session: the line changes when the session does.
func sessionOf(t *testing.T, vm string) string {
	t.Helper()
	for line := range strings.Lines(agentSays(t, vm)) {
		if rest, ok := strings.CutPrefix(line, "session"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// copyDisk copies an agent's folder to another machine, whose agent is stopped, in place of its own.
func copyDisk(t *testing.T, from, to string) {
	t.Helper()
	pack := must(t, from, "tar", "-C", "/var/lib/infractl", "-cf", "-", ".")
	must(t, to, "sh", "-c", "rm -rf /var/lib/infractl; mkdir -m 0700 /var/lib/infractl")
	r, err := site.Lab.VM(to).ExecIn(t.Context(), strings.NewReader(pack), "tar", "-C", "/var/lib/infractl", "-xf", "-")
	if err != nil || r.Code != 0 {
		t.Fatalf("copy the disk: %v %s", err, r.Stderr)
	}
}

func TestACopiedDiskIsSetAsideAndTheIncumbentStays(t *testing.T) {
	whole(t)
	must(t, spare, "systemctl", "stop", "infractl-agent")
	must(t, spare, "cp", "-a", "/var/lib/infractl", "/var/lib/infractl.own")
	own := must(t, spare, "cat", "/etc/machine-id")
	defer func() { // the machine gets its own disk back
		must(t, spare, "sh", "-c", "systemctl stop infractl-agent; rm -rf /var/lib/infractl; mv /var/lib/infractl.own /var/lib/infractl")
		if err := os.WriteFile(filepath.Join(site.Lab.VM(spare).Root(), "etc/machine-id"), []byte(own), 0o444); err != nil {
			t.Fatal(err)
		}
		must(t, spare, "systemctl", "start", "infractl-agent")
		labtest.Eventually(t, 30*time.Second, "its own identity is back", func() bool { return online(t, spare) })
		apply(t, 0, site.File) // the copy brought the other's rules
		settled(t)
	}()
	incumbent := sessionOf(t, demo.Prod)
	untouched := func(t *testing.T) {
		t.Helper()
		if got := sessionOf(t, demo.Prod); got != incumbent || !strings.HasPrefix(got, "connected") {
			t.Errorf("the incumbent's session was %q and is %q", incumbent, got)
		}
		if !online(t, demo.Prod) {
			t.Error("the incumbent is not online")
		}
	}

	t.Run("the copy notices by itself", func(t *testing.T) {
		copyDisk(t, demo.Prod, spare)
		must(t, spare, "systemctl", "start", "infractl-agent")
		labtest.Eventually(t, 10*time.Second, "the copy sets the identity aside", func() bool { return len(aside(t, spare, "cloned")) == 1 })
		labtest.Eventually(t, 10*time.Second, "it waits for a token of its own", func() bool { return strings.Contains(agentSays(t, spare), "no join token") })
		untouched(t)
	})

	t.Run("the server notices a copy that does not", func(t *testing.T) {
		must(t, spare, "systemctl", "stop", "infractl-agent")
		copyDisk(t, demo.Prod, spare)
		must(t, spare, "rm", "/var/lib/infractl/identity/fingerprint.json")
		before := refused(t, "clone")
		must(t, spare, "systemctl", "start", "infractl-agent")
		labtest.Eventually(t, 10*time.Second, "the newcomer is set aside", func() bool {
			return node(t, demo.Prod, v1.NodeState_NODE_STATE_QUARANTINED) != nil
		})
		if out := infractl(t, 3, "status"); !strings.Contains(out, "a second machine at 10.0.10.11 shows its identity and is set aside") {
			t.Errorf("status does not tell: %s", out)
		}
		if refused(t, "clone") <= before || !audited(t, "", "denied", "cloned disk") {
			t.Error("it is not counted and audited")
		}
		if out := agentSays(t, spare); !strings.Contains(out, "set aside") {
			t.Errorf("the newcomer says: %s", out)
		}
		untouched(t)
		must(t, spare, "systemctl", "stop", "infractl-agent")
		infractl(t, 0, "node", "forget", node(t, demo.Prod, v1.NodeState_NODE_STATE_QUARANTINED).GetEnrolmentId(), "--yes")
	})

	t.Run("a copy with the same hardware ids is told by its boots", func(t *testing.T) {
		copyDisk(t, demo.Prod, spare)
		if err := os.WriteFile(filepath.Join(site.Lab.VM(spare).Root(), "etc/machine-id"), []byte(must(t, demo.Prod, "cat", "/etc/machine-id")), 0o444); err != nil {
			t.Fatal(err)
		}
		must(t, spare, "systemctl", "start", "infractl-agent")
		labtest.Eventually(t, 60*time.Second, "the newcomer is set aside", func() bool {
			return node(t, demo.Prod, v1.NodeState_NODE_STATE_QUARANTINED) != nil
		})
		labtest.Eventually(t, 60*time.Second, "the incumbent holds the session", func() bool {
			return strings.HasPrefix(sessionOf(t, demo.Prod), "connected") && strings.Contains(agentSays(t, spare), "set aside")
		})
		n := node(t, demo.Prod, v1.NodeState_NODE_STATE_ONLINE)
		if !strings.Contains(n.GetMessage(), "two machines") {
			t.Errorf("the node's message is %q", n.GetMessage())
		}
		must(t, spare, "systemctl", "stop", "infractl-agent")
		infractl(t, 0, "node", "forget", node(t, demo.Prod, v1.NodeState_NODE_STATE_QUARANTINED).GetEnrolmentId(), "--yes")
		infractl(t, 0, "node", "clear", demo.Prod)
	})
}
