package session

import (
	"context"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/store"
)

// Contents gives large texts to nodes; package dns implements it.
type Contents interface {
	// Fetch sends a content, or returns Denied where the node's wanted spec does not name it.
	Fetch(ctx context.Context, node string, req *v1.FetchContentRequest, send func(*v1.FetchContentResponse) error) error
}

// FetchContent implements SessionService. Contents of other nodes are refused, counted and audited.
func (s *Service) FetchContent(req *v1.FetchContentRequest, stream grpc.ServerStreamingServer[v1.FetchContentResponse]) error {
	if s.cfg.Contents == nil {
		return errs.New(errs.Precondition, "this server keeps no contents")
	}
	ctx := stream.Context()
	err := s.cfg.Contents.Fetch(ctx, access.CallerFrom(ctx).Identity.Name, req, stream.Send)
	return s.foreign(ctx, v1.SessionService_FetchContent_FullMethodName, err)
}

// foreign counts and audits what was refused because it is another node's. It returns err.
func (s *Service) foreign(ctx context.Context, method string, err error) error {
	if errs.Is(err, errs.Denied) {
		caller := access.CallerFrom(ctx)
		s.cfg.Recorder.Refused(ctx, access.ReasonForeign, store.AuditEntry{
			Actor: caller.Actor, Source: caller.Address, Action: method,
			Node: caller.Identity.Name, Result: string(errs.Denied), Message: err.Error(),
		})
	}
	return err
}
