package site

import (
	"net/netip"
	"slices"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Resources are the stored objects that host specs depend on beside the site.
type Resources struct {
	// WitnessKeys are the public halves of the keys with which nodes and probes prove logins, as authorized_keys lines.
	WitnessKeys map[string]string `json:"witness_keys,omitempty"`
	// Secrets are the ids of the newest versions of the secrets, by name.
	Secrets map[string]string `json:"secrets,omitempty"`
	// Images are the server's image archives by the references that they give their images; the newest one of a reference.
	Images map[string]ImageArchive `json:"images,omitempty"`
	// UserCAKeys are the public keys whose certificates let operators in by SSH, in authorized_keys form.
	UserCAKeys []string `json:"user_ca_keys,omitempty"`
	// Peers are the machines of people that may come in through the tunnel.
	Peers []TunnelPeer `json:"peers,omitempty"`
	// Instances are the customers' Dolibarr instances that are on a host, sorted by name.
	Instances []Instance `json:"instances,omitempty"`
}

// ImageArchive is an image in an archive on the server.
type ImageArchive struct {
	// Digest is the archive's, ImageID that of the image's configuration; both "sha256:" and hexadecimal digits.
	Digest, ImageID string
}

// HostSpecs returns the wish for each node. The same site and resources give the same bytes.
func (s *Site) HostSpecs(res Resources) (map[string]*v1.HostSpec, error) {
	out := make(map[string]*v1.HostSpec, len(s.Nodes))
	zones := s.Zones(res)
	for i := range s.Nodes {
		n := &s.Nodes[i]
		spec := &v1.HostSpec{Site: s.Name, Node: n.Name, Role: n.Role}
		if n.Linux() {
			spec.System = s.system(n)
			spec.Time = s.time(n)
			spec.Accounts = s.accounts(n, res)
			spec.Sshd = s.sshd(n, res)
			spec.Firewall = s.firewall(n)
			spec.Packages = s.packagesOf(n)
			spec.Containers = s.containers(n, res)
			spec.Metrics = s.metrics(n)
			spec.Dns = s.dns(n, res, zones)
			spec.Proxy = s.proxy(n, res)
			spec.Dolibarr = s.instancesOn(n, res)
		}
		spec.Router = s.router(n, res)
		if spec.Router != nil && !n.Linux() {
			s.vyos(n, res, spec)
		}
		out[n.Name] = spec
	}
	return out, nil
}

// time: the router asks the site's servers, all others ask the router.
func (s *Site) time(n *Node) *v1.TimeSpec {
	r := s.Router()
	switch {
	case r == nil:
		return &v1.TimeSpec{Servers: slices.Clone(s.NTP)}
	case r.Name == n.Name:
		return &v1.TimeSpec{Servers: slices.Clone(s.NTP), Allow: texts(s.insidePrefixes())}
	}
	return &v1.TimeSpec{Servers: []string{s.sourceTowards(r, n.main).String()}}
}

// accounts: the same people everywhere, and the keys of those that flows let in to prove that a login works.
func (s *Site) accounts(n *Node, res Resources) *v1.AccountsSpec {
	spec := &v1.AccountsSpec{}
	for _, a := range s.Accounts {
		spec.Accounts = append(spec.Accounts, &v1.Account{
			Name: a.Name, FullName: a.FullName, Sudo: a.Sudo, SshKeys: slices.Clone(a.SSHKeys),
			SshLogin: slices.Contains(s.SSH.Users, a.Name),
		})
	}
	for _, c := range s.logins(n) {
		if key := res.WitnessKeys[c.name]; key != "" {
			spec.WitnessKeys = append(spec.WitnessKeys, &v1.WitnessKey{Node: c.name, PublicKey: key, From: []string{c.from.String()}})
		}
	}
	return spec
}

// login is a node or probe that may log in on a node, with the address that it comes from.
type login struct {
	name  string
	from  netip.Addr
	probe bool
}

// logins returns the nodes and probes whose logins the matrix lets in, nodes first, in file order.
func (s *Site) logins(to *Node) []login {
	var out []login
	for i := range s.Nodes {
		n := &s.Nodes[i]
		from := s.sourceTowards(n, to.main)
		if _, ok := s.Allowed(from, to.main, "tcp", s.SSH.Port); ok && n.Name != to.Name && n.Linux() {
			out = append(out, login{n.Name, from, false})
		}
	}
	for i := range s.Probes {
		p := &s.Probes[i]
		if _, ok := s.Allowed(p.Address, to.main, "tcp", s.SSH.Port); ok {
			out = append(out, login{p.Name, p.Address, true})
		}
	}
	return out
}

// sshd: the inside addresses only, and only for those that a flow lets in.
func (s *Site) sshd(n *Node, res Resources) *v1.SshdSpec {
	spec := &v1.SshdSpec{
		Port: uint32(s.SSH.Port), AllowUsers: slices.Clone(s.SSH.Users), MaxAuthTries: s.SSH.MaxAuthTries,
		MaxSessions: s.SSH.MaxSessions, ClientAliveIntervalSeconds: uint32(s.SSH.ClientAliveInterval.Seconds()),
		UserCaKeys: slices.Clone(res.UserCAKeys),
	}
	for _, a := range s.listens(n) {
		spec.ListenAddresses = append(spec.ListenAddresses, a.String())
	}
	var from []netip.Prefix
	internet := false
	for i := range s.flows {
		f := &s.flows[i]
		if f.matches("tcp", s.SSH.Port) && s.covers(&f.to, n.main) {
			internet = internet || f.from.internet
			from = append(from, f.from.prefixes...)
		}
	}
	own := single(n.Addresses()...)
	from = slices.DeleteFunc(from, func(p netip.Prefix) bool { return slices.Contains(own, p) })
	// sshd cannot say "outside of our networks"; the firewall does.
	if !internet {
		spec.AllowFrom = texts(from)
	}
	for _, c := range s.logins(n) {
		if !c.probe {
			spec.Peers = append(spec.Peers, c.name)
		}
	}
	slices.Sort(spec.Peers)
	return spec
}

// listens are the addresses that people log in on: all inside ones; on the router only the one in the relay's network.
func (s *Site) listens(n *Node) []netip.Addr {
	if n.Role == RoleRouter {
		return validAddrs(n.main, n.main6)
	}
	out := validAddrs(n.main, n.main6)
	for _, i := range n.Interfaces {
		if net, ok := s.Network(i.Network); ok && !net.Outside {
			for _, a := range validAddrs(i.Address, i.Address6) {
				if !slices.Contains(out, a) {
					out = append(out, a)
				}
			}
		}
	}
	return out
}
