package lab

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/errs"
)

// DefaultCacheDir is where engine data, images and the disks of running labs are kept; the environment variable
// INFRACTL_LAB_CACHE replaces it.
const DefaultCacheDir = "/var/cache/infractl-lab"

// Variants of a VM. Both are Debian; VariantUbuntu starts the way an Ubuntu server does where that matters.
const (
	VariantDebian = "debian" // ssh.service, a plain /etc/resolv.conf
	VariantUbuntu = "ubuntu" // ssh.socket, systemd-resolved with its stub link, rsyslog and an inactive ufw
)

// Config says what a lab consists of. The zero values of all fields but Name and Dir are usable.
type Config struct {
	// Name keeps labs apart: it is part of every namespace and container name. Lower-case letters, digits, hyphens.
	Name string
	// Dir is the folder of the lab's state file. It belongs to the caller and is made if missing.
	Dir string
	// CacheDir replaces INFRACTL_LAB_CACHE and DefaultCacheDir.
	CacheDir string
	// Replace takes a lab of the same name down first instead of refusing to start beside it.
	Replace bool

	Networks   []Network
	VMs        []VMSpec
	Namespaces []NamespaceSpec

	// Log receives details; nil discards them.
	Log hclog.Logger `json:"-"`
	// Progress receives one line per slow step, for people; nil discards them. It may be called from several goroutines.
	Progress func(string) `json:"-"`
}

// Network is one bridge inside the site's namespace. The bridge has no address: the router is a VM.
type Network struct {
	Name string
	CIDR netip.Prefix
}

// Interface is one network card of a VM or of a namespace.
type Interface struct {
	// Network names the bridge; empty for Name "lo", which only takes addresses.
	Network string
	// Name is the card's name inside: eth0.
	Name      string
	Addresses []netip.Prefix
	// MAC is derived from owner and name where it is empty, so that it is the same after every boot.
	MAC string
}

// Route is one static route, set after the addresses.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr
}

// Mount shows a folder or file of the machine in a VM.
type Mount struct {
	Host, Guest string
	RO          bool
}

// File is written into the VM's own disk before its first boot. /etc/hosts, /etc/hostname and /etc/resolv.conf may be
// given too.
type File struct {
	Guest   string
	Mode    fs.FileMode
	Content []byte `json:",omitempty"`
}

// SmallDisk is a file system of fixed size, to be filled by VM.FillDisk. Its content survives reboots and power cuts: it
// is a tmpfs that the machine holds and the VM sees.
type SmallDisk struct {
	Guest string
	MiB   int
}

// VMSpec is one virtual machine.
type VMSpec struct {
	Name       string
	Interfaces []Interface
	Routes     []Route
	// Mounts, Files and EnableUnits are in place before the first boot.
	Mounts      []Mount
	Files       []File
	SmallDisks  []SmallDisk
	EnableUnits []string
	// NestedDocker gives the VM a Docker engine of its own, started at boot, that holds the image infractl-lab/busybox.
	NestedDocker bool
	// Sysctls are set at every boot before the addresses. Only net.* belongs to a VM.
	Sysctls map[string]string
	// Variant is VariantDebian (also when empty) or VariantUbuntu.
	Variant string
	// AddressDelay holds addresses and routes back after the start of each boot, as a slow DHCP server does.
	AddressDelay time.Duration
}

// NamespaceSpec is a light host: a network namespace with programs of the machine run in it by Namespace.Command.
type NamespaceSpec struct {
	Name       string
	Interfaces []Interface
	Routes     []Route
	Sysctls    map[string]string
}

// VM returns the VM with that name for editing, or nil.
func (c *Config) VM(name string) *VMSpec {
	for i := range c.VMs {
		if c.VMs[i].Name == name {
			return &c.VMs[i]
		}
	}
	return nil
}

// VMNames returns the names of all VMs in their order.
func (c *Config) VMNames() []string {
	names := make([]string, 0, len(c.VMs))
	for _, vm := range c.VMs {
		names = append(names, vm.Name)
	}
	return names
}

const (
	maxName    = 24 // host names and namespace names stay readable
	maxNetwork = 12 // "br-" and the name fit into 15 bytes
	maxCards   = 16
)

var (
	nameRE   = regexp.MustCompile(`^[a-z][a-z0-9-]*[a-z0-9]$`)
	cardRE   = regexp.MustCompile(`^[a-z][a-z0-9]{0,8}$`)
	sysctlRE = regexp.MustCompile(`^net\.[a-z0-9_./-]+$`)
	unitRE   = regexp.MustCompile(`^[A-Za-z0-9@_.:-]+$`)
)

