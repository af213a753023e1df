package dolibarr

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

type coreRig struct {
	*taskRig
	inst *v1.InstanceSpec
}

func newCore(t *testing.T) *coreRig {
	r := newTaskRig(t)
	inst := testInstance("abcdefgh", "acme")
	r.do(installTask(inst, false))
	inst.Mode = v1.InstanceMode_INSTANCE_MODE_RUNNING
	c := &coreRig{r, inst}
	c.must(inst)
	return c
}

func (c *coreRig) plan(insts ...*v1.InstanceSpec) plan {
	c.t.Helper()
	pl, err := c.Plan(c.t.Context(), wish{Spec: &v1.DolibarrSpec{Instances: insts}})
	if err != nil {
		c.t.Fatal(err)
	}
	return pl
}
func (c *coreRig) must(insts ...*v1.InstanceSpec) {
	c.t.Helper()
	if err := c.Apply(c.t.Context(), c.plan(insts...)); err != nil {
		c.t.Fatal(err)
	}
}
func (c *coreRig) mem(part string) int64 {
	return c.engine.find(containerName("abcdefgh", part)).spec.MemoryBytes >> 20
}
func (c *coreRig) with(f func(*v1.InstanceSpec)) *v1.InstanceSpec {
	i := proto.Clone(c.inst).(*v1.InstanceSpec)
	f(i)
	return i
}

func TestLimitsChangedWhileSuspended(t *testing.T) {
	c := newCore(t)
	big := c.with(func(i *v1.InstanceSpec) {
		i.Limits.MemoryBytes = 1024 << 20
		i.Mode = v1.InstanceMode_INSTANCE_MODE_SUSPENDED
	})
	before := c.mem("db")
	c.must(big)
	big = proto.Clone(big).(*v1.InstanceSpec)
	big.Mode = v1.InstanceMode_INSTANCE_MODE_RUNNING
	c.must(big)
	if c.mem("db") == before {
		t.Errorf("db still has %d MiB after resume with doubled limits; plan now: %v", before, c.plan(big).Changes)
	}
}

