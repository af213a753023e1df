package site

import (
	"net/netip"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Instance is a customer's Dolibarr as a resource: what a host, the proxy and the name service must know of it.
type Instance struct {
	// Name is its name, ID names what belongs to it on its host, Node is that host.
	Name, ID, Node string
	// Mode is what it should be.
	Mode v1.InstanceMode
	// Version is the version of Dolibarr.
	Version string
	// AppImage and DBImage are the images by reference, as image archives name them.
	AppImage, DBImage string
	// Subnet is its network.
	Subnet netip.Prefix
	// Domains are further names, beside the default one, which the proxy's domain makes of Name.
	Domains []string
	// MemoryBytes, MilliCPUs, PIDs and DiskBytes are its limits.
	MemoryBytes     uint64
	MilliCPUs, PIDs uint32
	DiskBytes       uint64
	// Timezone is PHP's, Language the customer's (fr or en).
	Timezone, Language string
	// Cron says whether scheduled jobs run.
	Cron bool
	// AdminLogin is its administrator's login.
	AdminLogin string
	// Secrets are the version ids of its secrets by their names, such as db-root; SecretName makes the names in the server's store.
	Secrets map[string]string
	// Adopted names the parts of one that infractl did not make; nil for all others. Then limits of 0 mean that nobody set them.
	Adopted *v1.AdoptedInstance
}
