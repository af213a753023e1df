//go:build lab

package rollouts

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// site is the one lab that all tests of this package share, applied once.
var site *demo.Site

func TestMain(m *testing.M) {
	os.Exit(demo.Suite{
		Name: "roll", Limit: 5 * time.Minute,
		Change: func(o *demo.Options) {
			o.Overlay = "rollout: {window: 10s}\n"
			o.Customize = func(cfg *lab.Config) {
				for i := range cfg.VMs {
					cfg.VMs[i].NestedDocker = false
				}
			}
		},
		Prepare: func(ctx context.Context, s *demo.Site) error { return s.Apply(ctx) },
	}.Run(&site, m.Run))
}

// infractl runs the command line as the operator and wants a code.
func infractl(t *testing.T, want int, args ...string) lab.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	r, err := site.Infractl(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	if r.Code != want {
		t.Fatalf("infractl %s: code %d, want %d\n%s%s", strings.Join(args, " "), r.Code, want, r.Stdout, r.Stderr)
	}
	return r
}

func ask[M proto.Message](t *testing.T, into M, args ...string) M {
	t.Helper()
	r := infractl(t, 0, append(args, "-o", "json")...)
	if err := protojson.Unmarshal([]byte(r.Stdout), into); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, r.Stdout)
	}
	return into
}

// start applies an edit of sshd, with a soak, and returns the rollout.
func start(t *testing.T, tries, soak string) string {
	t.Helper()
	content, err := os.ReadFile(site.File)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.Replace(string(content), "max_auth_tries: 4", "max_auth_tries: "+tries, 1)
	if edited == string(content) {
		t.Fatal("the site file has no max_auth_tries: 4")
	}
	path := filepath.Join(filepath.Dir(site.File), "edited-"+tries+".yaml")
	if err := os.WriteFile(path, []byte(edited+"\nrollout: {soak: "+soak+", budgets: {prod: 1}}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := ask(t, &v1.Rollout{}, "apply", "-f", path, "--overlay", site.Overlay, "--yes", "--detach")
	return r.GetId()
}

func operation(t *testing.T, id string) *v1.Operation {
	t.Helper()
	return ask(t, &v1.GetOperationResponse{}, "operation", "show", id).GetOperation()
}

// until waits until an operation is as it should be.
func until(t *testing.T, id, what string, ok func(*v1.Operation) bool) *v1.Operation {
	t.Helper()
	var last *v1.Operation
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		r, err := site.Infractl(t.Context(), "operation", "show", id, "-o", "json")
		if err != nil {
			t.Fatal(err)
		}
		got := &v1.GetOperationResponse{}
		if r.Code != 0 || protojson.Unmarshal([]byte(r.Stdout), got) != nil {
			continue // the server restarts
		}
		if last = got.GetOperation(); ok(last) {
			return last
		}
	}
	t.Fatalf("no %s: %v", what, last)
	return nil
}

func soaks(o *v1.Operation) bool { return strings.Contains(o.GetMessage(), "soaks until") }

func must(t *testing.T, vm string, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := site.Lab.VM(vm).Must(ctx, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tries(t *testing.T, vm string) string {
	t.Helper()
	for line := range strings.Lines(must(t, vm, "sshd", "-T")) {
		if n, ok := strings.CutPrefix(line, "maxauthtries "); ok {
			return strings.TrimSpace(n)
		}
	}
	t.Fatal("sshd -T does not say maxauthtries")
	return ""
}

func TestPausedRolloutSurvivesARestartOfTheServer(t *testing.T) {
	id := start(t, "5", "3s")
	until(t, id, "soak of the canary", soaks)
	infractl(t, 0, "operation", "pause", id)
	must(t, demo.Relay, "systemctl", "restart", "infractl-server")
	paused := until(t, id, "paused rollout after the restart", func(o *v1.Operation) bool {
		return o.GetState() == v1.OperationState_OPERATION_STATE_PAUSED && !soaks(o)
	})
	for _, s := range paused.GetSteps() {
		if s.GetWave() > 1 && s.GetState() != v1.StepState_STEP_STATE_QUEUED {
			t.Errorf("%s of wave %d is %v while the rollout is paused", s.GetNode(), s.GetWave(), s.GetState())
		}
	}
	if got := []string{tries(t, demo.Preprod), tries(t, demo.Prod)}; !slices.Equal(got, []string{"5", "4"}) {
		t.Errorf("max_auth_tries of canary and production is %v, want the canary alone changed", got)
	}
	infractl(t, 0, "operation", "resume", id[:7])
	infractl(t, 0, "operation", "watch", id)
	if got := tries(t, demo.Prod); got != "5" {
		t.Errorf("max_auth_tries of production is %s after the resume", got)
	}
}

func TestSoakHaltsWhenANodeDriftsAndRetryMendsIt(t *testing.T) {
	id := start(t, "6", "3s")
	until(t, id, "soak of the canary", soaks)
	must(t, demo.Preprod, "sed", "-i", "s/MaxAuthTries.*/MaxAuthTries 9/", "/etc/ssh/sshd_config.d/00-infractl.conf")
	r := infractl(t, 12, "operation", "watch", id)
	if !strings.Contains(r.Stderr, demo.Preprod+" drifted while its wave soaked") || !strings.Contains(r.Stderr, "infractl operation retry "+id) {
		t.Errorf("watch said\n%s", r.Stderr)
	}
	if got := tries(t, demo.Prod); got == "6" {
		t.Error("production was changed after the halt")
	}
	infractl(t, 0, "operation", "retry", id)
	infractl(t, 0, "operation", "watch", id)
	if got := []string{tries(t, demo.Preprod), tries(t, demo.Prod)}; !slices.Equal(got, []string{"6", "6"}) {
		t.Errorf("max_auth_tries of canary and production is %v after the retry", got)
	}
	if o := operation(t, id); o.GetState() != v1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Errorf("it ended as %v", o)
	}
}
