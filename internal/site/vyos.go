package site

import (
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// vyos adds the sections that a VyOS router has beside its router section. The agent there gives the whole spec to one provider,
// which turns all sections into one configuration; a VyOS system has no packages and no containers of ours.
func (s *Site) vyos(n *Node, res Resources, spec *v1.HostSpec) {
	spec.System = s.system(n)
	spec.Time = s.time(n)
	spec.Accounts = s.accounts(n, res)
	spec.Sshd = s.sshd(n, res)
	spec.Firewall = s.firewall(n)
}

// RouterSpec returns the wish for the site's router as if its platform were another release of VyOS. Errors: NotFound for a site
// without a router.
func (s *Site) RouterSpec(res Resources, platform string) (*v1.HostSpec, error) {
	n := s.Router()
	if n == nil {
		return nil, errs.New(errs.NotFound, "the site has no router")
	}
	as := *n
	as.Platform = platform
	spec := &v1.HostSpec{Site: s.Name, Node: n.Name, Role: n.Role, Router: s.router(&as, res)}
	s.vyos(&as, res, spec)
	return spec, nil
}
