//go:build lab

package identity

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab/demo"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// armed waits until a commit is armed on a VM.
func armed(t *testing.T, vm string) {
	t.Helper()
	pattern := filepath.Join(site.Lab.VM(vm).Root(), "var/lib/infractl/commits/*/armed.json")
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(3 * time.Millisecond) {
		if list, err := filepath.Glob(pattern); err == nil && len(list) > 0 {
			return
		}
	}
	t.Fatalf("no commit was armed on %s", vm)
}

// An apply that is cut in the middle ends well by itself, with the command that began it still watching.
func TestAnApplyThatIsCutInTheMiddleEndsWellByItself(t *testing.T) {
	whole(t)
	overlay := filepath.Join(t.TempDir(), "lab.yaml")
	if err := os.WriteFile(overlay, []byte("rollout: {window: 10s}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// A commit is short: who is to be killed is looked up before.
	pids := map[string]string{
		demo.Relay:   strings.TrimSpace(must(t, demo.Relay, "systemctl", "show", "-p", "MainPID", "--value", "infractl-server")),
		demo.Preprod: strings.TrimSpace(must(t, demo.Preprod, "systemctl", "show", "-p", "MainPID", "--value", "infractl-agent")),
	}
	apply(t, 0, site.File, "--overlay", overlay) // the shorter window alone, so that each cut heals sooner
	for _, c := range []struct {
		name, tries string
		cut         func(t *testing.T)
	}{
		{"the server restarts", "5", func(t *testing.T) { must(t, demo.Relay, "kill", "-9", pids[demo.Relay]) }},
		{"the agent is killed", "3", func(t *testing.T) { must(t, demo.Preprod, "kill", "-9", pids[demo.Preprod]) }},
		{"the power fails", "6", func(t *testing.T) {
			if err := site.Lab.VM(demo.Preprod).PowerCut(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := edited(t, "max_auth_tries: 4", "max_auth_tries: "+c.tries)
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			begun := time.Now()
			ended := inBackground(ctx, "apply", "-f", file, "--overlay", overlay, "--yes")
			armed(t, demo.Preprod)
			c.cut(t)
			e := <-ended
			if e.err != nil {
				t.Fatal(e.err)
			}
			step("%s: apply ended after %.1f s: %s", c.name, time.Since(begun).Seconds(), lastLine(e.result.Stderr))
			if e.result.Code != 0 {
				t.Errorf("apply: code %d\n%s%s", e.result.Code, e.result.Stdout, e.result.Stderr)
			}
			r := ask(t, &v1.GetRolloutResponse{}, "rollout", "show").GetRollout()
			if r.GetState() != v1.RolloutState_ROLLOUT_STATE_SUCCEEDED {
				t.Errorf("the newest rollout is %s: %s", r.GetState(), r.GetReason())
			}
			if out := must(t, demo.Preprod, "sshd", "-T"); !strings.Contains(out, "maxauthtries "+c.tries+"\n") {
				t.Error("the edit is not in force")
			}
			if c.name != "the server restarts" && !audited(t, demo.Preprod, "rolled_back", "stopped during the commit") {
				t.Error("no commit was cut")
			}
			if n := node(t, demo.Preprod); len(n.GetKnownBad()) > 0 {
				t.Errorf("a cut was taken for bad content: %v", n.GetKnownBad())
			}
			settled(t)
		})
	}
	apply(t, 0, site.File)
	settled(t)
}
