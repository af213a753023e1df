package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/rollout"
)

// kindRollout is the kind under which rollouts are listed among operations.
const kindRollout = "rollout"

// OperationService implements v1.OperationServiceServer over rollouts and operations of steps. Their ids begin with r and o.
type OperationService struct {
	v1.UnimplementedOperationServiceServer
	cfg Config
}

// ListOperations implements v1.OperationServiceServer.
func (s *OperationService) ListOperations(ctx context.Context, req *v1.ListOperationsRequest) (*v1.ListOperationsResponse, error) {
	limit := bounded(req.GetLimit(), 50, 1000)
	var list []*v1.Operation
	if req.GetKind() != kindRollout {
		operations, err := s.cfg.Operations.List(ctx, limit, req.GetKind(), req.GetOpen())
		if err != nil {
			return nil, err
		}
		list = operations
	}
	if req.GetKind() == "" || req.GetKind() == kindRollout {
		rollouts, err := s.cfg.Rollouts.List(ctx, limit)
		if err != nil {
			return nil, err
		}
		for _, ro := range rollouts {
			if !req.GetOpen() || !rollout.Ended(ro.GetState()) {
				list = append(list, fromRollout(ro))
			}
		}
	}
	slices.SortStableFunc(list, func(a, b *v1.Operation) int {
		return cmp.Compare(b.GetCreated().AsTime().UnixNano(), a.GetCreated().AsTime().UnixNano())
	})
	return &v1.ListOperationsResponse{Operations: list[:min(limit, len(list))]}, nil
}

// GetOperation implements v1.OperationServiceServer.
func (s *OperationService) GetOperation(ctx context.Context, req *v1.GetOperationRequest) (*v1.GetOperationResponse, error) {
	op, err := s.get(ctx, req.GetId())
	return &v1.GetOperationResponse{Operation: op}, err
}

func (s *OperationService) get(ctx context.Context, id string) (*v1.Operation, error) {
	ro, err := isRollout(id)
	if err != nil {
		return nil, err
	}
	if !ro {
		return s.cfg.Operations.Get(ctx, id)
	}
	got, err := s.cfg.Rollouts.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return fromRollout(got), nil
}

func isRollout(id string) (bool, error) {
	switch {
	case strings.HasPrefix(id, "r"):
		return true, nil
	case strings.HasPrefix(id, "o"):
		return false, nil
	}
	return false, errs.New(errs.Invalid, "%.40q is not the id of an operation", id).WithHint("infractl operation list")
}

// WatchOperation implements v1.OperationServiceServer.
func (s *OperationService) WatchOperation(req *v1.WatchOperationRequest, stream grpc.ServerStreamingServer[v1.WatchOperationResponse]) error {
	ctx := stream.Context()
	send := func(op *v1.Operation) error { return stream.Send(&v1.WatchOperationResponse{Operation: op}) }
	ro, err := isRollout(req.GetId())
	if err != nil {
		return err
	}
	if !ro {
		return s.cfg.Operations.Watch(ctx, req.GetId(), send)
	}
	return s.cfg.Rollouts.Watch(ctx, rollout.WatchRequest{ID: req.GetId()}, func(m *v1.WatchRolloutResponse) error {
		return send(fromRollout(m.GetRollout()))
	})
}

// CancelOperation implements v1.OperationServiceServer.
func (s *OperationService) CancelOperation(ctx context.Context, req *v1.CancelOperationRequest) (*v1.CancelOperationResponse, error) {
	op, err := s.steer(ctx, req.GetId(), s.cfg.Rollouts.Cancel, s.cfg.Operations.Cancel)
	return &v1.CancelOperationResponse{Operation: op}, err
}

// PauseOperation implements v1.OperationServiceServer.
func (s *OperationService) PauseOperation(ctx context.Context, req *v1.PauseOperationRequest) (*v1.PauseOperationResponse, error) {
	op, err := s.steer(ctx, req.GetId(), s.cfg.Rollouts.Pause, s.cfg.Operations.Pause)
	return &v1.PauseOperationResponse{Operation: op}, err
}

// ResumeOperation implements v1.OperationServiceServer.
func (s *OperationService) ResumeOperation(ctx context.Context, req *v1.ResumeOperationRequest) (*v1.ResumeOperationResponse, error) {
	resume := func(ctx context.Context, id, _ string) error { return s.cfg.Rollouts.Resume(ctx, id) }
	op, err := s.steer(ctx, req.GetId(), resume, s.cfg.Operations.Resume)
	return &v1.ResumeOperationResponse{Operation: op}, err
}

