package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/hostspec"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// fileProvider keeps one file equal to the spec's host name; while widening, old and new stand in it.
type fileProvider struct {
	host      *host.Host
	path      string
	verifyErr error
	applied   int
	kept      int
}

func (p *fileProvider) Name() string { return filepath.Base(p.path) }

func (p *fileProvider) want(w provider.Wish[*v1.SystemSpec]) string {
	have, _ := p.host.ReadFile(p.path)
	if w.Stage == provider.Widening && !strings.Contains(string(have), w.Spec.GetHostname()) {
		return string(have) + "+" + w.Spec.GetHostname()
	}
	if w.Stage == provider.Widening {
		return string(have)
	}
	return w.Spec.GetHostname()
}

func (p *fileProvider) Plan(_ context.Context, w provider.Wish[*v1.SystemSpec]) (provider.Plan[*v1.SystemSpec], error) {
	plan := provider.Plan[*v1.SystemSpec]{Wish: w}
	have, _ := p.host.ReadFile(p.path)
	if want := p.want(w); want != string(have) {
		plan.Changes = []*v1.Change{{Provider: p.Name(), Subject: p.path, After: []string{want}}}
	}
	return plan, nil
}

func (p *fileProvider) Snapshot(context.Context, provider.Plan[*v1.SystemSpec]) ([]byte, error) {
	files, err := p.host.Snapshot(p.path)
	if err != nil {
		return nil, err
	}
	return json.Marshal(files)
}

func (p *fileProvider) Apply(_ context.Context, plan provider.Plan[*v1.SystemSpec]) error {
	p.applied++
	_, err := p.host.WriteFile(p.path, []byte(p.want(plan.Wish)), 0o644)
	return err
}

func (p *fileProvider) Verify(context.Context, provider.Wish[*v1.SystemSpec]) error {
	return p.verifyErr
}
func (p *fileProvider) Keep(context.Context, provider.Wish[*v1.SystemSpec]) error {
	p.kept++
	return nil
}

func (p *fileProvider) Rollback(_ context.Context, snapshot []byte) error {
	var files []host.File
	if err := json.Unmarshal(snapshot, &files); err != nil {
		return err
	}
	_, err := p.host.Restore(files)
	return err
}

// fakeArmer remembers what is armed.
type fakeArmer struct {
	mu    sync.Mutex
	armed map[string]bool
	err   error
}

func (a *fakeArmer) Arm(_ context.Context, id string, _ time.Duration) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.armed[id] = true
	return a.err
}

func (a *fakeArmer) Disarm(_ context.Context, id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.armed, id)
	return nil
}

type confirmFunc func(*v1.ConfirmRequest) (*v1.ConfirmResponse, error)

func (f confirmFunc) Confirm(_ context.Context, r *v1.ConfirmRequest) (*v1.ConfirmResponse, error) {
	return f(r)
}

func answer(d v1.ConfirmDecision) confirmFunc {
	return func(*v1.ConfirmRequest) (*v1.ConfirmResponse, error) { return &v1.ConfirmResponse{Decision: d}, nil }
}

