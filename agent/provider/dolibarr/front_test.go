package dolibarr

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const runningMode = v1.InstanceMode_INSTANCE_MODE_RUNNING

// frontRig has the networks of two instances.
func frontRig(t *testing.T) (*taskRig, *v1.DolibarrSpec) {
	t.Helper()
	r := newTaskRig(t)
	for _, id := range []string{"aaaaaaaa", "bbbbbbbb"} {
		must(t, r.engine.CreateNetwork(t.Context(), networkName(id), "", map[string]string{LabelID: id}))
	}
	return r, frontSpec(frontInstance("acme", "aaaaaaaa", "fr", runningMode), frontInstance("beta", "bbbbbbbb", "en", v1.InstanceMode_INSTANCE_MODE_SUSPENDED))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *taskRig) front() *testContainer {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	return r.engine.find(frontName)
}

func (r *taskRig) inSync(spec *v1.DolibarrSpec) {
	r.t.Helper()
	changes, err := r.frontPlan(r.t.Context(), spec)
	if err != nil || len(changes) > 0 {
		r.t.Errorf("plan after apply: %v, %v", changes, err)
	}
	must(r.t, r.frontVerify(r.t.Context(), spec))
}

func TestFrontFollowsTheWish(t *testing.T) {
	r, spec := frontRig(t)
	ctx := t.Context()
	changes, err := r.frontPlan(ctx, spec)
	if err != nil || len(changes) != 1 || r.front() != nil {
		t.Fatalf("first plan: %v, %v", changes, err)
	}
	must(t, r.frontApply(ctx, spec))
	r.inSync(spec)
	first := r.front()
	if got := first.Networks; !slices.Equal(got, []string{frontNetwork, networkName("aaaaaaaa")}) {
		t.Errorf("the front is in %v", got)
	}
	if p := first.spec.Ports; len(p) != 1 || p[0].Address.String() != "10.0.10.20" {
		t.Errorf("published on %v", p)
	}

	spec.Instances[0].Mode, spec.Instances[1].Mode = v1.InstanceMode_INSTANCE_MODE_CLOSED, runningMode
	if changes, err = r.frontPlan(ctx, spec); err != nil || len(changes) != 3 {
		t.Errorf("plan of two changed modes: %v, %v", changes, err)
	}
	must(t, r.frontApply(ctx, spec))
	r.inSync(spec)
	if r.front().ID != first.ID || r.engine.reloads != 1 {
		t.Errorf("another container, or %d reloads", r.engine.reloads)
	}
	if got := r.front().Networks; !slices.Equal(got, []string{frontNetwork, networkName("bbbbbbbb")}) {
		t.Errorf("the front is in %v", got)
	}
	must(t, r.frontApply(ctx, spec))
	if r.engine.reloads != 1 {
		t.Error("an apply without changes reloads")
	}

	r.engine.images["infractl/front:1"] = "sha256:newer"
	if changes, err = r.frontPlan(ctx, spec); err != nil || len(changes) != 1 {
		t.Errorf("plan of a new image: %v, %v", changes, err)
	}
	must(t, r.frontApply(ctx, spec))
	r.inSync(spec)
	if r.front().ID == first.ID {
		t.Error("a new image changes nothing")
	}

	must(t, r.frontApply(ctx, &v1.DolibarrSpec{}))
	if changes, err = r.frontPlan(ctx, &v1.DolibarrSpec{}); err != nil || len(changes) > 0 || r.front() != nil || r.host.Exists(r.frontDir()) {
		t.Errorf("something of the front is left: %v, %v", changes, err)
	}
}

