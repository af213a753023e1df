// Package instance keeps the customers' Dolibarr instances: their records, and the operations that make, change and remove them.
//
// An instance is a resource. Its record says what it should be, site derives from that what its host, the reverse proxy and the name
// service must know, and a delivery brings it there; operations change the record and wait. What happens once (an installation, a
// password, a purge) is a task for the host's agent.
//
// A record is named by the instance's id, which never changes and names everything of it on its host. Who holds a name or a network is
// said by records of their own, so that no two ever get the same one. They are given back when nothing of the instance is left.
package instance

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/secret"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/store"
)

// The kinds of records that this package owns.
const (
	// KindInstance holds instances by id, KindPurged those that were destroyed, with their certificates: nobody who asks what there is
	// should read through what there was.
	KindInstance store.Kind = "instance"
	KindPurged   store.Kind = "instance.purged"
	// KindName holds the id of the instance that has a name, KindSubnet that of the one that has a network.
	KindName   store.Kind = "instance.name"
	KindSubnet store.Kind = "instance.subnet"
	// KindTemplate holds what the warm template of a version on a host was made of, by NODE/VERSION.
	KindTemplate store.Kind = "instance.template"
)

// Short names of the modes.
const (
	withdrawn = v1.InstanceMode_INSTANCE_MODE_UNSPECIFIED // no host knows of it
	closed    = v1.InstanceMode_INSTANCE_MODE_CLOSED
	running   = v1.InstanceMode_INSTANCE_MODE_RUNNING
	suspended = v1.InstanceMode_INSTANCE_MODE_SUSPENDED
	archived  = v1.InstanceMode_INSTANCE_MODE_ARCHIVED
)

// record is one instance.
type record struct {
	ID      string          `json:"id"`
	Name    string          `json:"name"`
	Node    string          `json:"node"`
	Preprod bool            `json:"preprod,omitempty"`
	Mode    v1.InstanceMode `json:"mode"`
	// Made says that its creation has succeeded. Purged is when it was destroyed.
	Made   bool      `json:"made,omitempty"`
	Purged time.Time `json:"purged,omitzero"`
	// Adopted are the parts of one that infractl did not make, which are used as they are; nil for all others. Its limits of 0 are those
	// that nobody has set.
	Adopted  *adopted `json:"adopted,omitempty"`
	Version  string   `json:"version"`
	AppImage string   `json:"app_image"`
	DBImage  string   `json:"db_image"`
	// Subnet is its network; invalid for an adopted one.
	Subnet netip.Prefix `json:"subnet,omitzero"`
	// Domains are further names beside the default one.
	Domains  []string `json:"domains,omitempty"`
	Limits   limits   `json:"limits"`
	Timezone string   `json:"timezone"`
	Language string   `json:"language"`
	Company  string   `json:"company,omitempty"`
	Country  string   `json:"country"`
	Cron     bool     `json:"cron"`
	Admin    string   `json:"admin"`
	// Secrets are the versions of its secrets by their short names; it is complete or empty. An adopted one has none but admin.
	Secrets map[string]string `json:"secrets,omitempty"`
	// Shown says that somebody has seen the administrator's password.
	Shown   bool     `json:"shown,omitempty"`
	Modules []string `json:"modules,omitempty"`

	Created   time.Time `json:"created"`
	Operator  string    `json:"operator"`
	Suspended time.Time `json:"suspended,omitzero"`
	// PurgeAfter is when an archived one is purged, Noticed when its operators were told that this is near.
	PurgeAfter time.Time `json:"purge_after,omitzero"`
	Noticed    time.Time `json:"noticed,omitzero"`
	Operation  string    `json:"operation,omitempty"`
	// Certificate is the certificate of destruction.
	Certificate string `json:"certificate,omitempty"`
}

// limits are what an instance may use.
type limits struct {
	Memory   uint64 `json:"memory"`
	MilliCPU uint32 `json:"milli_cpu"`
	PIDs     uint32 `json:"pids"`
	Disk     uint64 `json:"disk"`
}

// Sites knows the site and what it makes of the hosts; *revision.Revisions is it.
type Sites interface {
	// Load returns a revision of the site; 0 is the newest.
	Load(ctx context.Context, number uint64) (*site.Site, uint64, error)
	// Derive returns what that revision makes of the hosts with the present resources, which Present returns.
	Derive(ctx context.Context, number uint64) (*revision.Derived, error)
	Present(ctx context.Context) (site.Resources, error)
	// Changed says that the instances are others now.
	Changed()
}

// Rollouts bring changed records to the hosts; *rollout.Rollouts is it.
type Rollouts interface {
	Deliver(ctx context.Context, operator, reason string) (id string, err error)
	Get(ctx context.Context, id string) (*v1.Rollout, error)
	Watch(ctx context.Context, req rollout.WatchRequest, send func(*v1.WatchRolloutResponse) error) error
}

// Secrets keep the values; *secret.Vault is it.
type Secrets interface {
	Make(ctx context.Context, name, operator string) (version string, err error)
	Renew(ctx context.Context, name, operator string) (version string, err error)
	Current(ctx context.Context, name string) (version string, err error)
	Own(ctx context.Context, name string) (secret.Value, error)
	Forget(ctx context.Context, names ...string) error
	Revert(ctx context.Context, name, version string) error
	ForgetFormer(ctx context.Context, names ...string) error
}