func TestRollbackOfLimits(t *testing.T) {
	c := newCore(t)
	before := c.mem("db")
	pl := c.plan(c.with(func(i *v1.InstanceSpec) { i.Limits.MemoryBytes = 1024 << 20 }))
	snap, err := c.Snapshot(t.Context(), pl)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(t.Context(), pl); err != nil {
		t.Fatal(err)
	}
	if err := c.Rollback(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	if c.mem("db") != before {
		t.Errorf("after Rollback db has %d MiB, had %d; plan: %v", c.mem("db"), before, c.plan(c.inst).Changes)
	}
}

func TestRollbackOfAddress(t *testing.T) {
	c := newCore(t)
	pl := c.plan(c.with(func(i *v1.InstanceSpec) { i.Domains = []string{"new.example.test"} }))
	snap, err := c.Snapshot(t.Context(), pl)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(t.Context(), pl); err != nil {
		t.Fatal(err)
	}
	if err := c.Rollback(t.Context(), snap); err != nil {
		t.Fatal(err)
	}
	last := c.engine.inputs[len(c.engine.inputs)-1]
	if !strings.Contains(last, "acme.example.test") {
		t.Errorf("conf.php after Rollback is of %s; plan: %v", last, c.plan(c.inst).Changes)
	}
}

func TestBringBackOfAddress(t *testing.T) {
	c := newCore(t)
	moved := c.with(func(i *v1.InstanceSpec) { i.Name, i.Domains = "other", []string{"new.example.test"} })
	pl := c.plan(moved)
	once := true
	c.engine.fault = func(op string) error {
		if once && strings.HasSuffix(op, "-app") && strings.HasPrefix(op, "create") {
			once = false
			return errs.New(errs.Internal, "boom")
		}
		return nil
	}
	err := c.Apply(t.Context(), pl)
	last := c.engine.inputs[len(c.engine.inputs)-1]
	if !errs.Is(err, errs.RolledBack) {
		t.Fatal(err)
	}
	if !strings.Contains(last, "acme.example.test") {
		t.Errorf("Apply says RolledBack, conf.php is of %s", last)
	}
}

func TestSubnetChange(t *testing.T) {
	c := newCore(t)
	pl := c.plan(c.with(func(i *v1.InstanceSpec) { i.Subnet = "10.210.1.0/28" }))
	t.Logf("plan: %v", pl.Changes)
	if len(pl.Changes) == 0 {
		t.Errorf("Plan does not see another subnet")
	}
	pl = c.plan(c.with(func(i *v1.InstanceSpec) { i.Subnet = "10.210.1.0/28"; i.Limits.Pids = 300 }))
	if err := c.Apply(t.Context(), pl); err != nil {
		t.Errorf("Apply: %v", err)
	}
}

func TestMemoryKeepsContainers(t *testing.T) {
	c := newCore(t)
	id := c.engine.find(containerName("abcdefgh", "app")).ID
	c.must(c.with(func(i *v1.InstanceSpec) { i.Limits.MemoryBytes = 1024 << 20 }))
	if got := c.engine.find(containerName("abcdefgh", "app")).ID; got != id {
		t.Errorf("app was recreated (%s -> %s) for a change of memory", id, got)
	}
}

func TestFailedNewOneIsStopped(t *testing.T) {
	r := newCore(t)
	inst := testInstance("ijklmnop", "beta")
	r.do(installTask(inst, false))
	inst.Mode = v1.InstanceMode_INSTANCE_MODE_RUNNING
	r.engine.fault = func(op string) error {
		if op == "create infractl-ijklmnop-app" {
			return errs.New(errs.Internal, "boom")
		}
		return nil
	}
	err := r.Apply(t.Context(), r.plan(r.inst, inst))
	t.Log(err)
	if s := r.engine.find("infractl-ijklmnop-db").State; s == "running" {
		t.Errorf("bringBack's comment says a new one is stopped: its db is %s", s)
	}
}

func TestLeftThatCannotStopKeepsNobodyBack(t *testing.T) {
	r := newCore(t)
	inst := testInstance("ijklmnop", "beta")
	r.do(installTask(inst, false))
	r.engine.fault = func(op string) error {
		if op == "stop" {
			return errs.New(errs.Internal, "boom")
		}
		return nil
	}
	inst.Mode = v1.InstanceMode_INSTANCE_MODE_RUNNING
	err := r.Apply(t.Context(), r.plan(inst))
	if r.engine.find("infractl-ijklmnop-app") == nil {
		t.Errorf("beta was not brought up since a container of one that left cannot be stopped: %v", err)
	}
}

func TestImageThatCannotBeHadIsItsInstancesFailureAlone(t *testing.T) {
	r := newCore(t)
	inst := testInstance("ijklmnop", "beta")
	r.do(installTask(inst, false))
	old := proto.Clone(inst).(*v1.InstanceSpec)
	r.must(r.inst, old)
	inst.Mode, inst.AppImage = v1.InstanceMode_INSTANCE_MODE_RUNNING, &v1.StackImage{Use: "infractl/dolibarr:0.0.1"}
	other := r.with(func(i *v1.InstanceSpec) { i.Cron = true })
	spec := &v1.DolibarrSpec{Instances: []*v1.InstanceSpec{other, inst}}
	if err := r.Stage(t.Context(), spec); err != nil {
		t.Fatalf("Stage keeps all instances back: %v", err)
	}
	err := r.Apply(t.Context(), r.plan(spec.Instances...))
	if !errs.Is(err, errs.RolledBack) || !strings.Contains(err.Error(), "instance beta: image infractl/dolibarr:0.0.1: ") {
		t.Errorf("Apply: %v", err)
	}
	if c := r.engine.find("infractl-abcdefgh-cron"); c == nil || c.State != "running" {
		t.Error("the other instance was kept back")
	}
	if c := r.engine.find("infractl-ijklmnop-db"); c == nil || c.State != "running" {
		t.Error("the database of the one that failed does not run as before")
	}
}
