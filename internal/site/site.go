package site

import (
	"net/netip"
	"slices"
	"time"
)

// Roles of nodes.
const (
	RoleRouter      = "router"
	RoleRelay       = "relay"
	RoleServices    = "services"
	RoleSupervision = "supervision"
	RoleProd        = "prod"
	RolePreprod     = "preprod"
)

// PlatformLinux is the platform of a node whose file names none.
const PlatformLinux = "linux"

// Site is a valid site. Lists are in the order of the file.
type Site struct {
	// Name is the site's name, Domain its internal domain, PublicDomain what customers use (may be empty).
	Name, Domain, PublicDomain string
	// Timezone is a name of the tz database.
	Timezone string
	// NTP are names or addresses of the outside time servers.
	NTP []string
	// Networks are all networks, inside and outside.
	Networks []Network
	// Nodes are the managed machines.
	Nodes []Node
	// Hosts are machines that exist but are not managed.
	Hosts []Host
	// Probes are identities that manage nothing and only open connections; only an overlay has them.
	Probes []Probe
	// Server says where infractl's server runs.
	Server ServerSpec
	// SSH is the policy of all SSH servers.
	SSH SSHSpec
	// Accounts are the people.
	Accounts []Account
	// DNS is what the resolvers of the nodes need to know.
	DNS DNSSpec
	// Rollout bounds a rollout.
	Rollout RolloutSpec
	// Images maps an image's name to the stand-in that the lab has for it.
	Images []ImageMapping
	// Stacks are the container stacks, those alone whose files came with the source.
	Stacks []Stack
	// Packages are the packages of the operating system, by role.
	Packages []PackageSet
	// NotManaged are the sections that are accepted but not managed yet.
	NotManaged []string

	flows []flow // of the file, then the implied ones
	files []string

	// What implied flows need of sections that are not managed yet.
	stacks         []string
	copies         []backupTarget
	tunnel         Tunnel
	monitoringNode string
	proxyNode      string
	proxyDomain    string
	publicAddress  netip.Addr
	proxyTargets   []proxyTarget
	proxyPart      proxyPart
	instanceNodes  []string
	dolibarr       dolibarrPart
}

// Network is one network of the site.
type Network struct {
	// Name is the network's name.
	Name string
	// Prefix and Prefix6 are its addresses; Prefix6 is invalid without IPv6.
	Prefix, Prefix6 netip.Prefix
	// Gateway is the way out of it; invalid when it has none.
	Gateway netip.Addr
	// Outside says that its gateway is none of our nodes: the network counts as internet.
	Outside bool
}

// Contains reports whether the address is one of the network's.
func (n *Network) Contains(a netip.Addr) bool {
	return a.IsValid() && (n.Prefix.Contains(a) || n.Prefix6.IsValid() && n.Prefix6.Contains(a))
}

// Node is one managed machine.
type Node struct {
	// Name is its short host name.
	Name string
	// Role is what it does.
	Role string
	// Platform is linux, vyos-1.3, vyos-1.4 or vyos-1.5.
	Platform string
	// Interfaces are its places in the networks, at least one.
	Interfaces []Interface

	main, main6 netip.Addr
}

// Interface is a node's place in one network.
type Interface struct {
	// Name is the interface's name, empty where the file gives only an address.
	Name string
	// Network is the network's name.
	Network string
	// Address and Address6 are the node's addresses there; at least one is valid.
	Address, Address6 netip.Addr
	// Description is for people.
	Description string
}

// MainAddress returns the inside address that other nodes use; for the router the one in the relay's network.
func (n *Node) MainAddress() netip.Addr { return n.main }

// Addresses returns all addresses of the node, the main one first.
func (n *Node) Addresses() []netip.Addr {
	out := []netip.Addr{n.main}
	for _, i := range n.Interfaces {
		for _, a := range []netip.Addr{i.Address, i.Address6} {
			if a.IsValid() && a != n.main {
				out = append(out, a)
			}
		}
	}
	return out
}

// DockerHost reports whether the node's role brings a Docker engine.
func (n *Node) DockerHost() bool {
	switch n.Role {
	case RoleServices, RoleSupervision, RoleProd, RolePreprod:
		return true
	}
	return false
}

// Linux reports whether the node is managed as a Linux host.
func (n *Node) Linux() bool { return n.Platform == PlatformLinux }

// Host is a machine that is not managed.
type Host struct {
	// Name is its short name.
	Name string
	// Address and Address6 are where it is; at least one is valid.
	Address, Address6 netip.Addr
}

// Addresses returns the host's addresses.
func (h *Host) Addresses() []netip.Addr { return validAddrs(h.Address, h.Address6) }

// Probe is an enrolled identity that only opens connections.
type Probe struct {
	// Name is its name.
	Name string
	// Network is where it stands; empty for outside.
	Network string
	// Address is the address that it opens connections from.
	Address netip.Addr
}

