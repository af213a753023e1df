package containers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func stack(name, compose string, more ...func(*v1.StackSpec)) *v1.StackSpec {
	s := &v1.StackSpec{Name: name, ComposeFile: "stacks/" + name + ".yml", Compose: []byte(compose), Images: []*v1.StackImage{
		{Reference: "db:1", Use: "db:1", ImageId: "sha256:cc"}, {Reference: "web:1", Use: "web:1", ImageId: "sha256:aa"}, {Reference: "web:2", Use: "web:2"}}}
	for _, m := range more {
		m(s)
	}
	return s
}

func withSecret(name, version string) func(*v1.StackSpec) {
	return func(s *v1.StackSpec) { s.Secrets = append(s.Secrets, &v1.SecretRef{Name: name, Version: version}) }
}

func file(name, content string) func(*v1.StackSpec) {
	return func(s *v1.StackSpec) { s.Files = append(s.Files, &v1.StackFile{Path: name, Content: []byte(content)}) }
}

func want(stacks ...*v1.StackSpec) wish {
	return wish{Spec: &v1.ContainersSpec{Stacks: stacks}, Stage: provider.Services}
}

type env = providertest.Env[*v1.ContainersSpec]

func TestConformance(t *testing.T) {
	engines := map[string]*fakeEngine{}
	one := stack("app", "web web:1 secret=pw:1000\ninit db:1 once\n", withSecret("pw", "v1"), file("app/conf.ini", "a=1\n"))
	two := stack("app", "web web:2 secret=pw:0\n", withSecret("pw", "v2"), file("app/other.ini", "a=2\n"))
	other := stack("tools", "db db:1\n")
	providertest.Run(t, providertest.Suite[*v1.ContainersSpec]{
		New: func(t *testing.T, faults *providertest.Faults) env {
			e := newEngine(folder(t))
			engines[e.root] = e
			p := New(Config{Host: host.New(host.Config{Root: e.root, Runner: faults.Runner(e), Fault: faults.Op}), Engine: e, Fetcher: &fakeFetcher{}})
			return env{Root: e.root, Provider: p, State: e.state}
		},
		Secrets: []string{secretValue},
		Steps: []providertest.Step[*v1.ContainersSpec]{
			{Name: "none", Wish: want(), NoChange: true},
			{Name: "first", Wish: want(one)},
			{Name: "first again", Wish: want(one), NoChange: true},
			{Name: "changed, and one more", Wish: want(two, other)},
			{Name: "one goes", Wish: want(two)},
		},
		Drifts: []providertest.Drift[*v1.ContainersSpec]{
			{Name: "container gone", Do: func(_ *testing.T, e env) { delete(engines[e.Root].containers, "app-web-1") }},
			{Name: "container stopped", Do: func(_ *testing.T, e env) { engines[e.Root].containers["app-web-1"].State = "exited" }},
			{Name: "container unhealthy", Do: func(_ *testing.T, e env) { engines[e.Root].containers["app-web-1"].Health = "unhealthy" }},
			{Name: "made anew by hand", Do: func(_ *testing.T, e env) {
				engines[e.Root].containers["app-web-1"].Labels[docker.LabelConfigHash] = "other"
			}},
			{Name: "another image", Do: func(_ *testing.T, e env) { engines[e.Root].containers["app-web-1"].ImageID = "sha256:dd" }},
			{Name: "file changed", Do: func(t *testing.T, e env) {
				must(t, os.WriteFile(e.Root+"/var/lib/infractl/stacks/app/project/app/other.ini", []byte("a=3\n"), 0o644))
			}},
			{Name: "secret removed", Do: func(t *testing.T, e env) {
				must(t, os.Remove(e.Root+"/var/lib/infractl/stacks/app/secrets/0-0/pw"))
			}},
			{Name: "foreign container in the stack", Do: func(_ *testing.T, e env) {
				c := *engines[e.Root].containers["app-web-1"]
				c.Name, c.ID, c.Labels = "x", "x", map[string]string{docker.LabelProject: "app", docker.LabelService: "x"}
				engines[e.Root].containers["x"] = &c
			}},
		},
		Refusals: []providertest.Refusal[*v1.ContainersSpec]{
			{Name: "name that is a path", Code: errs.Invalid, Wish: want(stack("../x", ""))},
			{Name: "file outside of the folder", Code: errs.Invalid, Wish: want(stack("app", "", file("../../x", "")))},
			{Name: "file in place of the Compose file", Code: errs.Invalid, Wish: want(stack("app", "", file("app.yml", "")))},
			{Name: "secret that is a path", Code: errs.Invalid, Wish: want(stack("app", "", withSecret("../pw", "v1")))},
			{Name: "the same twice", Code: errs.Invalid, Wish: want(other, other)},
		},
	})
}

