package api

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/flowcheck"
	"github.com/infractl/infractl/server/revision"
)

// FlowService implements v1.FlowServiceServer.
type FlowService struct {
	v1.UnimplementedFlowServiceServer
	cfg     Config
	checker *flowcheck.Checker
}

// ListFlows implements v1.FlowServiceServer.
func (s *FlowService) ListFlows(ctx context.Context, req *v1.ListFlowsRequest) (*v1.ListFlowsResponse, error) {
	d, err := s.derive(ctx, req.GetSource())
	if err != nil {
		return nil, err
	}
	var concerns map[string]bool
	if req.GetNode() != "" {
		spec, ok := d.Specs[req.GetNode()]
		if !ok {
			return nil, errs.New(errs.Invalid, "the site has no node %.64q", req.GetNode()).WithHint("infractl node list")
		}
		concerns = map[string]bool{}
		for _, r := range spec.Spec.GetFirewall().GetRules() {
			concerns[r.GetFlow()] = true
		}
	}
	out := &v1.ListFlowsResponse{}
	for _, f := range d.Site.Flows() {
		// A line without ports says what always passes, everywhere.
		if concerns == nil || concerns[f.Name] || len(f.Ports) == 0 {
			out.Flows = append(out.Flows, f.ToProto())
		}
	}
	return out, nil
}

func (s *FlowService) derive(ctx context.Context, source *v1.SiteSource) (*revision.Derived, error) {
	if source == nil {
		return s.cfg.Revisions.Derive(ctx, 0)
	}
	loaded, findings, err := s.cfg.Revisions.Check(source)
	if err != nil {
		return nil, err
	}
	if loaded == nil {
		return nil, revision.Refusal(findings)
	}
	return s.cfg.Revisions.DeriveSite(ctx, loaded)
}

// CheckFlows implements v1.FlowServiceServer.
func (s *FlowService) CheckFlows(req *v1.CheckFlowsRequest, stream grpc.ServerStreamingServer[v1.CheckFlowsResponse]) error {
	if err := checkNames(req.GetNodes()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	loaded, _, err := s.cfg.Revisions.Load(ctx, 0)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var done, total uint32
	result, err := s.checker.Check(ctx, flowcheck.MatrixOf(loaded), req.GetNodes(), func(d, t uint32) {
		mu.Lock()
		defer mu.Unlock()
		done, total = d, t
		if stream.Send(&v1.CheckFlowsResponse{Done: d, Total: t}) != nil {
			cancel() // nobody waits for the result
		}
	})
	if err != nil {
		return err
	}
	return stream.Send(&v1.CheckFlowsResponse{Done: done, Total: total, Result: result})
}
