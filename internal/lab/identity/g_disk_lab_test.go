//go:build lab

package identity

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/labtest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// A full disk stops an apply before anything is done, is told as what it is, is not held against the content, and the same apply
// goes on when there is room.
func TestAFullDiskIsToldAndNothingIsDoneHalf(t *testing.T) {
	whole(t)
	vm := site.Lab.VM(demo.Prod)
	look := func() string {
		return must(t, demo.Prod, "sh", "-c", "cat /etc/ssh/sshd_config.d/* /etc/sysctl.d/*; iptables-save | grep -v '^#' | sed 's/\\[.*//'")
	}
	before := look()
	if err := vm.FillDisk(t.Context(), smallDisk); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	file := edited(t, "max_auth_tries: 4", "max_auth_tries: 5")
	ended := inBackground(ctx, "apply", "-f", file, "--yes", "--host", demo.Prod)
	told := func(where string) {
		t.Helper()
		labtest.Eventually(t, 20*time.Second, "the rollout tells of the full disk at "+where, func() bool {
			r, err := site.Infractl(ctx, "rollout", "show")
			return err == nil && r.Code == 0 && strings.Contains(r.Stdout, where) && strings.Contains(r.Stdout, "the disk is full")
		})
		if after := look(); after != before {
			t.Errorf("something was done:\n%s\nbefore:\n%s", after, before)
		}
	}
	told("/var/lib/infractl/tasks/")
	if !online(t, demo.Prod) {
		t.Error("the agent lost its session")
	}
	// Room for the task, none for the commit's record.
	must(t, demo.Prod, "truncate", "-s", "-8K", smallDisk+"/.infractl-lab-fill")
	told("/var/lib/infractl/commits/")
	if err := vm.FreeDisk(t.Context(), smallDisk); err != nil {
		t.Fatal(err)
	}
	e := <-ended
	if out := e.result.Stdout + e.result.Stderr; e.err != nil || e.result.Code != 0 || !strings.Contains(out, "the disk is full") {
		t.Errorf("apply: %v, code %d\n%s", e.err, e.result.Code, out)
	}
	if out := must(t, demo.Prod, "sshd", "-T"); !strings.Contains(out, "maxauthtries 5\n") {
		t.Error("the edit is not in force")
	}
	if n := node(t, demo.Prod, v1.NodeState_NODE_STATE_ONLINE); len(n.GetKnownBad()) > 0 {
		t.Errorf("the full disk was taken for bad content: %v", n.GetKnownBad())
	}
	apply(t, 0, site.File)
	settled(t)
}
