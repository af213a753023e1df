package sitefile

import "github.com/infractl/infractl/internal/site/yamltree"

// VPN is WireGuard on the router. Its peers are resources.
type VPN struct {
	// Name of the tunnel's interface.
	Interface string `yaml:"interface" site:"required"`
	// Address of the router in the tunnel; it lies in an inside network, whose members are the peers.
	Address Addr `yaml:"address" site:"required"`
	// UDP port. Without it: 51820.
	Port Port `yaml:"port"`
	// Name or address by which peers reach the router from outside. Without it: the router's outside address.
	Endpoint HostOrAddr `yaml:"endpoint"`
}

// DNS is the name service of the internal domain.
type DNS struct {
	// Node that serves the names.
	Primary string `yaml:"primary" site:"required"`
	// Node that serves a copy.
	Secondary string `yaml:"secondary"`
	// Addresses of the outside resolvers that the primary asks.
	Forwarders []Addr `yaml:"forwarders"`
	// Further names of nodes and hosts: alias, then the node or host.
	Aliases yamltree.Map[string] `yaml:"aliases"`
	// Secret that signs the second node's copies of zones. Without it: dns-transfer.
	TransferKey *SecretRef `yaml:"transfer_key"`
	// Whether the world is answered too, from a zone of its own: the names in public_domain, and nothing else. A flow must let it ask.
	Views bool `yaml:"views"`
	// Small zone _acme-challenge.DOMAIN, DOMAIN being proxy.domain, that changes by RFC 2136; with views the world sees it.
	Acme *DNSAcme `yaml:"acme"`
}

// DNSAcme is the zone for proofs to a certificate authority.
type DNSAcme struct {
	// Secret that signs the changes, with the key name infractl-acme and HMAC-SHA256.
	Key SecretRef `yaml:"key" site:"required"`
}

// Stack is a group of containers.
type Stack struct {
	// Node on which it runs.
	Node string `yaml:"node" site:"required"`
	// Compose file, its path relative to the site file. The files of the folder that has its name go with it: stacks/web.yml brings
	// stacks/web/. See the guide on stacks for what is refused.
	Compose RelPath `yaml:"compose" site:"required"`
}

// Proxy is the reverse proxy.
type Proxy struct {
	// npm (Nginx Proxy Manager) or caddy.
	Driver string `yaml:"driver" site:"required"`
	// Node on which it runs.
	Node string `yaml:"node" site:"required"`
	// Domain of the instances: INSTANCE.DOMAIN.
	Domain DomainName `yaml:"domain"`
	// Account of Nginx Proxy Manager's API, an e-mail address; infractl needs one of its own. Without it and its password the section
	// is checked, and nothing more.
	APIUser Email `yaml:"api_user"`
	// Secret with the account's password.
	APIPassword *SecretRef `yaml:"api_password"`
	// Certificates.
	TLS *ProxyTLS `yaml:"tls"`
	// Public DNS records.
	DNS *ProxyDNS `yaml:"dns"`
	// Further names that it serves.
	Hosts yamltree.Map[ProxyHost] `yaml:"hosts"`
}

// ProxyTLS says where certificates come from.
type ProxyTLS struct {
	// letsencrypt or internal.
	Provider string `yaml:"provider" site:"required"`
	// Address for messages about expiry.
	Email Email `yaml:"email"`
	// ACME directory, where it is not the provider's own.
	Directory URL `yaml:"directory"`
}

// ProxyDNS says who sets the public records.
type ProxyDNS struct {
	// manual prints the records and checks them; rfc2136 sets them too.
	Provider string `yaml:"provider" site:"required"`
	// Name server of the public zone that takes changes by RFC 2136.
	Server Addr `yaml:"server"`
	// Secret of rfc2136, of the form NAME:KEY: the key's name, and the key in base64 (HMAC-SHA256).
	Key *SecretRef `yaml:"key"`
}

// ProxyHost is one name that the proxy serves.
type ProxyHost struct {
	// Where it goes: node or host, and port.
	To HostPort `yaml:"to" site:"required"`
	// http (the default) or https.
	Scheme string `yaml:"scheme"`
	// Networks, nodes or hosts that may use it; without it everybody.
	Allow []string `yaml:"allow"`
}

// Monitoring is metrics and alerts.
type Monitoring struct {
	// Node on which Prometheus runs.
	Node string `yaml:"node" site:"required"`
	// Time between two looks, 5s to 10m. Without it: 15s.
	ScrapeInterval Duration `yaml:"scrape_interval"`
	// How long metrics are kept.
	Retention Duration `yaml:"retention"`
	// Who hears of alerts.
	Alerts *Alerts `yaml:"alerts"`
}

// Alerts says who hears of alerts.
type Alerts struct {
	// Receivers by name.
	Receivers yamltree.Map[Receiver] `yaml:"receivers" site:"required"`
	// How alerts become messages.
	Route AlertRoute `yaml:"route" site:"required"`
}

// Receiver gets alerts by mail.
type Receiver struct {
	// Address that gets them.
	To Email `yaml:"to" site:"required"`
	// Address that sends them.
	From Email `yaml:"from" site:"required"`
	// Mail server: node, host or outside name, and port.
	Smarthost HostPort `yaml:"smarthost" site:"required"`
	// Password of the mail server.
	Password *SecretRef `yaml:"password"`
}

