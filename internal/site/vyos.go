package site

import v1 "github.com/infractl/infractl/proto/infractl/v1"

// vyos adds the sections that a VyOS router has beside its router section. The agent there gives the whole spec to one provider,
// which turns all sections into one configuration; a VyOS system has no packages and no containers of ours.
func (s *Site) vyos(n *Node, res Resources, spec *v1.HostSpec) {
	spec.System = s.system(n)
	spec.Time = s.time(n)
	spec.Accounts = s.accounts(n, res)
	spec.Sshd = s.sshd(n, res)
	spec.Firewall = s.firewall(n)
}
