//go:build lab

package demo

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab/labtest"
)

func TestSecondApplyChangesNothing(t *testing.T) {
	out := apply(t, 0, site.File)
	if !strings.Contains(out, "nothing to do") {
		t.Errorf("second apply: %s", out)
	}
	infractl(t, 0, "diff")
	infractl(t, 0, "status")
}

func TestFlowsAreWhatTheMatrixSays(t *testing.T) {
	c, err := site.CheckFlows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c.OpenAsWanted < 50 || c.ClosedAsWanted < 200 {
		t.Errorf("only %d open and %d closed ways were looked at", c.OpenAsWanted, c.ClosedAsWanted)
	}
	for _, v := range c.Violations {
		t.Errorf("wrong: %s", v)
	}
	for _, v := range c.Unseen {
		// chrony need not answer whom its own configuration does not serve, and WireGuard answers nobody without a key: silence
		// proves nothing there.
		if !strings.Contains(string(v), "123/udp") && !strings.Contains(string(v), "51820/udp") {
			t.Errorf("unseen: %s", v)
		}
	}
}

func TestRouterNamesAndTunnelAreAsTheDemoShows(t *testing.T) {
	for _, proof := range site.proofs() {
		line, err := proof(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Log(line)
	}
	if out := infractl(t, 0, "vpn", "peer", "list"); !strings.Contains(out, Peer) {
		t.Errorf("peers: %s", out)
	}
	infractl(t, 0, "vpn", "peer", "remove", Peer, "--yes")
	labtest.Eventually(t, 20*time.Second, "the rollout is over", func() bool {
		r, err := site.Infractl(t.Context(), "diff")
		return err == nil && r.Code == 0
	})
}

func TestLoginsOnlyThroughTheRelayAndOnlyByKey(t *testing.T) {
	for _, node := range Nodes() {
		if out := infractl(t, 0, "ssh", node, "--user", "operator", "--", "hostname"); strings.TrimSpace(out) != node {
			t.Errorf("infractl ssh %s said %q", node, out)
		}
	}
	operator := site.Lab.Namespace(Operator)
	ssh := func(user, address string, more ...string) int {
		t.Helper()
		argv := append([]string{"ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
			"-o", "ConnectTimeout=2", "-i", site.SSHKey(), "-l", user, "-p", "202"}, more...)
		r, err := operator.Exec(t.Context(), append(argv, address, "true")...)
		if err != nil {
			t.Fatal(err)
		}
		return r.Code
	}
	if code := ssh("operator", "10.0.10.4"); code != 0 {
		t.Errorf("login to the relay: code %d", code)
	}
	if code := ssh("root", "10.0.10.4"); code == 0 {
		t.Error("root may log in to the relay")
	}
	if code := ssh("operator", "10.0.10.20"); code == 0 {
		t.Error("srv-prod lets the operator in without the relay")
	}
	if code := ssh("operator", "10.0.10.4", "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive"); code == 0 {
		t.Error("the relay lets somebody in without a key")
	}
	for _, node := range Nodes() {
		out, _ := in(t, node, "sshd", "-T")
		for _, want := range []string{"port 202\n", "permitrootlogin no\n", "passwordauthentication no\n", "kbdinteractiveauthentication no\n",
			"authenticationmethods publickey\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: sshd -T lacks %q", node, want)
			}
		}
		if strings.Contains(out, "port 22\n") {
			t.Errorf("%s still has port 22", node)
		}
	}
}

func TestAFileChangedByHandIsSeenAndMended(t *testing.T) {
	if _, code := in(t, Prod, "sh", "-c", "echo '# by hand' >> /etc/ssh/sshd_config.d/00-infractl.conf"); code != 0 {
		t.Fatal("could not change the file")
	}
	out := infractl(t, 4, "diff")
	if !strings.Contains(out, Prod+": drift") || !strings.Contains(out, "00-infractl.conf") {
		t.Errorf("diff: %s", out)
	}
	if out := apply(t, 0, site.File); strings.Contains(out, "nothing to do") {
		t.Errorf("apply did not see it: %s", out)
	}
	infractl(t, 0, "diff")
}

func TestDockerIsUnharmedAndFiltered(t *testing.T) {
	check := func(when string) {
		t.Helper()
		// The busybox in the containers has no nc -z; end of input ends the connection.
		web := func(host, port string) int {
			_, code := in(t, Prod, "docker", "exec", "web", "sh", "-c", "nc -w 2 "+host+" "+port+" </dev/null")
			return code
		}
		if code := web("db", "3306"); code != 0 {
			t.Errorf("%s: web does not reach its database: code %d", when, code)
		}
		if web("10.0.10.20", "202") == 0 {
			t.Errorf("%s: a container reaches its host's sshd", when)
		}
		if web("10.0.10.10", "202") == 0 {
			t.Errorf("%s: a container reaches the LAN", when)
		}
		if _, code := in(t, Relay, "nc", "-z", "-w", "2", "10.0.10.20", "8080"); code == 0 {
			t.Errorf("%s: the published port is open to the LAN", when)
		}
		if _, code := in(t, Prod, "nc", "-z", "-w", "2", "10.0.10.20", "8080"); code != 0 {
			t.Errorf("%s: the host does not reach its own published port", when)
		}
		out, _ := in(t, Prod, "iptables-save")
		for _, want := range []string{":DOCKER ", ":DOCKER-USER ", "--dport 8080 -j DNAT"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: iptables lacks %q", when, want)
			}
		}
	}
	check("after apply")
	if _, code := in(t, Prod, "systemctl", "restart", "docker"); code != 0 {
		t.Fatal("docker did not restart")
	}
	in(t, Prod, "docker", "start", "db", "web")
	check("after a restart of docker")
}

func TestTheAuditSaysWhoDidWhat(t *testing.T) {
	var audit struct {
		Entries []struct{ Actor, Action, Result string }
	}
	if err := json.Unmarshal([]byte(infractl(t, 0, "audit", "--limit", "500", "-o", "json")), &audit); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, e := range audit.Entries {
		found = found || e.Actor == "operator/demo" && strings.Contains(e.Action, "ApplySite") && e.Result == "ok"
	}
	if !found {
		t.Errorf("no entry for the apply among %d", len(audit.Entries))
	}
}
