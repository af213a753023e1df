package session

import (
	"context"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/store"
)

// Images gives image archives to nodes; package image implements it.
type Images interface {
	// Fetch sends an archive from an offset on, or returns Denied where no stack of the node uses it.
	Fetch(ctx context.Context, node string, req *v1.FetchImageRequest, send func(*v1.FetchImageResponse) error) error
}

// FetchImage implements SessionService. Archives of other nodes' images are refused, counted and audited.
func (s *Service) FetchImage(req *v1.FetchImageRequest, stream grpc.ServerStreamingServer[v1.FetchImageResponse]) error {
	if s.cfg.Images == nil {
		return errs.New(errs.Precondition, "this server keeps no images")
	}
	ctx := stream.Context()
	caller := access.CallerFrom(ctx)
	err := s.cfg.Images.Fetch(ctx, caller.Identity.Name, req, stream.Send)
	if errs.Is(err, errs.Denied) {
		s.cfg.Recorder.Refused(ctx, access.ReasonForeign, store.AuditEntry{
			Actor: caller.Actor, Source: caller.Address, Action: v1.SessionService_FetchImage_FullMethodName,
			Node: caller.Identity.Name, Result: string(errs.Denied), Message: err.Error(),
		})
	}
	return err
}
