package site

import (
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Resources are the stored objects that host specs depend on beside the site.
type Resources struct {
	// WitnessKeys are the public halves of the keys with which nodes and probes prove logins, as authorized_keys lines.
	WitnessKeys map[string]string
}

// HostSpecs returns the wish for each node. The same site and resources give the same bytes.
func (s *Site) HostSpecs(res Resources) (map[string]*v1.HostSpec, error) {
	return nil, errs.New(errs.Internal, "not written yet")
}