// setup makes a provider with a fake engine on which a wish is applied.
func setup(t testing.TB, stacks ...*v1.StackSpec) (*Provider, *fakeEngine, *fakeFetcher) {
	t.Helper()
	e, f := newEngine(folder(t)), &fakeFetcher{}
	p := New(Config{Host: host.New(host.Config{Root: e.root, Runner: e}), Engine: e, Fetcher: f})
	if len(stacks) > 0 {
		must(t, apply(p, stacks...))
	}
	return p, e, f
}

func apply(p *Provider, stacks ...*v1.StackSpec) error {
	pl, err := p.Plan(context.Background(), want(stacks...))
	if err != nil {
		return err
	}
	if err := p.Apply(context.Background(), pl); err != nil {
		return err
	}
	return p.Verify(context.Background(), want(stacks...))
}

func TestUnhealthyStackGoesBackAndOthersStay(t *testing.T) {
	good := stack("app", "web web:1 secret=pw:1000\n", withSecret("pw", "v1"))
	p, e, _ := setup(t, good)
	before, _ := e.state()
	err := apply(p, stack("app", "web web:2 sick secret=pw:1000\n", withSecret("pw", "v1")), stack("tools", "db db:1\n"))
	if !errs.Is(err, errs.RolledBack) {
		t.Fatalf("code = %s, want rolled_back: %v", errs.CodeOf(err), err)
	}
	for _, part := range []string{"stack app", "app-web-1 is running unhealthy", "its health check says: curl:", "its log ends: fatal: cannot bind", "former state"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error lacks %q: %v", part, err)
		}
	}
	if strings.Contains(err.Error(), secretValue+"v1") {
		t.Errorf("the error has a secret: %v", err)
	}
	after, _ := e.state()
	if !strings.Contains(after, before) || !strings.Contains(after, "tools-db-1") {
		t.Errorf("containers are\n%s\nwant the former and tools:\n%s", after, before)
	}
	report := p.Report(context.Background())
	if got := report.GetStacks()[0].GetProblem(); !strings.Contains(got, "unhealthy") {
		t.Errorf("problem = %q", got)
	}
	must(t, apply(p, good, stack("tools", "db db:1\n")))
	if got := p.Report(context.Background()).GetStacks()[0].GetProblem(); got != "" {
		t.Errorf("problem after it was mended = %q", got)
	}
}

func TestSickFirstStackLeavesNothing(t *testing.T) {
	p, e, _ := setup(t)
	err := apply(p, stack("app", "web web:2 sick secret=pw:1000\n", withSecret("pw", "v1")))
	if !errs.Is(err, errs.RolledBack) {
		t.Fatalf("err = %v", err)
	}
	if s, _ := e.state(); s != "" {
		t.Errorf("containers stay: %s", s)
	}
	left, _ := filepath.Glob(e.root + "/var/lib/infractl/stacks/app/*/*")
	if list, _ := filepath.Glob(e.root + "/var/lib/infractl/stacks/app/secrets/*/*"); len(list) > 0 {
		t.Errorf("secrets stay: %v", left)
	}
}

func TestEngineThatIsAwayIsSaid(t *testing.T) {
	p, e, _ := setup(t)
	e.down = errs.New(errs.Unavailable, "list containers: the container engine does not answer").WithHint("systemctl status docker")
	if err := apply(p, stack("app", "web web:1\n")); !errs.Is(err, errs.Unavailable) || errs.HintOf(err) == "" {
		t.Errorf("err = %v", err)
	}
	if st := p.Report(context.Background()).GetStacks(); len(st) != 1 || !strings.Contains(st[0].GetProblem(), "does not answer") {
		t.Errorf("report = %v", st)
	}
}

func TestKilledHelperIsRolledBackAndDoneAgain(t *testing.T) {
	p, e, _ := setup(t, stack("app", "web web:1\n"))
	e.killed = true
	if err := apply(p, stack("app", "web web:2\n")); err == nil || !strings.Contains(err.Error(), "infractl-compose") {
		t.Fatalf("err = %v", err)
	}
	e.killed = false
	must(t, apply(p, stack("app", "web web:2\n")))
}