// RetryOperation implements v1.OperationServiceServer.
func (s *OperationService) RetryOperation(ctx context.Context, req *v1.RetryOperationRequest) (*v1.RetryOperationResponse, error) {
	retry := func(ctx context.Context, id, _ string) error { return s.cfg.Rollouts.Retry(ctx, id) }
	op, err := s.steer(ctx, req.GetId(), retry, s.cfg.Operations.Retry)
	return &v1.RetryOperationResponse{Operation: op}, err
}

func (s *OperationService) steer(ctx context.Context, id string, ofRollout func(context.Context, string, string) error,
	ofOperation func(context.Context, string, string) (*v1.Operation, error)) (*v1.Operation, error) {
	ro, err := isRollout(id)
	if err != nil {
		return nil, err
	}
	if !ro {
		return ofOperation(ctx, id, actor(ctx))
	}
	if err := ofRollout(ctx, id, actor(ctx)); err != nil {
		return nil, err
	}
	return s.get(ctx, id)
}

// fromRollout shows a rollout as an operation whose steps are its nodes, by wave.
func fromRollout(ro *v1.Rollout) *v1.Operation {
	out := &v1.Operation{
		Id: ro.GetId(), Kind: kindRollout, Target: fmt.Sprintf("revision %d", ro.GetRevision()), State: operationState(ro.GetState()),
		Operator: ro.GetOperator(), Created: ro.GetStarted(), Updated: ro.GetEnded(), Ended: ro.GetEnded(),
		Message: joined(ro.GetReason(), ro.GetMessage()),
	}
	if out.Updated == nil {
		out.Updated = ro.GetStarted()
	}
	switch ro.GetState() {
	case v1.RolloutState_ROLLOUT_STATE_PAUSED:
		out.Hint = "infractl operation resume " + ro.GetId()
	case v1.RolloutState_ROLLOUT_STATE_HALTED, v1.RolloutState_ROLLOUT_STATE_INCOMPLETE:
		out.Hint = "infractl operation retry " + ro.GetId()
	}
	for _, n := range ro.GetNodes() {
		step := &v1.OperationStep{
			Name: n.GetNode(), Node: n.GetNode(), Wave: n.GetWave(), Attempts: n.GetAttempts(),
			State: stepState(n.GetState(), rollout.Ended(ro.GetState())), Message: n.GetMessage(),
		}
		if n.GetError() != nil {
			step.Message = n.GetError().GetMessage()
		}
		if step.GetMessage() == "" {
			step.Message = strings.ToLower(strings.TrimPrefix(n.GetState().String(), "NODE_ROLLOUT_STATE_"))
		}
		out.Steps = append(out.Steps, step)
	}
	return out
}

func joined(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}

func operationState(s v1.RolloutState) v1.OperationState {
	switch s {
	case v1.RolloutState_ROLLOUT_STATE_RUNNING:
		return v1.OperationState_OPERATION_STATE_RUNNING
	case v1.RolloutState_ROLLOUT_STATE_PAUSED:
		return v1.OperationState_OPERATION_STATE_PAUSED
	case v1.RolloutState_ROLLOUT_STATE_SUCCEEDED:
		return v1.OperationState_OPERATION_STATE_SUCCEEDED
	case v1.RolloutState_ROLLOUT_STATE_HALTED:
		return v1.OperationState_OPERATION_STATE_HALTED
	case v1.RolloutState_ROLLOUT_STATE_INCOMPLETE:
		return v1.OperationState_OPERATION_STATE_INCOMPLETE
	case v1.RolloutState_ROLLOUT_STATE_CANCELED:
		return v1.OperationState_OPERATION_STATE_CANCELED
	case v1.RolloutState_ROLLOUT_STATE_SUPERSEDED:
		return v1.OperationState_OPERATION_STATE_SUPERSEDED
	}
	return v1.OperationState_OPERATION_STATE_UNSPECIFIED
}

func stepState(s v1.NodeRolloutState, ended bool) v1.StepState {
	switch s {
	case v1.NodeRolloutState_NODE_ROLLOUT_STATE_DONE:
		return v1.StepState_STEP_STATE_DONE
	case v1.NodeRolloutState_NODE_ROLLOUT_STATE_FAILED, v1.NodeRolloutState_NODE_ROLLOUT_STATE_DEGRADED:
		return v1.StepState_STEP_STATE_FAILED
	case v1.NodeRolloutState_NODE_ROLLOUT_STATE_QUEUED, v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING:
		if ended {
			return v1.StepState_STEP_STATE_SKIPPED
		}
		return v1.StepState_STEP_STATE_QUEUED
	}
	return v1.StepState_STEP_STATE_RUNNING
}
