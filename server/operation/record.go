package operation

import (
	"encoding/json"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// The kinds of records that this package owns.
const (
	// KindOperation holds operations by id, which sort by age.
	KindOperation store.Kind = "operation"
	// KindTarget holds, by target, the operation that has not ended; what is open is found here.
	KindTarget store.Kind = "operation.target"
)

const leaseName = "operation"

// Short names of the states.
const (
	running   = v1.OperationState_OPERATION_STATE_RUNNING
	paused    = v1.OperationState_OPERATION_STATE_PAUSED
	succeeded = v1.OperationState_OPERATION_STATE_SUCCEEDED
	failed    = v1.OperationState_OPERATION_STATE_FAILED
	halted    = v1.OperationState_OPERATION_STATE_HALTED
	canceled  = v1.OperationState_OPERATION_STATE_CANCELED
	undoing   = v1.OperationState_OPERATION_STATE_UNDOING
	stuck     = v1.OperationState_OPERATION_STATE_STUCK

	stepQueued  = v1.StepState_STEP_STATE_QUEUED
	stepRunning = v1.StepState_STEP_STATE_RUNNING
	stepDone    = v1.StepState_STEP_STATE_DONE
	stepFailed  = v1.StepState_STEP_STATE_FAILED
	stepUndone  = v1.StepState_STEP_STATE_UNDONE
	stepSkipped = v1.StepState_STEP_STATE_SKIPPED
)

// target says which operation works on something.
type target struct {
	ID string `json:"id"`
}

// record is one operation.
type record struct {
	ID       string            `json:"id"`
	Kind     string            `json:"kind"`
	Target   string            `json:"target"`
	Params   json.RawMessage   `json:"params,omitempty"`
	State    v1.OperationState `json:"state"`
	Operator string            `json:"operator"`
	Created  time.Time         `json:"created"`
	Updated  time.Time         `json:"updated"`
	Ended    time.Time         `json:"ended"`
	Message  string            `json:"message,omitempty"`
	Hint     string            `json:"hint,omitempty"`
	Steps    []step            `json:"steps"`
	// Values are what steps keep.
	Values map[string]json.RawMessage `json:"values,omitempty"`
	// Undoing says that it goes backwards, also while it is stuck.
	Undoing bool `json:"undoing,omitempty"`
	// CancelBy and PausedBy are who wants it so.
	CancelBy string `json:"cancel_by,omitempty"`
	PausedBy string `json:"paused_by,omitempty"`
	// RetryAt is when the step at hand is tried again; zero for at once.
	RetryAt time.Time `json:"retry_at"`
}

// step is one step of a record.
type step struct {
	Name  string       `json:"name"`
	Node  string       `json:"node,omitempty"`
	State v1.StepState `json:"state"`
	// Begun says that Do may have done something.
	Begun bool `json:"begun,omitempty"`
	// Attempts counts runs of Do, Undos those of Undo; both number tasks. Active says that the last one has not ended.
	Attempts uint32 `json:"attempts,omitempty"`
	Undos    uint32 `json:"undos,omitempty"`
	Active   bool   `json:"active,omitempty"`
	// Waits counts the runs in a row that met nobody.
	Waits   uint32    `json:"waits,omitempty"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Message string    `json:"message,omitempty"`
	// Tasks are the tasks whose result is not known, by their place in a run.
	Tasks map[string]string `json:"tasks,omitempty"`
}

// Ended reports whether an operation in this state is over: nothing holds its target any more.
func Ended(s v1.OperationState) bool {
	switch s {
	case succeeded, failed, canceled, v1.OperationState_OPERATION_STATE_SUPERSEDED, v1.OperationState_OPERATION_STATE_INCOMPLETE:
		return true
	}
	return false
}

// Still reports whether an operation in this state moves no further by itself: it ended, or a person must look.
func Still(s v1.OperationState) bool { return Ended(s) || s == halted || s == stuck }

func (r *record) toProto(said string) *v1.Operation {
	out := &v1.Operation{
		Id: r.ID, Kind: r.Kind, Target: r.Target, State: r.State, Operator: r.Operator, Created: stamp(r.Created),
		Updated: stamp(r.Updated), Ended: stamp(r.Ended), Message: r.Message, Hint: r.Hint,
	}
	for _, s := range r.Steps {
		p := &v1.OperationStep{
			Name: s.Name, Node: s.Node, State: s.State, Attempts: s.Attempts, Started: stamp(s.Started), Ended: stamp(s.Ended),
			Message: s.Message,
		}
		if s.Active && said != "" {
			p.Message = said
		}
		out.Steps = append(out.Steps, p)
	}
	return out
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