func TestDeadContainersComeBackLessAndLessOften(t *testing.T) {
	p, e, _ := setup(t, stack("app", "web web:1\ninit db:1 once\n"))
	clk := clock.NewFake(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	p.cfg.Clock = clk
	repair := func(name string, want int) {
		t.Helper()
		done, err := p.Repair(context.Background())
		if err != nil || len(done) != want {
			t.Errorf("%s: done = %v, %v, want %d", name, done, err, want)
		}
	}
	repair("all is well", 0)
	e.containers["app-web-1"].State = "exited"
	repair("one ended", 1)
	if e.starts != 1 {
		t.Errorf("starts = %d", e.starts)
	}
	delete(e.containers, "app-web-1")
	repair("too soon", 0)
	clk.Advance(31 * time.Second)
	ups := e.ups
	repair("one gone", 1)
	if e.ups != ups+1 || e.containers["app-web-1"] == nil {
		t.Error("the helper did not bring it back")
	}
	e.containers["app-web-1"].State = "exited"
	clk.Advance(31 * time.Second)
	repair("the wait is longer", 0)
	clk.Advance(30 * time.Second)
	repair("now", 1)
}

func TestImageIsFetchedOverCutsAndChecked(t *testing.T) {
	archive := []byte("new:1 sha256:ee " + strings.Repeat("x", 100))
	sum := sha256.Sum256(archive)
	image := &v1.StackImage{Reference: "new:1", Use: "new:1", ArchiveDigest: hex.EncodeToString(sum[:]), ImageId: "sha256:ee"}
	with := func(i *v1.StackImage) *v1.ContainersSpec {
		return &v1.ContainersSpec{Stacks: []*v1.StackSpec{{Name: "app", ComposeFile: "app.yml", Images: []*v1.StackImage{i}}}}
	}
	t.Run("cut once", func(t *testing.T) {
		p, e, f := setup(t)
		f.archive, f.cutAt = archive, []int{40}
		must(t, p.Stage(context.Background(), with(image)))
		if fmt.Sprint(f.offsets) != "[0 40]" || string(e.loaded) != string(archive) {
			t.Errorf("offsets = %v, loaded %q", f.offsets, e.loaded)
		}
		if left, _ := filepath.Glob(e.root + "/var/lib/infractl/images/*"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		f.offsets = nil
		must(t, p.Stage(context.Background(), with(image)))
		if len(f.offsets) > 0 {
			t.Error("what is there was fetched again")
		}
	})
	t.Run("another digest", func(t *testing.T) {
		p, e, f := setup(t)
		f.archive = []byte(strings.ToUpper(string(archive)))
		if err := p.Stage(context.Background(), with(image)); !errs.Is(err, errs.Invalid) || e.loaded != nil {
			t.Errorf("err = %v, loaded %q", err, e.loaded)
		}
	})
	t.Run("disk full", func(t *testing.T) {
		e := newEngine(folder(t))
		full := errs.New(errs.Exhausted, "the disk is full")
		p := New(Config{Engine: e, Fetcher: &fakeFetcher{archive: archive}, Host: host.New(host.Config{Root: e.root, Runner: e,
			Fault: func(op string) error {
				if strings.HasPrefix(op, "append ") {
					return full
				}
				return nil
			}})})
		if err := p.Stage(context.Background(), with(image)); !errs.Is(err, errs.Exhausted) || e.loaded != nil {
			t.Errorf("err = %v", err)
		}
	})
}

func TestSecretsAreFilesOfTheirOwnersAlone(t *testing.T) {
	p, e, _ := setup(t)
	s := stack("app", "web web:1 secret=pw:1000\n", withSecret("pw", "v1"))
	must(t, p.Stage(context.Background(), &v1.ContainersSpec{Stacks: []*v1.StackSpec{s}}))
	must(t, apply(p, s))
	f, err := p.host.Stat("/var/lib/infractl/stacks/app/secrets/1000-0/pw")
	if err != nil || f.Mode != 0o400 || string(f.Data) != secretValue+"v1" || os.Geteuid() == 0 && f.UID != 1000 {
		t.Errorf("file = %+v, %v", f, err)
	}
	if len(p.values) > 0 {
		t.Error("values stay in memory")
	}
	must(t, apply(p))
	if list, _ := filepath.Glob(e.root + "/var/lib/infractl/stacks/app/*/*"); len(list) != 1 { // the empty folder 1000-0
		t.Errorf("left behind: %v", list)
	}
	if !e.volumes["app_data"] {
		t.Error("the volume is gone")
	}
}

func TestRestartNamesWhatItRestarted(t *testing.T) {
	p, e, _ := setup(t, stack("app", "web web:1\ninit db:1 once\n"))
	got, err := p.RestartStack(context.Background(), &v1.RestartTask{Stack: "app"})
	if err != nil || strings.Join(got.GetContainers(), " ") != "app-web-1" || e.starts != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []*v1.RestartTask{{Stack: "no"}, {Stack: "../x"}, {Stack: "app", Service: "no"}} {
		if _, err := p.RestartStack(context.Background(), bad); err == nil || errs.HintOf(err) == "" {
			t.Errorf("%v: err = %v", bad, err)
		}
	}
}

func BenchmarkPlanWithoutChange(b *testing.B) {
	var stacks []*v1.StackSpec
	for i := range 4 {
		compose := ""
		for j := range 10 {
			compose += fmt.Sprintf("web%d web:1\n", j)
		}
		stacks = append(stacks, stack(fmt.Sprintf("app%d", i), compose, file("x/conf.ini", "a=1\n")))
	}
	p, _, _ := setup(b, stacks...)
	b.ResetTimer()
	for b.Loop() {
		pl, err := p.Plan(context.Background(), want(stacks...))
		if err != nil || len(pl.Changes) > 0 {
			b.Fatal(err, pl.Changes)
		}
	}
}
