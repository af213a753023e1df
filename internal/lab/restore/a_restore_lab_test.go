//go:build lab

package restore

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/labtest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// The server's machine is lost with its disk. A new one in its place, the backup and the paper key bring the fleet back: no
// machine enrols again, and nothing is changed on any.
func TestTheServerComesBackOnANewMachine(t *testing.T) {
	settled(t)
	backup, err := site.Backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	identity := func(vm string) string {
		return must(t, vm, "sha256sum", "/var/lib/infractl/identity/identity.pem")
	}
	before := identity(demo.Prod)
	r, err := site.RestoreServer(t.Context(), backup)
	if err != nil {
		t.Fatalf("%v\n%+v\n%v", err, r, states(t))
	}
	fmt.Fprintf(os.Stderr, "         restore to all agents back: %.1f s (the command %.1f s; boot before it %.1f s)\n", r.Back.Seconds(),
		r.Command.Seconds(), r.Boot.Seconds())
	for _, text := range []string{"whole and readable", "not known to this server", "revocations", "admin-code"} {
		if !strings.Contains(r.Output, text) {
			t.Errorf("the restore does not say %q:\n%s", text, r.Output)
		}
	}
	if after := identity(demo.Prod); before == "" || after != before {
		t.Errorf("the identity of %s changed: %q, %q", demo.Prod, before, after)
	}
	if got := states(t)[demo.Relay]; got != v1.NodeState_NODE_STATE_AWAITING_RECONNECT {
		t.Errorf("the relay's agent, whose machine is lost, is %s", got)
	}
	if err := site.EnrolRelay(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := site.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	settled(t)
	if mode := strings.TrimSpace(must(t, demo.Relay, "stat", "-Lc", "%U %a", "/var/lib/infractl-server-keys/ca/root.key")); !strings.HasSuffix(mode, " 600") || strings.HasPrefix(mode, "root ") {
		t.Errorf("the authority's key is %s", mode)
	}
}

// What the fleet kept after the backup is not put back by the restored server: its hosts are paused until a person resumes
// them.
func TestHostsThatKnowMoreArePaused(t *testing.T) {
	backup, err := site.Backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	newer := edited(t, "max_auth_tries: 4", "max_auth_tries: 5")
	infractl(t, 0, "apply", "-f", newer, "--overlay", site.Overlay, "--yes")
	r, err := site.RestoreOver(t.Context(), backup)
	if err != nil {
		t.Fatalf("%v\n%+v", err, r)
	}
	if !strings.Contains(r.Output, "moved aside   /var/lib/private/infractl-server.before-restore-") {
		t.Errorf("the restore says:\n%s", r.Output)
	}
	labtest.Eventually(t, 60*time.Second, "every node is paused", func() bool {
		got := states(t)
		for _, name := range demo.Nodes() {
			if got[name] != v1.NodeState_NODE_STATE_CONFLICT_PAUSED {
				return false
			}
		}
		return got[demo.Operator] == v1.NodeState_NODE_STATE_ONLINE
	})
	if out := infractl(t, 3, "status"); !strings.Contains(out, "infractl node resume "+demo.Prod) || !strings.Contains(out, "reports site revision") {
		t.Errorf("status:\n%s", out)
	}
	// An older wish is not applied to them, whoever asks.
	rr, err := site.Infractl(t.Context(), "apply", "-f", site.File, "--overlay", site.Overlay, "--yes")
	if err != nil || rr.Code == 0 {
		t.Errorf("apply: %v, code %d\n%s%s", err, rr.Code, rr.Stdout, rr.Stderr)
	}
	for _, vm := range []string{demo.Prod, demo.Relay} {
		if out := must(t, vm, "sshd", "-T"); !strings.Contains(out, "maxauthtries 5\n") {
			t.Errorf("%s was put back", vm)
		}
	}
	rr, err = site.Infractl(t.Context(), "apply", "-f", newer, "--overlay", site.Overlay, "--yes", "--detach")
	if err != nil || rr.Code != 0 {
		t.Errorf("apply of the newest file: %v, code %d\n%s%s", err, rr.Code, rr.Stdout, rr.Stderr)
	}
	for _, name := range demo.Nodes() {
		infractl(t, 0, "node", "resume", name, "--yes")
	}
	infractl(t, 0, "apply", "-f", newer, "--overlay", site.Overlay, "--yes")
	settled(t)
	if out := must(t, demo.Prod, "sshd", "-T"); !strings.Contains(out, "maxauthtries 5\n") {
		t.Error("the newest file is not in force")
	}
}