// SecretRef names a secret of the server's store; its value never stands in a file.
type SecretRef struct {
	// Name of the secret, set by "infractl secret set".
	Secret string `yaml:"secret" site:"required"`
}

// AlertRoute says how alerts become messages.
type AlertRoute struct {
	// One of the receivers.
	Receiver string `yaml:"receiver" site:"required"`
	// Labels whose alerts share a message.
	GroupBy []string `yaml:"group_by"`
	// Wait before the first message of a group.
	GroupWait Duration `yaml:"group_wait"`
	// Wait before the next message of a group.
	GroupInterval Duration `yaml:"group_interval"`
	// Wait before a message is sent again.
	RepeatInterval Duration `yaml:"repeat_interval"`
}

// Dolibarr says where instances run.
type Dolibarr struct {
	// Nodes with the role prod that carry instances.
	Prod []string `yaml:"prod" site:"required"`
	// Nodes with the role preprod that carry instances.
	Preprod []string `yaml:"preprod"`
	// Networks of the instances, each a /28 of it; it overlaps no network of the site. Without it: 10.210.0.0/16.
	Pool Prefix `yaml:"pool"`
	// Container images.
	Images *DolibarrImages `yaml:"images"`
	// Defaults of an instance.
	Defaults *DolibarrDefaults `yaml:"defaults"`
}

// DolibarrImages are the images of instances. Names that begin with infractl/ are built with `infractl image build` and pushed to the
// server; others come from a registry, unless an archive of that name was pushed.
type DolibarrImages struct {
	// Dolibarr; without a tag, as is best, the tag is the version of Dolibarr. Without it: infractl/dolibarr. The official one is
	// dolibarr/dolibarr.
	App string `yaml:"app"`
	// MariaDB, with a tag. Without it: infractl/mariadb:10.11. The official one is mariadb, such as mariadb:10.11.10.
	DB string `yaml:"db"`
	// Front of a host. Without it: infractl/front:1.
	Front string `yaml:"front"`
}

// DolibarrDefaults are the defaults of an instance.
type DolibarrDefaults struct {
	// Version of Dolibarr, such as 19.0.4. Without it each instance names its own.
	Version string `yaml:"version"`
	// Time zone of PHP. Without it: the site's.
	Timezone string `yaml:"timezone"`
	// Memory limit of application and database together, 256M to 64G. Without it: 512M.
	Memory Size `yaml:"memory"`
	// Cores, such as 0.5 or 2. Without it: 1.
	CPUs string `yaml:"cpus"`
	// Number of processes, 64 to 4096. Without it: 256.
	PIDs uint32 `yaml:"pids"`
	// Disk space of documents and database together, from 100M on. Without it: 10G.
	Disk Size `yaml:"disk"`
	// Language of the pages that customers see instead of a suspended instance: fr or en. Without it: fr.
	Language string `yaml:"language"`
}

// Backup is what is saved, where to and for how long.
type Backup struct {
	// When: hourly, daily at HH:MM, or weekly on DAY at HH:MM.
	Schedule Schedule `yaml:"schedule" site:"required"`
	// How many are kept.
	Keep *BackupKeep `yaml:"keep"`
	// Places by name; two beside the live data make three copies.
	Copies yamltree.Map[BackupCopy] `yaml:"copies" site:"required"`
	// How often a restore is tried: daily, weekly or monthly.
	Drills string `yaml:"drills"`
}

// BackupKeep says how many backups are kept.
type BackupKeep struct {
	// Last of each day.
	Daily uint32 `yaml:"daily"`
	// Last of each week.
	Weekly uint32 `yaml:"weekly"`
	// Last of each month.
	Monthly uint32 `yaml:"monthly"`
}

// BackupCopy is one place of backups.
type BackupCopy struct {
	// sftp or s3.
	Driver string `yaml:"driver" site:"required"`
	// sftp: USER@HOST:/PATH, where HOST is a node or an entry of hosts. s3: ENDPOINT/BUCKET.
	To string `yaml:"to" site:"required"`
	// Key of sftp.
	Key *SecretRef `yaml:"key"`
	// Credentials of s3.
	Credentials *SecretRef `yaml:"credentials"`
}

// Patching is how the operating systems get their updates.
type Patching struct {
	// security or all.
	Scope string `yaml:"scope" site:"required"`
	// When: DAY HH:MM-HH:MM.
	Window Window `yaml:"window"`
	// Waves in order.
	Waves []PatchWave `yaml:"waves"`
	// never, when-required or always.
	Reboot string `yaml:"reboot"`
	// Whether a snapshot of the VM comes first.
	Snapshot bool `yaml:"snapshot"`
}

// PatchWave is one wave of updates.
type PatchWave struct {
	// Its nodes.
	Nodes []string `yaml:"nodes" site:"required"`
	// Nodes that are updated at once. Without it: 1.
	MaxUnavailable uint32 `yaml:"max_unavailable"`
	// Wait before the next wave.
	Soak Duration `yaml:"soak"`
}

// Logs is the care of logs.
type Logs struct {
	// How long they are kept, 1d to 3650d.
	Keep Duration `yaml:"keep" site:"required"`
}
