package session

import (
	"context"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
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
	values, err := s.cfg.Secrets.Fetch(ctx, access.CallerFrom(ctx).Identity.Name, req.GetRefs())
	if err := s.foreign(ctx, v1.SessionService_FetchSecrets_FullMethodName, err); err != nil {
		return nil, err
	}
	return &v1.FetchSecretsResponse{Values: values}, nil
}