// Fleet knows the hosts; *fleet.Fleet is it.
type Fleet interface {
	Node(ctx context.Context, name string) (fleet.Node, error)
}

// Hub reaches their agents; *session.Hub is it.
type Hub interface {
	// DoLive sends a task whose result is worth nothing later: nothing of it is stored.
	DoLive(ctx context.Context, node string, task *v1.Task) (*v1.TaskResult, error)
	Do(ctx context.Context, node string, task *v1.Task, progress func(*v1.TaskProgress)) (*v1.TaskResult, error)
}

// Store is what instances keep their state in.
type Store interface {
	store.Records
	AppendAudit(ctx context.Context, entry store.AuditEntry) (int64, error)
}

// Config is what Instances need.
type Config struct {
	Store Store
	Fleet Fleet
	Hub   Hub
	Clock clock.Clock
	Log   hclog.Logger
	// Site is the site's name, for certificates of destruction; Sign returns a text with its signature below.
	Site string
	Sign func(text []byte) (signed string, err error)
	// Publish sets the public records where the site's public name server takes updates, and returns how many; nil sets none.
	Publish func(ctx context.Context) (int, error)
	// Retract removes those that were set so and are not wanted any more.
	Retract func(ctx context.Context) (int, error)
	// Patience bounds what steps wait for; zero fields get their defaults.
	Patience Patience
}

// Patience says how long others are waited for. Zero means the default in brackets.
type Patience struct {
	// Min and Max bound the pauses between tries [1 s, 15 s].
	Min, Max time.Duration
	// Away is how often a host that is away is tried before an operation fails [12], Delivery how often a delivery is [3].
	Away, Delivery int
	// Names is how long the name servers may take to know a name [15 s], Certificate how long the authority may for a certificate [90 s].
	Names, Certificate time.Duration
}

// Instances are the customers' instances. Use completes it; its methods may be called from many goroutines from then on.
type Instances struct {
	cfg      Config
	records  *store.Table[record]
	purged   *store.Table[record]
	names    *store.Table[string]
	subnets  *store.Table[string]
	template *store.Table[templateRecord]

	sites    Sites
	rollouts Rollouts
	secrets  Secrets
	engine   *operation.Engine

	// placing is held while a place is chosen and taken, so that two creations never get the same room.
	placing sync.Mutex

	turns turns

	mu sync.Mutex
	// busy are the instances that a call works on.
	busy map[string]bool
	// memory is what hosts have, as last measured.
	memory map[string]capacity
	// health says what is wrong with an instance, by id; usage what it uses.
	health map[string]string
	usage  map[string]*v1.Usage
	// disk is what an instance holds, by id; space what hosts have for it, and looked when somebody looked at an instance last.
	disk   map[string]*v1.InstanceDisk
	space  map[string]space
	looked map[string]time.Time
	// seen are the networks of what hosts had when they were last asked: a server that was put back from a backup does not know all of
	// them by its records.
	seen map[string][]netip.Prefix
	// sights are how names were last seen from the world's side, by name.
	sights map[string]*v1.PublicSight
	// found is what the last daily audit found.
	found []*v1.AuditFinding
	// tried says of which images the template of a version on a host was last tried, and when.
	tried map[string]attempt
}

// New returns the instances kept in cfg.Store. They are a source of resources at once; Use must come before anything else.
func New(cfg Config) *Instances {
	p := &cfg.Patience
	if p.Min == 0 {
		p.Min = time.Second
	}
	if p.Max == 0 {
		p.Max = 15 * time.Second
	}
	if p.Away == 0 {
		p.Away = 12
	}
	if p.Delivery == 0 {
		p.Delivery = 3
	}
	if p.Names == 0 {
		p.Names = 15 * time.Second
	}
	if p.Certificate == 0 {
		p.Certificate = 90 * time.Second
	}
	return &Instances{cfg: cfg,
		records:  store.NewTable(cfg.Store, KindInstance, store.JSON[record]()),
		purged:   store.NewTable(cfg.Store, KindPurged, store.JSON[record]()),
		names:    store.NewTable(cfg.Store, KindName, store.JSON[string]()),
		subnets:  store.NewTable(cfg.Store, KindSubnet, store.JSON[string]()),
		template: store.NewTable(cfg.Store, KindTemplate, store.JSON[templateRecord]()),
		busy:     map[string]bool{}, seen: map[string][]netip.Prefix{}, turns: turns{hosts: map[string]chan struct{}{}, held: map[string]func(){}},
		memory: map[string]capacity{}, health: map[string]string{}, usage: map[string]*v1.Usage{},
		sights: map[string]*v1.PublicSight{}, tried: map[string]attempt{},
		disk: map[string]*v1.InstanceDisk{}, space: map[string]space{}, looked: map[string]time.Time{},
	}
}

// Use tells who knows the site, delivers, keeps secrets and carries operations out. The engine must know Kinds.
func (s *Instances) Use(sites Sites, rollouts Rollouts, secrets Secrets, engine *operation.Engine) {
	s.sites, s.rollouts, s.secrets, s.engine = sites, rollouts, secrets, engine
}