// Outside reports whether the probe stands outside the inside networks.
func (p *Probe) Outside() bool { return p.Network == "" }

// ServerSpec says where the server runs.
type ServerSpec struct {
	// Nodes are its nodes, one today.
	Nodes []string
	// Port is the port of sessions and of the API, EnrolPort that of enrolment.
	Port, EnrolPort uint16
}

// SSHSpec is the policy of the SSH servers.
type SSHSpec struct {
	// Port is their TCP port.
	Port uint16
	// Users are the accounts that may log in.
	Users []string
	// MaxAuthTries and MaxSessions limit one connection.
	MaxAuthTries, MaxSessions uint32
	// ClientAliveInterval is the time after which a silent client is asked for a sign of life.
	ClientAliveInterval time.Duration
}

// Account is one person.
type Account struct {
	// Name is the login name, FullName the person's.
	Name, FullName string
	// Sudo says whether the account may become root.
	Sudo bool
	// SSHKeys are authorized_keys lines without options.
	SSHKeys []string
}

// DNSSpec is the part of the dns section that other parts need.
type DNSSpec struct {
	// Primary and Secondary are nodes; empty without one.
	Primary, Secondary string
	// Forwarders are the resolvers that the primary asks.
	Forwarders []netip.Addr
	// Aliases are further names of nodes and hosts.
	Aliases []Alias
	// Views says that the world is answered too.
	Views bool
	// TransferKey is the secret that signs transfers, AcmeKey the one that signs changes of the ACME zone, empty without that.
	TransferKey, AcmeKey string
	// Updates says that public records are set by RFC 2136.
	Updates PublicUpdates
}

// PublicUpdates is where public records are set by RFC 2136; the zero value is nowhere.
type PublicUpdates struct {
	// Server is the name server, Secret the secret with its key.
	Server netip.Addr
	Secret string
}

// Alias is a further name of a node or host.
type Alias struct {
	// Name is the alias, Target the node or host.
	Name, Target string
}

// RolloutSpec bounds a rollout.
type RolloutSpec struct {
	// MaxUnavailable is the number of nodes of one wave that change at once.
	MaxUnavailable int
	// Window is the time that a commit has to be confirmed.
	Window time.Duration
	// Soak is how long a wave is watched before the next one begins.
	Soak time.Duration
	// Budgets are how many nodes of a role change at once, by role.
	Budgets map[string]int
	// HaltAfter is the number of nodes that fail before the rollout halts.
	HaltAfter int
}

// ImageMapping replaces an image by a stand-in.
type ImageMapping struct {
	// Image is the name in the site, StandIn the one that is used.
	Image, StandIn string
}

// Node returns the node of that name.
func (s *Site) Node(name string) (*Node, bool) {
	i := slices.IndexFunc(s.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return nil, false
	}
	return &s.Nodes[i], true
}

// Host returns the unmanaged host of that name.
func (s *Site) Host(name string) (*Host, bool) {
	i := slices.IndexFunc(s.Hosts, func(h Host) bool { return h.Name == name })
	if i < 0 {
		return nil, false
	}
	return &s.Hosts[i], true
}

// Probe returns the probe of that name.
func (s *Site) Probe(name string) (*Probe, bool) {
	i := slices.IndexFunc(s.Probes, func(p Probe) bool { return p.Name == name })
	if i < 0 {
		return nil, false
	}
	return &s.Probes[i], true
}

// Network returns the network of that name.
func (s *Site) Network(name string) (*Network, bool) {
	i := slices.IndexFunc(s.Networks, func(n Network) bool { return n.Name == name })
	if i < 0 {
		return nil, false
	}
	return &s.Networks[i], true
}

// NodeNames returns the names of all nodes in file order.
func (s *Site) NodeNames() []string {
	out := make([]string, 0, len(s.Nodes))
	for _, n := range s.Nodes {
		out = append(out, n.Name)
	}
	return out
}

// ServerNode returns the node on which the server runs.
func (s *Site) ServerNode() *Node {
	n, _ := s.Node(s.Server.Nodes[0])
	return n
}

// Relay returns the bastion.
func (s *Site) Relay() *Node { return s.withRole(RoleRelay) }

// Router returns the router, nil where the site has none.
func (s *Site) Router() *Node { return s.withRole(RoleRouter) }

// Files returns the paths that the site file names, relative to it: the caller of Load says which of them exist.
func (s *Site) Files() []string { return slices.Clone(s.files) }

func (s *Site) withRole(role string) *Node {
	for i := range s.Nodes {
		if s.Nodes[i].Role == role {
			return &s.Nodes[i]
		}
	}
	return nil
}

// proxyTarget is one name that the proxy serves, and where it goes.
type proxyTarget struct {
	name, host string
	port       uint16
}

func validAddrs(list ...netip.Addr) []netip.Addr {
	return slices.DeleteFunc(list, func(a netip.Addr) bool { return !a.IsValid() })
}
