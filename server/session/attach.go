package session

import (
	"google.golang.org/grpc"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Attacher serves the streams that agents open for consoles; package console implements it.
type Attacher interface {
	Attach(stream grpc.BidiStreamingServer[v1.AttachRequest, v1.AttachResponse]) error
}

// Attach implements SessionService.
func (s *Service) Attach(stream grpc.BidiStreamingServer[v1.AttachRequest, v1.AttachResponse]) error {
	if s.cfg.Attacher == nil {
		return errs.New(errs.Precondition, "this server carries no consoles")
	}
	return s.cfg.Attacher.Attach(stream)
}