// Validate refuses what could not be built, before anything is built.
func (c *Config) Validate() error {
	if !nameRE.MatchString(c.Name) || len(c.Name) > maxName {
		return invalid("lab", c.Name, "the name needs 2 to %d lower-case letters, digits and hyphens", maxName)
	}
	if c.Dir == "" {
		return invalid("lab", c.Name, "Dir is missing")
	}
	networks := map[string]bool{}
	for _, n := range c.Networks {
		switch {
		case !nameRE.MatchString(n.Name) || len(n.Name) > maxNetwork:
			return invalid("network", n.Name, "the name needs 2 to %d lower-case letters, digits and hyphens", maxNetwork)
		case networks[n.Name]:
			return invalid("network", n.Name, "the name is taken")
		case !n.CIDR.IsValid():
			return invalid("network", n.Name, "the CIDR is missing")
		}
		networks[n.Name] = true
	}
	hosts := map[string]bool{}
	host := func(kind, name string, cards []Interface, routes []Route, sysctls map[string]string) error {
		if !nameRE.MatchString(name) || len(name) > maxName {
			return invalid(kind, name, "the name needs 2 to %d lower-case letters, digits and hyphens", maxName)
		}
		if hosts[name] {
			return invalid(kind, name, "the name is taken")
		}
		hosts[name] = true
		return checkHost(kind, name, networks, cards, routes, sysctls)
	}
	for i := range c.VMs {
		vm := &c.VMs[i]
		if err := host("VM", vm.Name, vm.Interfaces, vm.Routes, vm.Sysctls); err != nil {
			return err
		}
		if err := vm.check(); err != nil {
			return err
		}
	}
	for _, ns := range c.Namespaces {
		if err := host("namespace", ns.Name, ns.Interfaces, ns.Routes, ns.Sysctls); err != nil {
			return err
		}
	}
	return nil
}

func checkHost(kind, name string, networks map[string]bool, cards []Interface, routes []Route, sysctls map[string]string) error {
	seen := map[string]bool{}
	if len(cards) > maxCards {
		return invalid(kind, name, "more than %d interfaces", maxCards)
	}
	for _, card := range cards {
		switch {
		case !cardRE.MatchString(card.Name):
			return invalid(kind, name, "interface name %q is not usable", card.Name)
		case seen[card.Name]:
			return invalid(kind, name, "interface %s is there twice", card.Name)
		case (card.Name == "lo") != (card.Network == ""):
			return invalid(kind, name, "interface %s: every interface but lo needs a network, and lo has none", card.Name)
		case card.Network != "" && !networks[card.Network]:
			return invalid(kind, name, "interface %s: network %q does not exist", card.Name, card.Network)
		}
		if card.MAC != "" {
			if mac, err := net.ParseMAC(card.MAC); err != nil || len(mac) != 6 {
				return invalid(kind, name, "interface %s: MAC %q is wrong", card.Name, card.MAC)
			}
		}
		for _, a := range card.Addresses {
			if !a.IsValid() {
				return invalid(kind, name, "interface %s: an address is empty", card.Name)
			}
		}
		seen[card.Name] = true
	}
	for _, r := range routes {
		if !r.Dst.IsValid() || !r.Via.IsValid() || r.Dst.Addr().Is4() != r.Via.Is4() {
			return invalid(kind, name, "route %s via %s is wrong", r.Dst, r.Via)
		}
	}
	for key, value := range sysctls {
		if !sysctlRE.MatchString(key) || strings.Contains(key, "..") || strings.ContainsAny(value, "\n\x00") {
			return invalid(kind, name, "sysctl %q is not its own: only net.* is", key)
		}
	}
	return nil
}

func (s *VMSpec) check() error {
	if !slices.Contains([]string{"", VariantDebian, VariantUbuntu}, s.Variant) {
		return invalid("VM", s.Name, "variant %q does not exist", s.Variant)
	}
	for _, m := range s.Mounts {
		if !filepath.IsAbs(m.Host) || !cleanGuest(m.Guest) {
			return invalid("VM", s.Name, "mount %s:%s needs two clean absolute paths", m.Host, m.Guest)
		}
	}
	for _, f := range s.Files {
		if !cleanGuest(f.Guest) {
			return invalid("VM", s.Name, "file %q needs a clean absolute path", f.Guest)
		}
	}
	for _, d := range s.SmallDisks {
		if !cleanGuest(d.Guest) || d.MiB < 1 || d.MiB > 4096 {
			return invalid("VM", s.Name, "small disk %q needs a clean absolute path and 1 to 4096 MiB", d.Guest)
		}
	}
	for _, u := range s.EnableUnits {
		if !unitRE.MatchString(u) {
			return invalid("VM", s.Name, "unit name %q is not usable", u)
		}
	}
	return nil
}

func cleanGuest(p string) bool { return path.IsAbs(p) && path.Clean(p) == p && p != "/" }

func invalid(kind, name, format string, args ...any) error {
	return errs.New(errs.Invalid, format, args...).At(kind + " " + name)
}

// MACFor returns the address of a card whose Interface has none: locally administered, derived from the two names.
func MACFor(owner, card string) string {
	sum := sha256.Sum256([]byte(owner + "/" + card))
	return fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3], sum[4])
}
