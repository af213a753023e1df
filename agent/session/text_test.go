package session

import (
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestEveryResultCanBeSent(t *testing.T) {
	const latin1 = "caf\xe9"
	result := &v1.TaskResult{TaskId: "t1", Error: &v1.TaskError{Message: latin1}, Outcome: &v1.TaskResult_Apply{Apply: &v1.ApplyResult{
		Phases: []*v1.PhaseResult{{Changes: []*v1.Change{{Subject: latin1, Before: []string{"x", latin1}}}}},
		State:  &v1.HostState{Degraded: []string{latin1}}}}}
	if _, err := proto.Marshal(result); err == nil {
		t.Fatal("this can be sent as it is")
	}
	validText(result)
	if _, err := proto.Marshal(result); err != nil {
		t.Error(err)
	}
	if got := result.GetApply().GetPhases()[0].GetChanges()[0].GetBefore(); got[0] != "x" || got[1] != "caf?" {
		t.Errorf("got %q", got)
	}
}
