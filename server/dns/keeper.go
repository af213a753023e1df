// Package dns keeps the serials and contents of the zones that the site makes, shows their records and checks them by asking.
package dns

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// The kinds of records that this package owns.
const (
	// KindSerial holds what a zone was served as, under "view/zone"; see recordName.
	KindSerial store.Kind = "dns.serial"
	// KindContent holds master files without serial, under the hexadecimal digits of their digests.
	KindContent store.Kind = "dns.content"
	// KindPublished holds the public records that were set by RFC 2136, under "name/type".
	KindPublished store.Kind = "dns.published"
)

const (
	// remembered is how many former contents of a zone are kept: an apply of one may be under way, and an old revision is shown with the
	// serial that it had.
	remembered = 8
	// fresh is how long a content is kept in any case, and mostFresh how many at most: when many instances are made at once the zone changes
	// with each, and the name server may still be at an early one.
	fresh, mostFresh = 15 * time.Minute, 500
)

// record is what a zone was served as, the newest last.
type record struct {
	Served []served `json:"served"`
}

// served is a zone as a revision of the site had it.
type served struct {
	Revision uint64    `json:"revision"`
	Serial   uint32    `json:"serial"`
	Digest   string    `json:"digest"`
	Time     time.Time `json:"time"`
}

// Keeper keeps serials and contents. Its methods may be called from many goroutines. It implements revision.Zones.
type Keeper struct {
	records store.Records
	table   *store.Table[record]
	clock   clock.Clock
}

// NewKeeper returns the keeper over a store.
func NewKeeper(records store.Records, c clock.Clock) *Keeper {
	return &Keeper{records: records, table: store.NewTable(records, KindSerial, store.JSON[record]()), clock: c}
}

// recordName is under what a zone is remembered. In the inside view it is the zone that it was without views: whoever has a copy of it
// takes only a higher serial.
func recordName(view, name string) string {
	if view == site.ViewInside {
		view = ""
	}
	return view + "/" + name
}

// Serials puts serials into the specs of a site revision. A zone whose content changed gets a new one, which is stored with the content
// before anybody hears of it. For revision 0, a site that is not stored, and for an old revision the serial is what it would be, and
// nothing is stored.
func (k *Keeper) Serials(ctx context.Context, revision uint64, s *site.Site, res site.Resources, specs map[string]*v1.HostSpec) error {
	zones := s.Zones(res)
	if len(zones) == 0 {
		return nil
	}
	serials := map[string]uint32{}
	changed := false
	for _, z := range zones {
		text := z.Text()
		if len(text) > zone.MaxText {
			return errs.New(errs.Invalid, "zone %s has %d bytes, more than %d", z.Name, len(text), zone.MaxText)
		}
		serial, stored, err := k.serial(ctx, revision, z, text)
		if err != nil {
			return errs.Wrap("serial of zone "+z.Name, err)
		}
		serials[recordName(z.View, z.Name)] = serial
		changed = changed || stored
	}
	for _, spec := range specs {
		for _, z := range spec.GetDns().GetZones() {
			if len(z.GetPrimaries()) == 0 {
				z.Serial = serials[recordName(z.GetView(), z.GetName())]
			}
		}
	}
	if changed {
		return k.prune(ctx)
	}
	return nil
}

// serial returns a zone's serial, and whether it was stored just now.
func (k *Keeper) serial(ctx context.Context, revision uint64, z *zone.Zone, text []byte) (uint32, bool, error) {
	digest, name := zone.Digest(text), recordName(z.View, z.Name)
	for {
		it, err := k.table.Get(ctx, name)
		expect := it.Revision
		if errs.Is(err, errs.NotFound) {
			expect, err = store.Absent, nil
		}
		if err != nil {
			return 0, false, err
		}
		if serial, ok := known(it.Value, revision, digest); ok {
			return serial, false, nil
		}
		next := served{Revision: revision, Serial: zone.NextSerial(newest(it.Value).Serial, k.clock.Now()), Digest: digest, Time: k.clock.Now().UTC()}
		if revision == 0 || revision < newest(it.Value).Revision {
			return next.Serial, false, nil
		}
		rec := it.Value
		rec.Served = recent(append(slices.Clone(rec.Served), next), next.Time)
		put, err := k.table.PutOp(name, rec, expect)
		if err != nil {
			return 0, false, err
		}
		_, err = k.records.Write(ctx, put, store.Put{Kind: KindContent, Name: strings.TrimPrefix(digest, "sha256:"), Data: text, Expect: store.Any})
		if err == nil {
			return next.Serial, true, nil
		}
		if !errs.Is(err, errs.Conflict) && !errs.Is(err, errs.Exists) {
			return 0, false, err
		}
	}
}

