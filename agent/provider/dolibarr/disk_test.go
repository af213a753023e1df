package dolibarr

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const diskMiB = 1 << 20

func TestWhenAnInstanceIsFull(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		holding
		limit uint64
		want  bool
	}{
		"not measured":                     {holding{}, 1, false},
		"no limit":                         {holding{Bytes: 500, Measured: now}, 0, false},
		"below":                            {holding{Bytes: 9_999, Measured: now}, 10_000, false},
		"at the limit":                     {holding{Bytes: 10_000, Measured: now}, 10_000, true},
		"a little below, it was":           {holding{Bytes: 9_600, Measured: now, Full: true, Limit: 10_000}, 10_000, true},
		"clearly below, it was":            {holding{Bytes: 9_400, Measured: now, Full: true, Limit: 10_000}, 10_000, false},
		"a little below a raised limit":    {holding{Bytes: 10_000, Measured: now, Full: true, Limit: 10_000}, 10_100, false},
		"above a raised limit":             {holding{Bytes: 20_000, Measured: now, Full: true, Limit: 10_000}, 10_100, true},
		"a little below a lowered limit":   {holding{Bytes: 9_600, Measured: now, Full: true, Limit: 12_000}, 10_000, true},
		"below a lowered limit, it wasn't": {holding{Bytes: 9_600, Measured: now, Limit: 12_000}, 10_000, false},
	} {
		if got := c.full(c.limit); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// diskRig has an instance that runs behind a front.
type diskRig struct {
	*taskRig
	inst *v1.InstanceSpec
	spec *v1.DolibarrSpec
}

func newDisk(t *testing.T) *diskRig {
	r := newTaskRig(t)
	inst := testInstance(acmeID, "acme")
	r.do(installTask(inst, false))
	inst.Mode = runningMode
	inst.Limits.DiskBytes = 100 * diskMiB
	d := &diskRig{r, inst, frontSpec(inst)}
	d.apply()
	return d
}

func (d *diskRig) apply() {
	d.t.Helper()
	pl, err := d.Plan(d.t.Context(), wish{Spec: d.spec})
	must(d.t, err)
	if len(pl.Changes) == 0 {
		return // nothing is asked of a provider then
	}
	must(d.t, d.Apply(d.t.Context(), pl))
	must(d.t, d.Verify(d.t.Context(), wish{Spec: d.spec}))
	if pl, err = d.Plan(d.t.Context(), wish{Spec: d.spec}); err != nil || len(pl.Changes) > 0 {
		d.t.Errorf("after an apply: %v, %v", pl.Changes, err)
	}
}

// fill makes documents hold so much.
func (d *diskRig) fill(mib int) {
	d.t.Helper()
	file := filepath.Join(d.root, "volumes", volumeName(acmeID, "documents"), "_data", "filler")
	must(d.t, os.WriteFile(file, []byte(strings.Repeat("x", mib<<20)), 0o600))
}

func (d *diskRig) measure() {
	d.t.Helper()
	d.disk.asked[acmeID] = true
	must(d.t, d.measureDisk(d.t.Context(), notBeside))
}

func notBeside(_ context.Context, f func()) error { f(); return nil }

func (d *diskRig) refuses() bool { return strings.Contains(d.engine.loaded, "507") }

func TestFullInstanceTakesNothingIn(t *testing.T) {
	d := newDisk(t)
	d.fill(101)
	d.measure()
	if !d.refuses() {
		t.Fatal("uploads are let in above the limit")
	}
	reloads := d.engine.reloads
	d.measure()
	d.apply()
	d.restarted()
	if _, err := d.Repair(t.Context()); err != nil || d.engine.reloads != reloads || !d.refuses() {
		t.Errorf("the front was changed again: %d reloads, %v", d.engine.reloads-reloads, err)
	}
	d.apply()
	must(t, d.Verify(t.Context(), wish{Spec: d.spec}))
	d.fill(97)
	d.measure()
	if !d.refuses() {
		t.Error("it ends a little below the limit")
	}
	d.fill(80)
	d.measure()
	if d.refuses() {
		t.Error("it does not end clearly below the limit")
	}
	list, size, free := d.Disk()
	if len(list) != 1 || list[0].GetId() != acmeID || list[0].GetFull() || list[0].GetBytes() < 80*diskMiB || list[0].GetLimitBytes() != 100*diskMiB ||
		size == 0 || free == 0 {
		t.Errorf("it tells %v, %d, %d", list, size, free)
	}
}

func TestLimitCountsAtOnce(t *testing.T) {
	d := newDisk(t)
	d.fill(90)
	d.measure()
	d.limit(80)
	if !d.refuses() || !d.disk.asked[acmeID] {
		t.Error("a lower limit does not count, or is not measured for")
	}
	d.limit(91)
	if d.refuses() {
		t.Error("a higher limit does not count")
	}
	d.fill(120)
	must(t, d.measureDisk(t.Context(), notBeside))
	if !d.refuses() {
		t.Error("it was not measured after an apply")
	}
}

func (d *diskRig) limit(mib uint64) {
	d.t.Helper()
	d.inst.Limits.DiskBytes = mib * diskMiB
	pl, err := d.Plan(d.t.Context(), wish{Spec: d.spec})
	if err != nil || len(pl.Changes) == 0 {
		d.t.Errorf("a plan of another limit: %v, %v", pl.Changes, err)
	}
	d.apply()
}

func TestNothingIsMeasuredBeforeItsTurn(t *testing.T) {
	d := newDisk(t)
	clk := clock.NewFake(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	d.cfg.Clock = clk
	d.measure()
	turn := func() bool { return len(d.unmeasured(d.spec)) > 0 }
	if d.apply(); turn() {
		t.Error("an apply without changes makes it be measured")
	}
	clk.Advance(diskSoon)
	if turn() {
		t.Error("it is measured although it is far from its limit")
	}
	clk.Advance(diskEvery)
	if !turn() {
		t.Error("its turn does not come")
	}
	d.fill(95)
	d.measure()
	if clk.Advance(diskSoon); !turn() {
		t.Error("one near its limit waits")
	}
	d.restarted()
	if d.cfg.Clock = clk; !turn() {
		t.Error("its turn does not come in a new process")
	}
	d.measure()
	d.restarted()
	if d.cfg.Clock = clk; turn() {
		t.Error("a new process measures all anew")
	}
}

func TestFrontThatFailsIsMended(t *testing.T) {
	d := newDisk(t)
	d.fill(101)
	d.disk.asked[acmeID] = true
	d.engine.fault = func(op string) error {
		if strings.HasPrefix(op, "run caddy") {
			return errs.New(errs.Internal, "fault at %s", op)
		}
		return nil
	}
	if err := d.measureDisk(t.Context(), notBeside); err == nil || d.refuses() {
		t.Fatalf("the front took it, or nothing was said: %v", err)
	}
	d.engine.fault = func(string) error { return nil }
	d.restarted()
	if _, err := d.Repair(t.Context()); err != nil || !d.refuses() {
		t.Errorf("the front was not mended: %v", err)
	}
}

func TestWhatIsNotThereHoldsNothing(t *testing.T) {
	d := newDisk(t)
	for _, part := range volumeParts {
		delete(d.engine.volumes, volumeName(acmeID, part))
	}
	d.measure()
	if list, _, _ := d.Disk(); len(list) != 1 || list[0].GetBytes() > diskMiB {
		t.Errorf("it holds %v", list)
	}
	must(t, d.writeApplied(&v1.DolibarrSpec{Front: d.spec.GetFront()}))
	if list, _, _ := d.Disk(); len(list) != 0 {
		t.Errorf("one that left holds %v", list)
	}
}

func TestWhatAnAdoptedInstanceHolds(t *testing.T) {
	nameless := strings.Repeat("0a", 32)
	inst := &v1.InstanceSpec{Id: acmeID, Adopted: &v1.AdoptedInstance{AppContainer: "acme_dolibarr", DbContainer: "acme_mariadb", Volumes: []string{"acme_data"}}}
	volume := func(name string) docker.Volume { return docker.Volume{Name: name, Path: "/volumes/" + name} }
	mounts := func(names ...string) (out []docker.Mount) {
		for _, n := range names {
			out = append(out, docker.Mount{Volume: n})
		}
		return out
	}
	got := volumesOf(inst, []docker.Volume{volume("acme_data"), volume("shared"), volume(nameless), volume(strings.Repeat("0b", 32))}, []docker.Container{
		{Name: "acme_dolibarr", Mounts: mounts("acme_data", "shared", nameless)}, {Name: "other", Mounts: mounts("shared", strings.Repeat("0b", 32))}})
	if want := []string{"/volumes/acme_data", "/volumes/" + nameless}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
