package dolibarr

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// two are acme and beta, which run behind a front.
func two(t testing.TB) (*taskRig, []*v1.InstanceSpec) {
	r := newTaskRig(t)
	r.cfg.Clock = clock.NewFake(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	list := []*v1.InstanceSpec{testInstance("aaaaaaaa", "acme"), testInstance("bbbbbbbb", "beta")}
	for i, inst := range list {
		inst.Mode, inst.Cron, inst.Subnet = runningMode, true, fmt.Sprintf("10.210.0.%d/28", 16*i)
		r.placed(inst)
	}
	must(t, r.apply(list...))
	return r, list
}

func (r *taskRig) apply(list ...*v1.InstanceSpec) error {
	pl, err := r.Plan(r.t.Context(), want(list...))
	if err != nil {
		return err
	}
	if err := r.Apply(r.t.Context(), pl); err != nil {
		return err
	}
	return r.Verify(r.t.Context(), want(list...))
}

// harm changes a container behind the provider's back.
func (r *taskRig) harm(name string, change func(*testContainer)) {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	change(r.engine.find(name))
}

func (r *taskRig) running(name string) bool {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	c := r.engine.find(name)
	return c != nil && c.State == "running"
}

func TestRepairBringsBackWhatIsGone(t *testing.T) {
	r, _ := two(t)
	repair := func(want ...string) {
		t.Helper()
		done, err := r.Repair(t.Context())
		if err != nil || !slices.Equal(done, want) {
			t.Errorf("done %q, %v; want %q", done, err, want)
		}
	}
	repair()
	r.harm("infractl-aaaaaaaa-db", func(c *testContainer) { c.State = "exited" })
	r.harm("infractl-bbbbbbbb-app", func(c *testContainer) { delete(r.engine.containers, c.ID) })
	repair("instance acme: its container db is exited", "instance beta: its container app is gone")
	for _, name := range []string{"infractl-aaaaaaaa-db", "infractl-bbbbbbbb-app"} {
		if !r.running(name) {
			t.Errorf("%s does not run", name)
		}
	}
	r.harm("infractl-aaaaaaaa-app", func(c *testContainer) { c.State = "restarting" })
	repair() // the engine's own affair
}

func TestRepairsThatFailComeLessOften(t *testing.T) {
	r, _ := two(t)
	clk := r.cfg.Clock.(*clock.Fake)
	r.harm("infractl-aaaaaaaa-app", func(c *testContainer) { c.State = "exited" })
	starts := 0
	r.engine.fault = func(op string) error {
		if op == "start" {
			starts++
			return errs.New(errs.Internal, "no such mount")
		}
		return nil
	}
	for step, advance := range []time.Duration{0, 29 * time.Second, time.Second, 59 * time.Second, time.Second} {
		clk.Advance(advance)
		_, err := r.Repair(t.Context())
		if tried := slices.Contains([]int{0, 2, 4}, step); (err != nil) != tried {
			t.Errorf("step %d: %v, tried %v", step, err, tried)
		}
	}
	r.engine.fault = func(string) error { return nil }
	clk.Advance(repairLate)
	if done, err := r.Repair(t.Context()); err != nil || len(done) != 1 || starts != 3 {
		t.Errorf("done %q, %v after %d starts", done, err, starts)
	}
}

func TestBrokenInstanceTakesNoOtherWithIt(t *testing.T) {
	for name, breaks := range map[string]func(r *taskRig, acme *v1.InstanceSpec){
		"its record cannot be read": func(r *taskRig, _ *v1.InstanceSpec) {
			must(r.t, r.host.Remove(r.recordFile("aaaaaaaa")))
			must(r.t, syscall.Mknod(r.host.Path(r.recordFile("aaaaaaaa")), syscall.S_IFSOCK|0o600, 0)) // opening it is ENXIO
		},
		"it has no conf.php": func(r *taskRig, _ *v1.InstanceSpec) {
			must(r.t, r.host.Remove(r.confFile("aaaaaaaa")))
			r.engine.find("infractl-aaaaaaaa-app").State = "exited"
		},
		"its container is not made": func(r *taskRig, acme *v1.InstanceSpec) {
			acme.Timezone = "UTC"
			r.engine.fault = func(op string) error {
				if op == "create infractl-aaaaaaaa-app" {
					return errs.New(errs.Internal, "boom")
				}
				return nil
			}
		},
		"its secret is no longer given": func(r *taskRig, acme *v1.InstanceSpec) {
			acme.Secrets[0].Name = "instance/aaaaaaaa/other"
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, list := two(t)
			acme, beta := changed(list[0], func(*v1.InstanceSpec) {}), changed(list[1], func(i *v1.InstanceSpec) { i.Cron = false })
			breaks(r, acme)
			err := r.apply(acme, beta)
			if !errs.Is(err, errs.RolledBack) || !strings.Contains(err.Error(), "instance acme: ") || strings.Contains(err.Error(), "beta") {
				t.Errorf("err = %v", err)
			}
			if r.running("infractl-bbbbbbbb-cron") || !r.running("infractl-bbbbbbbb-app") {
				t.Error("the other one is not as wished")
			}
			if strings.Contains(fmt.Sprint(err), "VALUEOF") {
				t.Error("the error shows a secret")
			}
		})
	}
}

