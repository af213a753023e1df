// Package sitefile is the vocabulary of site files and lab overlays: what may stand in them, and what each key means. The
// comments on the fields are the reference manual.
package sitefile

import "github.com/infractl/infractl/internal/site/yamltree"

// File is the site file: the whole infrastructure on one page.
type File struct {
	// Name of the site, one per server. Certificates carry it, so it never changes; the server refuses a file of another name.
	Site string `yaml:"site" site:"required"`
	// Internal domain: the full name of a node is its name and this.
	Domain DomainName `yaml:"domain" site:"required"`
	// Domain of the names that customers use.
	PublicDomain DomainName `yaml:"public_domain"`
	// Address under which the world reaches the site. Without it: the router's outside address.
	PublicAddress Addr `yaml:"public_address"`
	// Time zone of all nodes, a name of the tz database. Without it: Etc/UTC.
	Timezone string `yaml:"timezone"`
	// Outside time servers, names or addresses. The router asks them, all other nodes ask the router.
	NTP []NTPServer `yaml:"ntp"`
	// Networks by name. A network whose gateway is none of the nodes is outside: it counts as internet. All others are inside.
	Networks yamltree.Map[Network] `yaml:"networks" site:"required"`
	// Managed machines by host name. Exactly one has the role relay; one has the role router unless there is only one network.
	Nodes yamltree.Map[Node] `yaml:"nodes" site:"required"`
	// Machines that exist but are not managed, by name: for flows, names and backups.
	Hosts yamltree.Map[Host] `yaml:"hosts"`
	// Where infractl's server runs.
	Server Server `yaml:"server" site:"required"`
	// Who may talk to whom, beyond what the roles imply. Everything else is dropped, both ways, IPv4 and IPv6. The relay must
	// get in everywhere by SSH, and somebody must get in on the relay.
	Flows []Flow `yaml:"flows" site:"required"`
	// Policy of all SSH servers.
	SSH SSH `yaml:"ssh" site:"required"`
	// People by login name (small letters, digits, _ and -, at most 31), the same on every node. At least one of ssh.users may
	// use sudo.
	Accounts yamltree.Map[Account] `yaml:"accounts" site:"required"`
	// Packages of the operating system, by role; all are those of every Linux node. Without it they are left alone.
	Packages yamltree.Map[Packages] `yaml:"packages"`
	// Bounds of a rollout.
	Rollout *Rollout `yaml:"rollout"`
	// WireGuard on the router.
	VPN *VPN `yaml:"vpn"`
	// Name service of the internal domain.
	DNS *DNS `yaml:"dns"`
	// Container stacks by name, each a Compose file.
	Stacks yamltree.Map[Stack] `yaml:"stacks"`
	// Reverse proxy in front of everything.
	Proxy *Proxy `yaml:"proxy"`
	// Metrics and alerts.
	Monitoring *Monitoring `yaml:"monitoring"`
	// Customers' Dolibarr: on which nodes, with which defaults. The instances themselves are resources.
	Dolibarr *Dolibarr `yaml:"dolibarr"`
	// Backups of the instances and of the server.
	Backup *Backup `yaml:"backup"`
	// Updates of the operating systems.
	Patching *Patching `yaml:"patching"`
	// Logs of the nodes.
	Logs *Logs `yaml:"logs"`
}

// Network is one network.
type Network struct {
	// IPv4 addresses of the network.
	CIDR Prefix `yaml:"cidr" site:"required"`
	// IPv6 addresses of the network.
	CIDR6 Prefix `yaml:"cidr6"`
	// Way out of the network: an address in it.
	Gateway Addr `yaml:"gateway"`
}

