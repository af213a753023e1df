package session

import (
	"context"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
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
	err := s.cfg.Images.Fetch(ctx, access.CallerFrom(ctx).Identity.Name, req, stream.Send)
	return s.foreign(ctx, v1.SessionService_FetchImage_FullMethodName, err)
}
