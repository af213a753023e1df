package app

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
	"github.com/infractl/infractl/server/console"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/session"
)

// Defaults of a server that was installed in the usual way.
const (
	DefaultDataDir   = "/var/lib/infractl-server"
	DefaultSocket    = "/run/infractl-server/admin.sock"
	DefaultFirstboot = "/etc/infractl/firstboot.d"
	DefaultSessions  = ":7443"
	DefaultEnrolment = ":7444"
)

// DefaultKeepAudit is how long audit entries are kept: a year, and time to look at the year that is over.
const DefaultKeepAudit = 400 * 24 * time.Hour

// serverName is the name in the server's certificate.
const serverName = "server"

// Config says how a server runs. The zero value of most fields means "as init wrote it" or the default.
type Config struct {
	// DataDir is the folder of the database and of server.json.
	DataDir string
	// KeyDir is the folder of the certificate authority, of admin codes and of the recovery key's public half; it is apart
	// from DataDir so that a copy of the data alone gives no identity away. Empty means DataDir with "-keys" behind it.
	KeyDir string
	// StoreKey is the file of the key that opens secrets; empty means store.key in KeyDir.
	StoreKey string
	// Sessions and Enrolment are the addresses to listen on; a port of 0 takes any free one.
	Sessions  string
	Enrolment string
	// Socket is the path of the Unix socket for logins.
	Socket string
	// SocketUIDs are the users who may use the socket; empty means root alone.
	SocketUIDs []uint32
	// Site is the site's name; needed by Init only.
	Site string
	// Addresses are the IP addresses (or names) by which agents and operators reach the server, in order of preference.
	Addresses []string
	// Names are DNS names for its certificate.
	Names []string
	// Firstboot is the folder where Init leaves the ports that the first-boot firewall of this machine opens; empty means
	// that it leaves nothing.
	Firstboot string
	// Heartbeat is the interval that agents are told; 0 is the default of package session.
	Heartbeat time.Duration
	// KeepAudit is how long audit entries are kept; 0 means DefaultKeepAudit.
	KeepAudit time.Duration
	// Limits bound enrolments; zero fields have defaults.
	Limits session.EnrolmentLimits
	// Consoles bound logs and commands; zero fields have defaults.
	Consoles console.Limits
	Clock    clock.Clock
	Log      hclog.Logger
	// site stands in for the revisions in tests.
	site fleet.Site
}

func (c *Config) setDefaults() {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.DataDir, DefaultDataDir)
	c.DataDir = filepath.Clean(c.DataDir)
	set(&c.KeyDir, c.DataDir+"-keys")
	set(&c.Sessions, DefaultSessions)
	set(&c.Enrolment, DefaultEnrolment)
	set(&c.Socket, DefaultSocket)
	if c.SocketUIDs == nil {
		c.SocketUIDs = []uint32{0}
	}
	if c.KeepAudit <= 0 {
		c.KeepAudit = DefaultKeepAudit
	}
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.Log == nil {
		c.Log = hclog.NewNullLogger()
	}
}

func (c *Config) storeDir() string  { return filepath.Join(c.DataDir, "store") }
func (c *Config) imagesDir() string { return filepath.Join(c.DataDir, "images") }
func (c *Config) caDir() string     { return filepath.Join(c.KeyDir, "ca") }
func (c *Config) codesDir() string  { return filepath.Join(c.KeyDir, "admin-codes") }
func (c *Config) recipient() string { return filepath.Join(c.KeyDir, "recovery.pub") }
func (c *Config) settings() string  { return filepath.Join(c.DataDir, "server.json") }
func (c *Config) ips() (ips []net.IP) {
	for _, a := range append([]string{"127.0.0.1", "::1"}, c.Addresses...) {
		if ip := net.ParseIP(a); ip != nil {
			ips = append(ips, ip)
		}
	}
	return ips
}

func (c *Config) dnsNames() []string {
	names := append([]string{"localhost"}, c.Names...)
	for _, a := range c.Addresses {
		if net.ParseIP(a) == nil {
			names = append(names, a)
		}
	}
	return names
}

// settings is what Init writes for later runs.
type settings struct {
	Site      string   `json:"site"`
	Addresses []string `json:"addresses"`
	Names     []string `json:"names,omitempty"`
}

func (c *Config) writeSettings() error {
	data, err := json.MarshalIndent(settings{Site: c.Site, Addresses: c.Addresses, Names: c.Names}, "", "  ")
	if err != nil {
		return errs.Wrap("write settings", err)
	}
	return errs.Wrap("write settings", certs.WriteFile(c.settings(), append(data, '\n'), 0o600))
}

// readSettings fills the fields that the caller left empty from what Init wrote.
func (c *Config) readSettings() error {
	const op = "read settings"
	data, err := os.ReadFile(c.settings())
	if os.IsNotExist(err) {
		return errs.Wrap(op, errs.New(errs.Precondition, "there is no server here").At(c.DataDir).
			WithHint("infractl-server init --site NAME --address ADDRESS"))
	}
	if err != nil {
		return errs.Wrap(op, errs.New(errs.Internal, "%w", err).At(c.settings()))
	}
	var s settings
	if err := strictjson.Unmarshal(data, &s); err != nil {
		return errs.Wrap(op, errs.New(errs.Invalid, "%w", err).At(c.settings()))
	}
	c.Site = s.Site
	if len(c.Addresses) == 0 {
		c.Addresses = s.Addresses
	}
	if len(c.Names) == 0 {
		c.Names = s.Names
	}
	return errs.Wrap(op, c.checkAddresses())
}

func (c *Config) checkAddresses() error {
	if len(c.Addresses) == 0 || len(c.Addresses) > 8 {
		return errs.New(errs.Invalid, "a server has 1 to 8 addresses, not %d", len(c.Addresses)).
			WithHint("--address 10.0.10.4: an address by which every node reaches this machine")
	}
	for _, a := range append(append([]string{}, c.Addresses...), c.Names...) {
		if ip := net.ParseIP(a); ip != nil && !ip.IsUnspecified() {
			continue
		}
		if !validHost(a) {
			return errs.New(errs.Invalid, "%.80q is neither an IP address nor a host name", a)
		}
	}
	return nil
}

func validHost(name string) bool {
	if name == "" || len(name) > 253 || net.ParseIP(name) != nil {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return true
}
