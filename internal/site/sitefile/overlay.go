package sitefile

import "github.com/infractl/infractl/internal/site/yamltree"

// Overlay is a lab overlay: the few things that a lab may change in a site. Whatever it names must exist in the site, unless
// the key says otherwise.
type Overlay struct {
	// Outside time servers in place of the site's.
	NTP []NTPServer `yaml:"ntp"`
	// Platform and added interfaces of routers, by node.
	Nodes yamltree.Map[OverlayNode] `yaml:"nodes"`
	// Other addresses of unmanaged hosts, by name.
	Hosts yamltree.Map[Host] `yaml:"hosts"`
	// Name service.
	DNS *OverlayDNS `yaml:"dns"`
	// Reverse proxy.
	Proxy *OverlayProxy `yaml:"proxy"`
	// Keys that are added to accounts, by login name.
	Accounts yamltree.Map[OverlayAccount] `yaml:"accounts"`
	// Added identities that manage nothing and only open connections, by name.
	Probes yamltree.Map[Probe] `yaml:"probes"`
	// Stand-ins for container images: image, then what the lab runs in its place.
	Images yamltree.Map[string] `yaml:"images"`
	// Length of the commit window.
	Rollout *OverlayRollout `yaml:"rollout"`
	// Schedule and places of backups.
	Backup *OverlayBackup `yaml:"backup"`
	// Lengths of patching.
	Patching *OverlayPatching `yaml:"patching"`
}

// OverlayNode changes a router.
type OverlayNode struct {
	// Another platform.
	Platform string `yaml:"platform"`
	// Added interfaces by name.
	Interfaces yamltree.Map[Interface] `yaml:"interfaces"`
}

// OverlayDNS changes the name service.
type OverlayDNS struct {
	// Outside resolvers in place of the site's.
	Forwarders []Addr `yaml:"forwarders" site:"required"`
}

// OverlayProxy changes the reverse proxy.
type OverlayProxy struct {
	// Another driver.
	Driver string `yaml:"driver"`
	// Certificates.
	TLS *OverlayTLS `yaml:"tls"`
}

// OverlayTLS changes where certificates come from.
type OverlayTLS struct {
	// Another ACME directory.
	Directory URL `yaml:"directory" site:"required"`
}

// OverlayAccount adds keys to an account.
type OverlayAccount struct {
	// Keys that are added.
	SSHKeys []SSHKey `yaml:"ssh_keys" site:"required"`
}

// Probe is an enrolled identity that only opens connections.
type Probe struct {
	// Name of its network, or outside.
	Network string `yaml:"network" site:"required"`
	// Address that it opens connections from.
	Address Addr `yaml:"address" site:"required"`
}

// OverlayRollout changes the bounds of a rollout.
type OverlayRollout struct {
	// Another window.
	Window Duration `yaml:"window" site:"required"`
}

// OverlayBackup changes backups.
type OverlayBackup struct {
	// Another schedule.
	Schedule Schedule `yaml:"schedule"`
	// Other places of copies, by name.
	Copies yamltree.Map[OverlayCopy] `yaml:"copies"`
	// How often a restore is tried.
	Drills string `yaml:"drills"`
}

// OverlayCopy changes one place of backups.
type OverlayCopy struct {
	// Another place, in the form of the site's.
	To string `yaml:"to" site:"required"`
}

// OverlayPatching changes patching.
type OverlayPatching struct {
	// Another window.
	Window Window `yaml:"window"`
	// Wait between waves, in place of every wave's own.
	Soak Duration `yaml:"soak"`
}
