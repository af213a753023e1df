package fleet

import (
	"context"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Wanted is a node or probe of the current site revision.
type Wanted struct {
	Name string
	// Role is the node's role, "probe" for a probe.
	Role  string
	Probe bool
	// Address is its first address.
	Address string
	// Digest is the digest of its HostSpec, empty for a probe.
	Digest string
	// Metrics is its metrics page; nil where there is none. It must not be changed.
	Metrics *v1.MetricsSpec
}

// WantedNode returns what the current revision wants of a node; false when it wants nothing.
func WantedNode(ctx context.Context, s Site, name string) (Wanted, bool, error) {
	all, _, err := s.Wanted(ctx)
	for _, w := range all {
		if w.Name == name {
			return w, true, err
		}
	}
	return Wanted{}, false, err
}

// SiteStatus is what status shows of site and rollouts.
type SiteStatus struct {
	// Revision is the newest revision, 0 when there is none.
	Revision uint64
	// RolloutID is the newest rollout, RolloutState how it stands, in words.
	RolloutID    string
	RolloutState string
	// NotManaged are the sections of the site file that this version does not manage yet.
	NotManaged []string
	// Findings are what a person should know, worst first.
	Findings []*v1.Finding
}

// Site is what identities need to know of the current revision; package revision implements it.
type Site interface {
	// Wanted returns the nodes and probes of the current revision by name, and false while there is no revision.
	Wanted(ctx context.Context) ([]Wanted, bool, error)
	// Status returns what status shows.
	Status(ctx context.Context) (SiteStatus, error)
}

// NoSite is the Site of a server without revisions.
type NoSite struct{}

// Wanted implements Site.
func (NoSite) Wanted(context.Context) ([]Wanted, bool, error) { return nil, false, nil }

// Status implements Site.
func (NoSite) Status(context.Context) (SiteStatus, error) { return SiteStatus{}, nil }