// recent drops what is not remembered any more.
func recent(list []served, now time.Time) []served {
	for len(list) > remembered && (now.Sub(list[0].Time) > fresh || len(list) > mostFresh) {
		list = list[1:]
	}
	return list
}

func newest(r record) served {
	if len(r.Served) == 0 {
		return served{}
	}
	return r.Served[len(r.Served)-1]
}

// known finds the serial of a content: the newest one's when it has not changed, and for an old revision the one that it had.
func known(r record, revision uint64, digest string) (uint32, bool) {
	last := newest(r)
	if last.Digest == digest {
		return last.Serial, true
	}
	if revision == 0 || revision >= last.Revision {
		return 0, false
	}
	for _, s := range slices.Backward(r.Served) {
		if s.Digest == digest && s.Revision <= revision {
			return s.Serial, true
		}
	}
	return 0, false
}

// prune forgets contents that no zone remembers.
func (k *Keeper) prune(ctx context.Context) error {
	keep, err := k.digests(ctx, nil)
	if err != nil {
		return err
	}
	have, err := k.records.List(ctx, KindContent, store.ListOptions{NamesOnly: true})
	if err != nil {
		return errs.Wrap("list contents of zones", err)
	}
	for some := range slices.Chunk(have, store.MaxOps) {
		var ops []store.Op
		for _, r := range some {
			if !keep["sha256:"+r.Name] {
				ops = append(ops, store.Delete{Kind: KindContent, Name: r.Name, Expect: r.Revision})
			}
		}
		if len(ops) == 0 {
			continue
		}
		// One that was put again meanwhile stays.
		if _, err := k.records.Write(ctx, ops...); err != nil && !errs.Is(err, errs.Conflict) {
			return errs.Wrap("forget contents of zones", err)
		}
	}
	return nil
}

// digests are the contents that zones remember: those of all zones, or of the named ones.
func (k *Keeper) digests(ctx context.Context, only map[string]bool) (map[string]bool, error) {
	items, err := k.table.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, errs.Wrap("list serials", err)
	}
	out := map[string]bool{}
	for _, it := range items {
		if only != nil && !only[it.Name] {
			continue
		}
		for _, s := range it.Value.Served {
			out[s.Digest] = true
		}
	}
	return out, nil
}

// part is how much of a content travels in one message.
const part = 256 << 10

// Wanted is what the nodes must be.
type Wanted interface {
	// HostSpecs returns the specs of the current revision by node; nil while there is none.
	HostSpecs(ctx context.Context) (map[string]*v1.HostSpec, error)
}

// Contents gives contents to nodes. It implements session.Contents.
type Contents struct {
	keeper *Keeper
	wanted Wanted
}

// NewContents returns what gives the keeper's contents to the nodes whose wanted specs name them.
func NewContents(k *Keeper, w Wanted) *Contents { return &Contents{k, w} }

// Fetch sends a content to a node. Denied unless a zone of the node's wanted spec has it, or had it a moment ago, for a host that is
// still at work on that.
func (c *Contents) Fetch(ctx context.Context, node string, req *v1.FetchContentRequest, send func(*v1.FetchContentResponse) error) error {
	digits, ok := strings.CutPrefix(req.GetDigest(), "sha256:")
	if !ok || len(digits) != 64 || strings.Trim(digits, "0123456789abcdef") != "" {
		return errs.New(errs.Invalid, "%.100q is no digest", req.GetDigest())
	}
	specs, err := c.wanted.HostSpecs(ctx)
	if err != nil {
		return err
	}
	zones := map[string]bool{}
	named := false
	for _, z := range specs[node].GetDns().GetZones() {
		if z.GetContentDigest() != "" {
			zones[recordName(z.GetView(), z.GetName())] = true
			named = named || z.GetContentDigest() == req.GetDigest()
		}
	}
	if !named && len(zones) > 0 {
		former, err := c.keeper.digests(ctx, zones)
		if err != nil {
			return err
		}
		named = former[req.GetDigest()]
	}
	if !named {
		return errs.New(errs.Denied, "what node %s must be does not name the content %s", node, req.GetDigest())
	}
	rec, err := c.keeper.records.Get(ctx, KindContent, digits)
	if err != nil {
		return errs.Wrap("read content", err)
	}
	for some := range slices.Chunk(rec.Data, part) {
		if err := send(&v1.FetchContentResponse{Data: some}); err != nil {
			return err
		}
	}
	return nil
}
