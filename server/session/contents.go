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
	caller := access.CallerFrom(ctx)
	err := s.cfg.Contents.Fetch(ctx, caller.Identity.Name, req, stream.Send)
	if errs.Is(err, errs.Denied) {
		s.cfg.Recorder.Refused(ctx, access.ReasonForeign, store.AuditEntry{
			Actor: caller.Actor, Source: caller.Address, Action: v1.SessionService_FetchContent_FullMethodName,
			Node: caller.Identity.Name, Result: string(errs.Denied), Message: err.Error(),
		})
	}
	return err
}
