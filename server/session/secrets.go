package session

import (
	"context"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/store"
)

// Secrets gives values to nodes; package secret implements it.
type Secrets interface {
	// Fetch returns the values, or Denied where the node's wanted spec does not name one of them.
	Fetch(ctx context.Context, node string, refs []*v1.SecretRef) ([]*v1.SecretValue, error)
}

// FetchSecrets implements SessionService. Values of other nodes' secrets are refused, counted and audited.
func (s *Service) FetchSecrets(ctx context.Context, req *v1.FetchSecretsRequest) (*v1.FetchSecretsResponse, error) {
	if s.cfg.Secrets == nil {
		return nil, errs.New(errs.Precondition, "this server keeps no secrets")
	}
	caller := access.CallerFrom(ctx)
	values, err := s.cfg.Secrets.Fetch(ctx, caller.Identity.Name, req.GetRefs())
	if errs.Is(err, errs.Denied) {
		s.cfg.Recorder.Refused(ctx, access.ReasonForeign, store.AuditEntry{
			Actor: caller.Actor, Source: caller.Address, Action: v1.SessionService_FetchSecrets_FullMethodName,
			Node: caller.Identity.Name, Result: string(errs.Denied), Message: err.Error(),
		})
	}
	if err != nil {
		return nil, err
	}
	return &v1.FetchSecretsResponse{Values: values}, nil
}
