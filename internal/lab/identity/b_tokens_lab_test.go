//go:build lab

package identity

import (
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/jointoken"
	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/labtest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// changed returns a join token's text with something of it changed.
func changed(t *testing.T, text string, change func(*jointoken.Token)) string {
	t.Helper()
	tok, err := jointoken.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	change(tok)
	out, err := tok.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestABadTokenIsRefusedAuditedAndCounted(t *testing.T) {
	begin(t)
	// The wrong ones first, while the one that was made at the beginning gets old.
	good := token(t, spare)
	for _, c := range []struct {
		name, token, says string
		atTheServer       bool
	}{
		{"of a foreign server", changed(t, good, func(k *jointoken.Token) { k.ID = "0123456789" }), "is not one of this site", true},
		{"with a wrong secret", changed(t, good, func(k *jointoken.Token) { k.Secret = jointoken.NewSecret(strings.Repeat("x", 43)) }), "is not one of this site", true},
		{"used by another machine", early.used, "was used already", true},
		{"of a foreign authority", changed(t, good, func(k *jointoken.Token) { k.Fingerprint = "sha256:" + strings.Repeat("0", 64) }),
			"not the one that the token pins", false},
		{"cut", good[:len(good)/2], "cut or changed", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !c.atTheServer {
				put(t, spare, "/etc/infractl/join-token", c.token)
				labtest.Eventually(t, 10*time.Second, "the agent says why", func() bool { return strings.Contains(agentSays(t, spare), c.says) })
			} else {
				refusesToken(t, spare, c.token, c.says)
			}
			if n := node(t, spare); n.GetState() != v1.NodeState_NODE_STATE_WANTED {
				t.Errorf("node list shows it as %s", n.GetState())
			}
		})
	}
	must(t, spare, "rm", "/etc/infractl/join-token")
}

// refusesToken puts a token onto a machine and wants the server to refuse it, to count and audit that, and the agent to tell.
func refusesToken(t *testing.T, vm, text, says string) {
	t.Helper()
	before := refused(t, "token")
	put(t, vm, "/etc/infractl/join-token", text)
	labtest.Eventually(t, 10*time.Second, "the server counts the refusal", func() bool { return refused(t, "token") > before })
	labtest.Eventually(t, 10*time.Second, "the agent says that the token "+says, func() bool { return strings.Contains(agentSays(t, vm), says) })
	if !audited(t, "", "denied", says) {
		t.Errorf("the audit log does not say that the token %s", says)
	}
}

func TestAMachineWithoutATokenWaitsForApproval(t *testing.T) {
	begin(t)
	put(t, spare, "/etc/infractl/join-token", changed(t, token(t, spare), func(k *jointoken.Token) { k.ID, k.Secret = "", jointoken.Secret{} }))
	var waiting *v1.Node
	labtest.Eventually(t, 20*time.Second, "node list shows it as pending", func() bool {
		waiting = node(t, spare, v1.NodeState_NODE_STATE_PENDING)
		return waiting != nil
	})
	if !strings.Contains(waiting.GetMessage(), "no join token") {
		t.Errorf("its message is %q", waiting.GetMessage())
	}
	if got := strings.TrimSpace(must(t, spare, "cat", "/etc/machine-id")); waiting.GetFingerprint().GetMachineId() != got {
		t.Errorf("node list shows machine id %q, it has %q", waiting.GetFingerprint().GetMachineId(), got)
	}
	if out := infractl(t, 3, "status"); !strings.Contains(out, "infractl node approve") {
		t.Errorf("status does not say what to do: %s", out)
	}
	if out := agentSays(t, spare); !strings.Contains(out, "approval") || !strings.Contains(out, "nothing was applied yet") {
		t.Errorf("the agent says: %s", out)
	}
	infractl(t, 0, "node", "approve", waiting.GetEnrolmentId()[:8], "--yes")
	labtest.Eventually(t, 30*time.Second, "it is online", func() bool { return online(t, spare) })
	labtest.Eventually(t, 60*time.Second, "it is taken up by itself", func() bool { return inSync(t, spare) })
	settled(t)
	if out := infractl(t, 0, "ssh", spare, "--user", "operator", "--", "hostname"); strings.TrimSpace(out) != spare {
		t.Errorf("infractl ssh said %q", out)
	}
	if !audited(t, spare, "ok", "identity issued") || !audited(t, spare, "pending", "no join token") {
		t.Error("waiting and identity are not both in the audit log")
	}
	if got := node(t, demo.Prod).GetJoinCounter(); got != 1 {
		t.Errorf("the machine whose token was shown again has join counter %d", got)
	}
}