func TestUnhealthyInstanceIsToldAndNothingIsTakenBack(t *testing.T) {
	r, list := two(t)
	r.harm("infractl-aaaaaaaa-app", func(c *testContainer) { c.Health = "unhealthy" })
	list[1].Cron = false
	err := r.apply(list...)
	if !errs.Is(err, errs.RolledBack) || !strings.Contains(err.Error(), "instance acme: its container app is unhealthy") || errs.HintOf(err) == "" {
		t.Errorf("err = %v", err)
	}
}

func TestFrontThatDoesNotTakeItsConfigurationIsTakenBack(t *testing.T) {
	r, list := two(t)
	r.cfg.FrontWait = 100 * time.Millisecond
	r.engine.badReload = true
	err := r.apply(list[0], changed(list[1], func(i *v1.InstanceSpec) { i.Mode = v1.InstanceMode_INSTANCE_MODE_SUSPENDED }))
	if err == nil || errs.Is(err, errs.RolledBack) {
		t.Errorf("err = %v, want one that is no RolledBack", err)
	}
}

func TestNewVersionOfASecretIsWrittenForThoseWhoReadIt(t *testing.T) {
	r, list := two(t)
	for _, s := range list[0].Secrets {
		s.Version = "v2"
	}
	must(t, r.apply(list...))
	for file, owner := range map[string]int{"db-root": r.uid, "db": r.uid, "admin": r.uid, "web/db": 33, "web/admin": 33, "web/unique-id": 33, "web/cron-key": 33} {
		f, err := r.host.Stat(r.secretsDir("aaaaaaaa") + "/" + file)
		must(t, err)
		if want := "VALUEOF" + strings.ReplaceAll(strings.TrimPrefix(file, "web/"), "-", "") + "0v2"; string(f.Data) != want || f.Mode.Perm() != 0o400 {
			t.Errorf("%s is %q, %v", file, f.Data, f.Mode)
		}
		if r.uid == 0 && f.UID != owner {
			t.Errorf("%s is of %d, want %d", file, f.UID, owner)
		}
	}
	if r.host.Exists(r.secretsDir("aaaaaaaa") + "/web/db-root") {
		t.Error("the web user has the database's root password")
	}
	if strings.Contains(r.exposed(), "VALUEOF") {
		t.Error("the engine shows a secret")
	}
}

func TestLeftInstanceIsStoppedAndKeepsItsData(t *testing.T) {
	r, list := two(t)
	must(t, r.apply(list[1]))
	if r.running("infractl-aaaaaaaa-db") || r.running("infractl-aaaaaaaa-app") || !r.running("infractl-bbbbbbbb-app") {
		t.Error("acme left, and beta stays")
	}
	volumes, err := r.engine.Volumes(t.Context(), LabelID+"=aaaaaaaa")
	if err != nil || len(volumes) != 3 || !r.host.Exists(r.confFile("aaaaaaaa")) || !r.host.Exists(r.secretsDir("aaaaaaaa")+"/db") {
		t.Errorf("volumes %v, %v", volumes, err)
	}
	if done, err := r.Repair(t.Context()); err != nil || len(done) > 0 {
		t.Errorf("it comes back: %q, %v", done, err)
	}
	must(t, r.apply(list...))
	if !r.running("infractl-aaaaaaaa-app") {
		t.Error("it does not run again")
	}
}

func TestNetworkMadeAnewByHandGetsItsContainersBack(t *testing.T) {
	r, list := two(t)
	before := r.engine.find("infractl-aaaaaaaa-db").ID
	networkGone(r.engine)
	must(t, r.apply(list...))
	if r.engine.find("infractl-aaaaaaaa-db").ID == before {
		t.Error("a container of the network that is gone is started: the engine knows networks by their id")
	}
}