func TestFrontComesBack(t *testing.T) {
	for name, harm := range map[string]func(*taskRig){
		"a stopped container": func(r *taskRig) { r.front().State = "exited" },
		"another configuration": func(r *taskRig) {
			r.engine.loaded = strings.Replace(r.engine.loaded, "ok ", "ok 0", 1)
		},
		"a changed file":  func(r *taskRig) { must(r.t, r.host.Remove(r.frontFile())) },
		"a left network":  func(r *taskRig) { r.front().Networks = []string{frontNetwork} },
		"no container":    func(r *taskRig) { must(r.t, r.engine.RemoveContainer(r.t.Context(), r.front().ID)) },
		"another network": func(r *taskRig) { must(r.t, r.engine.Connect(r.t.Context(), networkName("bbbbbbbb"), r.front().ID)) },
	} {
		t.Run(name, func(t *testing.T) {
			r, spec := frontRig(t)
			must(t, r.frontApply(t.Context(), spec))
			harm(r)
			if changes, err := r.frontPlan(t.Context(), spec); err != nil || len(changes) == 0 {
				t.Fatalf("plan: %v, %v", changes, err)
			}
			must(t, r.frontApply(t.Context(), spec))
			r.inSync(spec)
		})
	}
}

func TestMissingNetworkStopsNoOther(t *testing.T) {
	r, spec := frontRig(t)
	spec.Instances = append(spec.Instances, frontInstance("lost", "00000000", "fr", runningMode))
	err := r.frontApply(t.Context(), spec)
	if err == nil || !strings.HasPrefix(err.Error(), "instance lost: ") {
		t.Errorf("err = %v", err)
	}
	if !slices.Contains(r.front().Networks, networkName("aaaaaaaa")) || !strings.Contains(r.engine.loaded, "lost.example.test") {
		t.Error("the others were stopped")
	}
}

func TestRefusedConfigurationIsSaid(t *testing.T) {
	r, spec := frontRig(t)
	must(t, r.frontApply(t.Context(), spec))
	r.engine.badReload = true
	spec.Instances[0].Mode = v1.InstanceMode_INSTANCE_MODE_CLOSED
	ctx, cancel := context.WithTimeout(t.Context(), 1e8)
	defer cancel()
	if err := r.frontApply(ctx, spec); err == nil || !strings.Contains(err.Error(), "no such module") {
		t.Errorf("err = %v", err)
	}
}

func TestFrontRefusesAddressesOfEverybody(t *testing.T) {
	r, spec := frontRig(t)
	spec.Front.ListenAddresses = []string{"0.0.0.0"}
	if err := r.frontApply(t.Context(), spec); !errs.Is(err, errs.Invalid) {
		t.Errorf("err = %v", err)
	}
}

func TestFrontIsMadeAnewAfterAFaultAnywhere(t *testing.T) {
	for n := 1; ; n++ {
		r, spec := frontRig(t)
		count := 0
		r.engine.fault = func(op string) error {
			if count++; count == n {
				return errs.New(errs.Internal, "fault at %s", op)
			}
			return nil
		}
		err := r.frontApply(t.Context(), spec)
		if count < n {
			if n < 4 {
				t.Errorf("only %d points", n)
			}
			return
		}
		if err == nil {
			continue // it was tried again at once
		}
		must(t, r.frontApply(t.Context(), spec))
		r.inSync(spec)
	}
}

func TestFrontShowsThePageBeforeAnApplicationStops(t *testing.T) {
	r := newTaskRig(t)
	inst := testInstance(acmeID, "acme")
	r.do(installTask(inst, false))
	inst.Mode = runningMode
	spec := frontSpec(inst)
	apply := func() {
		pl, err := r.Plan(t.Context(), wish{Spec: spec})
		must(t, err)
		must(t, r.Apply(t.Context(), pl))
	}
	apply()
	stops := 0
	r.engine.fault = func(op string) error {
		if op == "stop" {
			if stops++; strings.Contains(r.engine.loaded, containerName(acmeID, "app")) {
				t.Error("the front still passes requests on")
			}
		}
		return nil
	}
	inst.Mode = v1.InstanceMode_INSTANCE_MODE_SUSPENDED
	apply()
	if stops != 2 {
		t.Errorf("%d containers were stopped, want application and database", stops)
	}
}
