package app

import (
	"context"

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
	st.Findings = append(st.Findings, more...)
	return st, err
}