func TestLimitsOfADeadContainerKeepNothingBack(t *testing.T) {
	r, list := two(t)
	r.harm("infractl-aaaaaaaa-app", func(c *testContainer) { c.State = "dead" })
	list[0].Limits.Pids = 300
	must(t, r.apply(list...))
	if c := r.engine.find("infractl-aaaaaaaa-app"); c.State != "running" || c.spec.PIDs != 300 {
		t.Errorf("it is %s with %d processes", c.State, c.spec.PIDs)
	}
}

func TestNetworkLostWhileSuspendedIsNoMatterOnceResumed(t *testing.T) {
	r, list := two(t)
	list[0].Mode = v1.InstanceMode_INSTANCE_MODE_SUSPENDED
	must(t, r.apply(list...))
	networkGone(r.engine)
	must(t, r.apply(list...))
	if c := r.engine.find("infractl-aaaaaaaa-db"); c != nil {
		t.Error("a container of the network that is gone stays: the engine will not start it")
	}
	list[0].Mode = runningMode
	must(t, r.apply(list...))
	if !r.running("infractl-aaaaaaaa-app") {
		t.Error("it does not run")
	}
}

func TestMissingImageStopsNothing(t *testing.T) {
	r, list := two(t)
	before := r.engine.find("infractl-aaaaaaaa-db").ID
	delete(r.engine.images, "infractl/mariadb:10.11")
	list[0].Limits.Pids, list[0].Timezone = 300, "UTC"
	if err := r.apply(list...); err == nil || !strings.Contains(err.Error(), "image infractl/mariadb:10.11: ") {
		t.Errorf("err = %v", err)
	}
	if c := r.engine.find("infractl-aaaaaaaa-db"); c.ID != before || c.State != "running" {
		t.Error("the database was stopped for an image that is not there")
	}
}

func TestLimitThatIsTakenAwayNeedsANewContainer(t *testing.T) {
	r, list := two(t)
	list[0].Limits = &v1.InstanceLimits{Pids: 256}
	must(t, r.apply(list...))
	if c := r.engine.find("infractl-aaaaaaaa-app"); c.spec.MemoryBytes != 0 || c.spec.MilliCPUs != 0 {
		t.Errorf("limits stay: %d, %d", c.spec.MemoryBytes, c.spec.MilliCPUs)
	}
}

// BenchmarkPlanWithoutChange looks at a host with 100 instances.
func BenchmarkPlanWithoutChange(b *testing.B) {
	r := newTaskRig(b)
	var list []*v1.InstanceSpec
	for i := range 100 {
		inst := testInstance(fmt.Sprintf("bench%03d", i), fmt.Sprintf("bench-%03d", i))
		inst.Mode, inst.Cron, inst.Subnet = runningMode, true, fmt.Sprintf("10.210.%d.%d/28", i/16, i%16*16)
		r.placed(inst)
		list = append(list, inst)
	}
	must(b, r.apply(list...))
	b.ReportAllocs()
	for b.Loop() {
		if pl, err := r.Plan(b.Context(), want(list...)); err != nil || len(pl.Changes) > 0 {
			b.Fatal(pl.Changes, err)
		}
	}
}

func TestScheduledJobsGetTheToolOfANewAgent(t *testing.T) {
	r, list := two(t)
	ids := func() (out []string) {
		for _, inst := range list {
			for _, part := range parts() {
				out = append(out, r.engine.find(containerName(inst.GetId(), part)).ID)
			}
		}
		return out
	}
	before := ids()
	r.restarted()
	if done, err := r.Repair(t.Context()); err != nil || len(done) > 0 || !slices.Equal(before, ids()) {
		t.Errorf("by the same agent: %q, %v", done, err)
	}
	r.restarted()
	r.tool = "another"
	done, err := r.Repair(t.Context())
	if err != nil || len(done) != 2 || !strings.Contains(done[0], "another tool") {
		t.Errorf("repaired: %q, %v", done, err)
	}
	for i, id := range ids() {
		if cron := i%3 == 2; (id != before[i]) != cron {
			t.Errorf("%s of %s was made anew: %t", parts()[i%3], list[i/3].GetName(), id != before[i])
		}
	}
	if changes, err := r.Plan(t.Context(), want(list...)); err != nil || len(changes.Changes) > 0 {
		t.Errorf("afterwards: %v, %v", changes.Changes, err)
	}
}
