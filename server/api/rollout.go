package api

import (
	"context"

	"google.golang.org/grpc"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/rollout"
)

// RolloutService implements v1.RolloutServiceServer.
type RolloutService struct {
	v1.UnimplementedRolloutServiceServer
	cfg Config
}

// ListRollouts implements v1.RolloutServiceServer.
func (s *RolloutService) ListRollouts(ctx context.Context, req *v1.ListRolloutsRequest) (*v1.ListRolloutsResponse, error) {
	list, err := s.cfg.Rollouts.List(ctx, bounded(req.GetLimit(), 20, 100))
	return &v1.ListRolloutsResponse{Rollouts: list}, err
}

// GetRollout implements v1.RolloutServiceServer.
func (s *RolloutService) GetRollout(ctx context.Context, req *v1.GetRolloutRequest) (*v1.GetRolloutResponse, error) {
	ro, err := s.cfg.Rollouts.Get(ctx, req.GetId())
	return &v1.GetRolloutResponse{Rollout: ro}, err
}

// WatchRollout implements v1.RolloutServiceServer.
func (s *RolloutService) WatchRollout(req *v1.WatchRolloutRequest, stream grpc.ServerStreamingServer[v1.WatchRolloutResponse]) error {
	ctx := stream.Context()
	return s.cfg.Rollouts.Watch(ctx, rollout.WatchRequest{ID: req.GetId(), Operator: mayWitness(ctx)}, stream.Send)
}

// CancelRollout implements v1.RolloutServiceServer.
func (s *RolloutService) CancelRollout(ctx context.Context, req *v1.CancelRolloutRequest) (*v1.CancelRolloutResponse, error) {
	return &v1.CancelRolloutResponse{}, s.cfg.Rollouts.Cancel(ctx, req.GetId(), actor(ctx))
}

// ReportWitness implements v1.RolloutServiceServer.
func (s *RolloutService) ReportWitness(ctx context.Context, req *v1.ReportWitnessRequest) (*v1.ReportWitnessResponse, error) {
	return &v1.ReportWitnessResponse{}, s.cfg.Rollouts.ReportWitness(ctx, actor(ctx), req)
}