// Node is one managed machine. It has either an address, whose network follows from it, or interfaces.
type Node struct {
	// What the node is: router, relay, services, supervision, prod or preprod. A role brings what runs there, what it may
	// reach and who may reach it.
	Role string `yaml:"role" site:"required"`
	// linux (the default), or on the router also vyos-1.3, vyos-1.4, vyos-1.5.
	Platform string `yaml:"platform"`
	// IPv4 address of a node with one interface.
	Address Addr `yaml:"address"`
	// IPv6 address of a node with one interface.
	Address6 Addr `yaml:"address6"`
	// Interfaces by name, for a node in several networks.
	Interfaces yamltree.Map[Interface] `yaml:"interfaces"`
}

// Interface is a node's place in one network.
type Interface struct {
	// Name of the network.
	Network string `yaml:"network" site:"required"`
	// IPv4 address there.
	Address Addr `yaml:"address" site:"required"`
	// IPv6 address there.
	Address6 Addr `yaml:"address6"`
	// What it is for, for people.
	Description string `yaml:"description"`
}

// Host is a machine that is not managed.
type Host struct {
	// IPv4 address. One outside the inside networks is allowed.
	Address Addr `yaml:"address" site:"required"`
	// IPv6 address.
	Address6 Addr `yaml:"address6"`
}

// Server says where infractl's server runs.
type Server struct {
	// Its node; a list, which holds one node today.
	Nodes []string `yaml:"nodes" site:"required"`
	// TCP port of sessions and of the API. Without it: 7443.
	Port Port `yaml:"port"`
	// TCP port of enrolment. Without it: 7444.
	EnrolPort Port `yaml:"enrol_port"`
}

// Flow lets one side open connections to the other.
type Flow struct {
	// Name of the flow, unique.
	Name string `yaml:"name" site:"required"`
	// Who opens the connection: a node, an entry of hosts, a role, a network (with the nodes in it), internet (every address
	// outside the inside networks), all (every node), stack:NAME or instances.
	From string `yaml:"from" site:"required"`
	// Whom it goes to; the same words as for from.
	To string `yaml:"to" site:"required"`
	// Destination ports: 443/tcp, 53/udp, 1000-1010/tcp, or ssh for the port of the ssh section.
	Ports []PortSpec `yaml:"ports" site:"required"`
}

// SSH is the policy of all SSH servers: keys only, never root.
type SSH struct {
	// TCP port of every SSH server. Without it: 22.
	Port Port `yaml:"port"`
	// Accounts that may log in.
	Users []string `yaml:"users" site:"required"`
	// Tries of one connection, 2 to 10. Without it: 4.
	MaxAuthTries uint32 `yaml:"max_auth_tries"`
	// Sessions of one connection, 1 to 100. Without it: 10.
	MaxSessions uint32 `yaml:"max_sessions"`
	// Time after which a silent client is asked for a sign of life, 5s to 1h. Without it: 30s.
	ClientAliveInterval Duration `yaml:"client_alive_interval"`
}

// Account is one person.
type Account struct {
	// Name of the person.
	Name string `yaml:"name"`
	// Whether the account may become root, without a password (it has none).
	Sudo bool `yaml:"sudo"`
	// Public keys, as lines of authorized_keys without options. An account that may log in has at least one.
	SSHKeys []SSHKey `yaml:"ssh_keys"`
}

// Rollout bounds a rollout.
type Rollout struct {
	// Nodes of one wave that change at once, 1 to 100. Without it: 3.
	MaxUnavailable uint32 `yaml:"max_unavailable"`
	// Time that a change has to prove that nobody is locked out, 5s to 10m. Without it: 30s.
	Window Duration `yaml:"window"`
	// How long each wave is watched before the next one begins, up to 7d. A node that drifts, degrades or goes away meanwhile
	// halts the rollout. Without it: 0s.
	Soak Duration `yaml:"soak"`
	// Nodes of a role that change at once, by role, 1 to 100: a limit of its own beside max_unavailable.
	Budgets yamltree.Map[uint32] `yaml:"budgets"`
	// Nodes that may fail before the rollout halts, 1 to 100. Without it: 1, so that the first failure halts.
	HaltAfter uint32 `yaml:"halt_after"`
}
