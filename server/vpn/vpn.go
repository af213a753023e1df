// Package vpn keeps the peers of the tunnel: the machines of people, each with a public key and an address of its own. Private
// keys are made where they are used and never come here.
package vpn

import (
	"context"
	"encoding/base64"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// KindPeer is the kind of the records of peers, under their names.
const KindPeer store.Kind = "vpn.peer"

// KindAddress holds one record for each address that a peer has, so that no two ever get the same one.
const KindAddress store.Kind = "vpn.address"

// maxPeers is how many peers there may be: what one router section carries with room to spare.
const maxPeers = 1000

// Sites gives the site of the current revision; 0 is the newest.
type Sites interface {
	Load(ctx context.Context, number uint64) (*site.Site, uint64, error)
	// Changed says that the peers are others now.
	Changed()
}

// Deliverer brings changed resources to the hosts that they concern.
type Deliverer interface {
	Deliver(ctx context.Context, operator, reason string) (rolloutID string, err error)
}

// Peers are the stored peers; they are a source of resources.
type Peers struct {
	records store.Records
	table   *store.Table[record]
}

type record struct {
	Name      string       `json:"name"`
	PublicKey string       `json:"public_key"`
	Addresses []netip.Addr `json:"addresses"`
	Operator  string       `json:"operator"`
	Created   time.Time    `json:"created"`
}

// NewPeers returns the peers kept in records.
func NewPeers(records store.Records) *Peers {
	return &Peers{records: records, table: store.NewTable(records, KindPeer, store.JSON[record]())}
}

// Resources implements revision.Source.
func (p *Peers) Resources(ctx context.Context, into *site.Resources) error {
	items, err := p.table.List(ctx, store.ListOptions{})
	if err != nil {
		return errs.Wrap("list the tunnel's peers", err)
	}
	for _, it := range items {
		into.Peers = append(into.Peers, site.TunnelPeer{Name: it.Value.Name, PublicKey: it.Value.PublicKey, Addresses: it.Value.Addresses})
	}
	return nil
}

// Config is what a Service needs.
type Config struct {
	Peers   *Peers
	Sites   Sites
	Deliver Deliverer
	// Router returns what a router last reported; nil before its first report.
	Router func(ctx context.Context, node string) (*v1.RouterReport, error)
	Clock  clock.Clock
}

// Service is the VpnService.
type Service struct {
	v1.UnimplementedVpnServiceServer
	cfg Config
}

// NewService returns the service.
func NewService(cfg Config) *Service { return &Service{cfg: cfg} }

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,29}[a-z0-9])?$`)

func checkName(name string) error {
	if !nameForm.MatchString(name) {
		return errs.New(errs.Invalid, "%.40q cannot name a peer", name).
			WithHint("small letters, digits and hyphens, at most 31, such as operator-laptop")
	}
	return nil
}

// checkKey refuses what is no key, and the key of all zeros, for which WireGuard has a special meaning.
func checkKey(key string) error {
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(raw) != 32 || len(key) != 44 {
		return errs.New(errs.Invalid, "the public key is no WireGuard key").WithHint("44 characters of base64, as wg pubkey prints them")
	}
	if !slices.ContainsFunc(raw, func(b byte) bool { return b != 0 }) {
		return errs.New(errs.Invalid, "the public key is all zeros")
	}
	return nil
}
