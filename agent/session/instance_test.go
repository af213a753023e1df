package session_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/agent/session/sessiontest"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// fakeInstances holds an installation until the test lets it go, and refuses the rest.
type fakeInstances struct{ hold chan struct{} }

func (f *fakeInstances) Do(ctx context.Context, task *v1.InstanceTask) (*v1.InstanceResult, error) {
	if task.GetInstall() == nil {
		return &v1.InstanceResult{Removed: []string{"volume x"}}, errs.New(errs.Precondition, "no").WithHint("look")
	}
	select {
	case <-f.hold:
	case <-ctx.Done():
	}
	return &v1.InstanceResult{Version: "19.0.4"}, ctx.Err()
}

func instanceTask(id string, task *v1.InstanceTask) *v1.Task {
	return &v1.Task{Id: id, NotAfter: timestamppb.New(time.Now().Add(time.Hour)), Work: &v1.Task_Instance{Instance: task}}
}

func TestInstallationDoesNotHoldTheSession(t *testing.T) {
	a := newAgent(t, sessiontest.New(t, nil))
	work := &fakeInstances{hold: make(chan struct{})}
	a.instances = work
	x := a.start()
	x.SendTask(t, instanceTask("i1", &v1.InstanceTask{Action: &v1.InstanceTask_Install{Install: &v1.InstallInstance{}}}))
	x.SendTask(t, planTask("p1"))
	x.Result(t, "p1")
	close(work.hold)
	if r := x.Result(t, "i1"); r.GetError() != nil || r.GetInstance().GetVersion() != "19.0.4" {
		t.Errorf("got %v", r)
	}
}

func TestFailedInstanceTaskSaysWhatWasDone(t *testing.T) {
	a := newAgent(t, sessiontest.New(t, nil))
	a.instances = &fakeInstances{}
	x := a.start()
	x.SendTask(t, instanceTask("i1", &v1.InstanceTask{Action: &v1.InstanceTask_Purge{Purge: &v1.PurgeInstance{}}}))
	if r := x.Result(t, "i1"); r.GetError().GetCode() != string(errs.Precondition) || len(r.GetInstance().GetRemoved()) != 1 {
		t.Errorf("got %v", r)
	}
}

func TestAgentWithoutInstancesRefusesTheirTasks(t *testing.T) {
	a := newAgent(t, sessiontest.New(t, nil))
	x := a.start()
	x.SendTask(t, instanceTask("i1", &v1.InstanceTask{Action: &v1.InstanceTask_Inventory{Inventory: &v1.InventoryInstances{}}}))
	if r := x.Result(t, "i1"); r.GetError().GetCode() != string(errs.Denied) {
		t.Errorf("got %v", r)
	}
}

type fakePublic struct{}

func (fakePublic) Public(_ context.Context, task *v1.PublicTask) (*v1.PublicResult, error) {
	return &v1.PublicResult{Names: []*v1.PublicSight{{Name: task.GetNames()[0].GetName(), State: v1.PublicState_PUBLIC_STATE_SERVED}}}, nil
}

func TestPublicTaskIsForAgentsWithAProxy(t *testing.T) {
	task := func(id string) *v1.Task {
		return &v1.Task{Id: id, NotAfter: timestamppb.New(time.Now().Add(time.Hour)),
			Work: &v1.Task_Public{Public: &v1.PublicTask{Names: []*v1.PublicName{{Name: "acme.example.test"}}}}}
	}
	with := newAgent(t, sessiontest.New(t, nil))
	with.public = fakePublic{}
	x := with.start()
	x.SendTask(t, task("p1"))
	if r := x.Result(t, "p1"); r.GetError() != nil || r.GetPublic().GetNames()[0].GetName() != "acme.example.test" {
		t.Errorf("got %v", r)
	}
	y := newAgent(t, sessiontest.New(t, nil)).start()
	y.SendTask(t, task("p1"))
	if r := y.Result(t, "p1"); r.GetError().GetCode() != string(errs.Denied) {
		t.Errorf("an agent without one: %v", r)
	}
}
