package app

import (
	"context"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/instance"
)

// withInstances adds what people should know of the instances to what status shows.
type withInstances struct {
	fleet.Site
	instances *instance.Instances
}

// Status implements fleet.Site.
func (s withInstances) Status(ctx context.Context) (fleet.SiteStatus, error) {
	st, err := s.Site.Status(ctx)
	if err != nil {
		return st, err
	}
	more, err := s.instances.Findings(ctx)
	if err != nil { // the rest of the status is worth seeing
		more = append(more, &v1.Finding{Severity: v1.Severity_SEVERITY_ERROR, Where: "instances", Message: "cannot be told of: " + err.Error(), Hint: errs.HintOf(err)})
	}
	st.Findings = append(st.Findings, more...)
	return st, nil
}