type rig struct {
	t      *testing.T
	root   string
	engine *Engine
	way    *fileProvider
	extra  *fileProvider
	armer  *fakeArmer
	fault  func(string) error
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, root: t.TempDir(), armer: &fakeArmer{armed: map[string]bool{}}}
	if err := os.MkdirAll(filepath.Join(r.root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"way", "extra"} {
		if err := os.WriteFile(filepath.Join(r.root, "etc", f), []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r.restart()
	return r
}

// restart makes a new engine on the same disk, as a restarted agent does.
func (r *rig) restart() {
	r.t.Helper()
	h := host.New(host.Config{Root: r.root, Fault: func(op string) error {
		if r.fault != nil {
			return r.fault(op)
		}
		return nil
	}})
	r.way, r.extra = &fileProvider{host: h, path: "/etc/way"}, &fileProvider{host: h, path: "/etc/extra"}
	section := func(s *v1.HostSpec) (*v1.SystemSpec, bool) { return s.GetSystem(), s.GetSystem() != nil }
	e, err := New(Config{Host: h, Dir: "/var/lib/infractl", Clock: clock.System{}, Log: hclog.NewNullLogger(), Armer: r.armer,
		Providers: []provider.Bound{
			provider.Bind(r.way, section, provider.Widening, provider.Narrowing),
			provider.Bind(r.extra, section, provider.Widening, provider.Narrowing),
		}})
	if err != nil {
		r.t.Fatal(err)
	}
	e.reverter.pause = time.Millisecond
	r.engine = e
}

func (r *rig) content() string {
	r.t.Helper()
	way, err := os.ReadFile(filepath.Join(r.root, "etc/way"))
	if err != nil {
		r.t.Fatal(err)
	}
	extra, err := os.ReadFile(filepath.Join(r.root, "etc/extra"))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(way) + " " + string(extra)
}

func (r *rig) task(id string, pass v1.Pass) *v1.ApplyTask {
	r.t.Helper()
	content, digest, err := hostspec.Encode(&v1.HostSpec{Site: "s", Node: "n", System: &v1.SystemSpec{Hostname: "new"}})
	if err != nil {
		r.t.Fatal(err)
	}
	return &v1.ApplyTask{Spec: content, SpecDigest: digest, SiteRevision: 1, Pass: pass, CommitId: id,
		Window: durationpb.New(3 * time.Second), Witnessed: true}
}

func (r *rig) apply(task *v1.ApplyTask, c Confirmer) *v1.ApplyResult {
	r.t.Helper()
	result, err := r.engine.Apply(context.Background(), task, "task-"+task.CommitId, c, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.engine.Close()
	return result
}

func outcomeOf(t *testing.T, result *v1.ApplyResult, phase v1.Phase) v1.PhaseOutcome {
	t.Helper()
	for _, p := range result.GetPhases() {
		if p.GetPhase() == phase {
			return p.GetOutcome()
		}
	}
	t.Fatalf("no result for %v in %v", phase, result)
	return 0
}

const (
	widen  = v1.Pass_PASS_WIDEN
	narrow = v1.Pass_PASS_NARROW
)

var confirmed = answer(v1.ConfirmDecision_CONFIRM_DECISION_CONFIRMED)

func TestConfirmedPassesReachTheWish(t *testing.T) {
	r := newRig(t)
	result := r.apply(r.task("c1", widen), confirmed)
	if got, want := outcomeOf(t, result, v1.Phase_PHASE_WIDENING), v1.PhaseOutcome_PHASE_OUTCOME_KEPT; got != want {
		t.Fatalf("outcome = %v, want %v: %v", got, want, result)
	}
	if got, want := r.content(), "old+new old+new"; got != want {
		t.Errorf("after widening %q, want %q", got, want)
	}
	result = r.apply(r.task("c2", narrow), confirmed)
	if got, want := r.content(), "new new"; got != want {
		t.Errorf("after narrowing %q, want %q", got, want)
	}
	if result.State.NarrowedDigest != result.State.WidenedDigest || result.State.NarrowedDigest == "" {
		t.Errorf("state = %v", result.State)
	}
	if len(r.armer.armed) != 0 {
		t.Errorf("still armed: %v", r.armer.armed)
	}
	applied := r.way.applied
	result = r.apply(r.task("c3", narrow), confirmed)
	if got := outcomeOf(t, result, v1.Phase_PHASE_NARROWING); got != v1.PhaseOutcome_PHASE_OUTCOME_IN_SYNC || r.way.applied != applied {
		t.Errorf("second apply: %v, applied %d more", got, r.way.applied-applied)
	}
}

func TestCommitRevertsUnlessConfirmed(t *testing.T) {
	pending := answer(v1.ConfirmDecision_CONFIRM_DECISION_PENDING)
	cases := map[string]struct {
		confirm Confirmer
		prepare func(*rig)
		want    v1.PhaseOutcome
	}{
		"refused":           {confirm: answer(v1.ConfirmDecision_CONFIRM_DECISION_REFUSED), want: v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED},
		"witnesses missing": {confirm: pending, want: v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED},
		"server away": {confirm: confirmFunc(func(*v1.ConfirmRequest) (*v1.ConfirmResponse, error) {
			return nil, errors.New("connection refused")
		}), want: v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED},
		"verify fails": {confirm: confirmed, prepare: func(r *rig) { r.extra.verifyErr = errors.New("does not listen") },
			want: v1.PhaseOutcome_PHASE_OUTCOME_FAILED},
		"cannot arm": {confirm: confirmed, prepare: func(r *rig) { r.armer.err = errors.New("no systemd") },
			want: v1.PhaseOutcome_PHASE_OUTCOME_FAILED},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if c.prepare != nil {
				c.prepare(r)
			}
			result := r.apply(r.task("c1", widen), c.confirm)
			if got := outcomeOf(t, result, v1.Phase_PHASE_WIDENING); got != c.want {
				t.Errorf("outcome = %v, want %v", got, c.want)
			}
			if got, want := r.content(), "old old"; got != want {
				t.Errorf("content = %q, want %q", got, want)
			}
			if result.State.WidenedDigest != "" {
				t.Errorf("claims to be widened: %v", result.State)
			}
		})
	}
}

// slowConfirmer answers once that a witness is missing; the next try hangs until the window ends.
type slowConfirmer struct{ asked bool }

func (c *slowConfirmer) Confirm(ctx context.Context, _ *v1.ConfirmRequest) (*v1.ConfirmResponse, error) {
	if !c.asked {
		c.asked = true
		return &v1.ConfirmResponse{Decision: v1.ConfirmDecision_CONFIRM_DECISION_PENDING, WaitingFor: []string{"client-relay"}}, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestWhatTheWindowsEndCutsOffIsNotTheReason(t *testing.T) {
	r := newRig(t)
	result := r.apply(r.task("c1", widen), &slowConfirmer{})
	var said string
	for _, p := range result.GetPhases() {
		said += p.GetError().GetMessage()
	}
	if !strings.Contains(said, "no report from witness [client-relay]") {
		t.Errorf("the reason is %q, want the missing witness", said)
	}
}

func TestRevertAndConfirmRaceHasOneWinner(t *testing.T) {
	r := newRig(t)
	// The timer fires while the server's answer is on its way.
	late := confirmFunc(func(req *v1.ConfirmRequest) (*v1.ConfirmResponse, error) {
		if err := r.engine.reverter.Revert(context.Background(), req.CommitId); err != nil {
			t.Error(err)
		}
		return &v1.ConfirmResponse{Decision: v1.ConfirmDecision_CONFIRM_DECISION_CONFIRMED}, nil
	})
	result := r.apply(r.task("c1", widen), late)
	if got := outcomeOf(t, result, v1.Phase_PHASE_WIDENING); got != v1.PhaseOutcome_PHASE_OUTCOME_UNCONFIRMED {
		t.Errorf("outcome = %v", got)
	}
	if got := r.content(); got != "old old" {
		t.Errorf("content = %q", got)
	}
	r = newRig(t)
	r.apply(r.task("c1", widen), confirmed)
	if err := r.engine.reverter.Revert(context.Background(), "c1"); err == nil {
		t.Error("a kept commit was reverted")
	}
	if got := r.content(); got != "old+new old+new" {
		t.Errorf("content = %q", got)
	}
}

func TestNoCommitWithoutWitnesses(t *testing.T) {
	r := newRig(t)
	task := r.task("c1", widen)
	task.Witnessed = false
	result := r.apply(task, confirmed)
	if got := outcomeOf(t, result, v1.Phase_PHASE_WIDENING); got != v1.PhaseOutcome_PHASE_OUTCOME_WAITING {
		t.Errorf("outcome = %v", got)
	}
	if got := r.content(); got != "old old" {
		t.Errorf("content = %q", got)
	}
}

// died is what a fault panics with to stand for SIGKILL: nothing after it runs.
type died struct{}

// TestKilledAtEveryStepHeals kills the agent before each write in turn, and then restarts it: the host must be wholly old or
// wholly new, and a repeated apply must reach the wish.
func TestKilledAtEveryStepHeals(t *testing.T) {
	for n := 1; ; n++ {
		r := newRig(t)
		count := 0
		r.fault = func(op string) error {
			if count++; count == n {
				panic(died{})
			}
			return nil
		}
		killed := runUntilDead(func() { r.apply(r.task("c1", widen), confirmed) })
		r.fault = nil
		if !killed {
			if n < 5 {
				t.Fatalf("only %d writes seen; the hook does not work", n)
			}
			return
		}
		r.restart()
		if err := r.engine.Recover(context.Background()); err != nil {
			t.Fatalf("killed before write %d: %v", n, err)
		}
		if got := r.content(); got != "old old" && got != "old+new old+new" {
			t.Fatalf("killed before write %d: content %q", n, got)
		}
		if result, ok := r.engine.Outcome(context.Background(), "c1", widen); ok {
			kept := result.Phases[0].Outcome == v1.PhaseOutcome_PHASE_OUTCOME_KEPT
			if kept != (r.content() == "old+new old+new") {
				t.Fatalf("killed before write %d: outcome %v, content %q", n, result, r.content())
			}
		}
		r.apply(r.task("c2", widen), confirmed)
		r.apply(r.task("c3", narrow), confirmed)
		if got := r.content(); got != "new new" {
			t.Fatalf("killed before write %d: after another apply %q", n, got)
		}
	}
}

func runUntilDead(f func()) (killed bool) {
	defer func() {
		if v := recover(); v != nil {
			if _, ok := v.(died); !ok {
				panic(v)
			}
			killed = true
		}
	}()
	f()
	return false
}

// TestDiskFullAtEveryStepLeavesOldOrNew makes each write fail in turn.
func TestDiskFullAtEveryStepLeavesOldOrNew(t *testing.T) {
	for n := 1; n < 40; n++ {
		t.Run(fmt.Sprintf("write %d", n), func(t *testing.T) {
			r := newRig(t)
			count := 0
			r.fault = func(string) error {
				if count++; count == n {
					return errors.New("no space left on device")
				}
				return nil
			}
			r.apply(r.task("c1", widen), confirmed)
			r.fault = nil
			r.restart()
			if err := r.engine.Recover(context.Background()); err != nil {
				t.Fatal(err)
			}
			if got := r.content(); got != "old old" && got != "old+new old+new" {
				t.Errorf("content %q", got)
			}
		})
	}
}

func TestUnfinishedCommitMakesTheNextWait(t *testing.T) {
	r := newRig(t)
	if err := r.engine.records.create(record{ID: "other"}); err != nil {
		t.Fatal(err)
	}
	result := r.apply(r.task("c1", widen), confirmed)
	if got := outcomeOf(t, result, v1.Phase_PHASE_WIDENING); got != v1.PhaseOutcome_PHASE_OUTCOME_WAITING {
		t.Errorf("outcome = %v", got)
	}
	if result.State.ArmedCommit != "other" {
		t.Errorf("armed commit = %q", result.State.ArmedCommit)
	}
}

func TestBadTasksAreRefused(t *testing.T) {
	r := newRig(t)
	wrongDigest := r.task("c1", widen)
	wrongDigest.SpecDigest = hostspec.Digest([]byte("other"))
	unknownPass := r.task("c2", v1.Pass(9))
	for name, task := range map[string]*v1.ApplyTask{"wrong digest": wrongDigest, "unknown pass": unknownPass} {
		t.Run(name, func(t *testing.T) {
			if _, err := r.engine.Apply(context.Background(), task, "t", confirmed, nil); err == nil {
				t.Error("accepted")
			}
		})
	}
	evil := r.task("../../etc/passwd", widen)
	if got := outcomeOf(t, r.apply(evil, confirmed), v1.Phase_PHASE_WIDENING); got != v1.PhaseOutcome_PHASE_OUTCOME_FAILED {
		t.Errorf("a commit id that is a path: %v", got)
	}
}
