// Package zone makes DNS zones: records, checks of them, and master files whose serial is put in last.
package zone

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// The times of all zones, in seconds. What does not exist is remembered for an hour (RFC 2308 advises 1 to 3).
const (
	TTL         = 3600
	refresh     = 3600
	retry       = 900
	expire      = 1209600
	negativeTTL = 3600
)

// MaxText is the greatest size of a master file in bytes.
const MaxText = 8 << 20

// Record is one record. Names are full, in small letters and without a final dot.
type Record struct {
	// Name is whose record it is, Type one of A, AAAA, CNAME, NS, PTR, TXT.
	Name, Type string
	// Value is its data: an address, a name without final dot, or text.
	Value string
	// Reason says where it comes from, for people.
	Reason string
}

// Zone is one zone. Its SOA record is made from the other fields.
type Zone struct {
	// Name is the zone's name, View the view that it is in; empty where there are none.
	Name, View string
	// Primary is the server that the SOA names, Contact the mailbox of who answers for it, written as a name.
	Primary, Contact string
	// Records are all others, the NS records among them.
	Records []Record
	// Dynamic says that its records come by RFC 2136.
	Dynamic bool
}

// Add adds records that are not there yet.
func (z *Zone) Add(records ...Record) {
	z.Records = append(z.Records, records...)
}

// Sort brings the records into the order of the master file, and drops those that are there twice.
func (z *Zone) Sort() {
	slices.SortStableFunc(z.Records, func(a, b Record) int {
		return cmp.Or(compareNames(z.Name, a.Name, b.Name), cmp.Compare(a.Type, b.Type), compareValues(a.Value, b.Value))
	})
	z.Records = slices.CompactFunc(z.Records, func(a, b Record) bool {
		return a.Name == b.Name && a.Type == b.Type && a.Value == b.Value
	})
}

// compareNames puts the zone itself first, and reverse names in the order of their addresses.
func compareNames(zone, a, b string) int {
	if a == b {
		return 0
	}
	if a == zone {
		return -1
	}
	if b == zone {
		return 1
	}
	if strings.HasSuffix(zone, ".arpa") {
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	}
	return cmp.Compare(a, b)
}

func compareValues(a, b string) int {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	if errX == nil && errY == nil {
		return x.Compare(y)
	}
	return cmp.Compare(a, b)
}

// Within reports whether a name is the zone's or below it.
func Within(name, zone string) bool {
	return name == zone || strings.HasSuffix(name, "."+zone)
}

// IsHostName reports whether a machine can have the name: labels of small letters, digits and inner hyphens.
func IsHostName(name string) bool { return isName(name, false) }

func isName(name string, underscore bool) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		if underscore {
			label = strings.TrimPrefix(label, "_")
		}
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range []byte(label) {
			if r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') {
				return false
			}
		}
	}
	return true
}

// Check returns an Invalid error for what a name server would refuse, or serve and nobody could use: a name that is no host name, a
// record outside of its zone, a CNAME beside other data, a zone without NS, a name server without an address, an A without its PTR or
// a PTR without its A. All zones are given together: names of one point into another.
func Check(zones []*Zone) error {
	for view, all := range byView(zones) {
		c := &checker{view: view, byName: map[string][]Record{}, zones: all}
		if err := c.check(); err != nil {
			return err
		}
	}
	return nil
}

func byView(zones []*Zone) map[string][]*Zone {
	out := map[string][]*Zone{}
	for _, z := range zones {
		out[z.View] = append(out[z.View], z)
	}
	return out
}

type checker struct {
	view   string
	zones  []*Zone
	byName map[string][]Record
}

func (c *checker) check() error {
	seen := map[string]bool{}
	for _, z := range c.zones {
		if seen[z.Name] {
			return errs.New(errs.Invalid, "zone %s is there twice", z.Name)
		}
		seen[z.Name] = true
		if !isName(z.Name, true) || !IsHostName(z.Contact) {
			return errs.New(errs.Invalid, "%.100q is no name for a zone", z.Name)
		}
		for _, r := range z.Records {
			if err := checkRecord(z, r); err != nil {
				return err
			}
			c.byName[r.Name] = append(c.byName[r.Name], r)
		}
	}
	for _, z := range c.zones {
		if err := c.alone(z); err != nil {
			return err
		}
		if err := c.servers(z); err != nil {
			return err
		}
		if err := c.pairs(z); err != nil {
			return err
		}
	}
	return nil
}

// checkRecord looks at one record by itself.
func checkRecord(z *Zone, r Record) error {
	bad := func(format string, args ...any) *errs.Error {
		return errs.New(errs.Invalid, format, args...).At("zone " + z.Name)
	}
	if !Within(r.Name, z.Name) {
		return bad("%.100q is not in zone %s", r.Name, z.Name)
	}
	switch r.Type {
	case "A", "AAAA":
		a, err := netip.ParseAddr(r.Value)
		if err != nil || a.Is4() != (r.Type == "A") || a.Zone() != "" {
			return bad("%s: %.100q is no address of type %s", r.Name, r.Value, r.Type)
		}
		if host := strings.TrimPrefix(r.Name, "*."); !IsHostName(host) {
			return bad("%.100q is no host name", r.Name).WithHint("letters, digits and hyphens, 63 at most between two dots")
		}
	case "CNAME", "NS", "PTR":
		if !IsHostName(r.Value) {
			return bad("%s: %.100q is no host name", r.Name, r.Value)
		}
		if !isName(strings.TrimPrefix(r.Name, "*."), true) {
			return bad("%.100q is no name", r.Name)
		}
	case "TXT":
		if !isName(r.Name, true) || len(r.Value) > 255 || strings.ContainsAny(r.Value, "\"\\\n\r") {
			return bad("%s: a text that cannot stand in a zone", r.Name)
		}
	default:
		return bad("%s: %.20q is no type of record", r.Name, r.Type)
	}
	return nil
}

// alone refuses a CNAME beside other data.
func (c *checker) alone(z *Zone) error {
	for _, r := range z.Records {
		if r.Type != "CNAME" {
			continue
		}
		for _, other := range c.byName[r.Name] {
			if other.Type != "CNAME" || other.Value != r.Value {
				return errs.New(errs.Invalid, "%s is an alias of %s (%s), and has a record of type %s too (%s)", r.Name, r.Value, r.Reason, other.Type, other.Reason).
					At("zone " + z.Name).WithHint("a name that is an alias can have no other data: choose another name")
			}
		}
		if r.Name == z.Name {
			return errs.New(errs.Invalid, "zone %s cannot be an alias itself", z.Name)
		}
	}
	return nil
}

// servers looks at SOA and NS: each server that lies in a zone of ours has an address and is no alias.
func (c *checker) servers(z *Zone) error {
	names := []string{z.Primary}
	found := false
	for _, r := range z.Records {
		if r.Type == "NS" {
			names = append(names, r.Value)
			found = found || r.Name == z.Name
		}
	}
	if !found {
		return errs.New(errs.Invalid, "zone %s has no name server", z.Name)
	}
	for _, name := range names {
		if !c.ours(name) {
			if z.View == "outside" || !IsHostName(name) {
				return errs.New(errs.Invalid, "zone %s: its server %.100s has no address here", z.Name, name)
			}
			continue
		}
		if !slices.ContainsFunc(c.byName[name], isAddress) {
			return errs.New(errs.Invalid, "zone %s: its server %s has no address", z.Name, name)
		}
	}
	return nil
}

func (c *checker) ours(name string) bool {
	return slices.ContainsFunc(c.zones, func(z *Zone) bool { return Within(name, z.Name) })
}

func isAddress(r Record) bool { return r.Type == "A" || r.Type == "AAAA" }

// pairs looks at addresses and their names, both ways.
func (c *checker) pairs(z *Zone) error {
	for _, r := range z.Records {
		switch {
		case isAddress(r):
			back := ReverseName(netip.MustParseAddr(r.Value))
			if c.ours(back) && !slices.ContainsFunc(c.byName[back], func(p Record) bool { return p.Type == "PTR" }) {
				return errs.New(errs.Invalid, "%s has the address %s, and that has no name back", r.Name, r.Value)
			}
		case r.Type == "PTR":
			there := slices.ContainsFunc(c.byName[r.Value], func(a Record) bool {
				return isAddress(a) && ReverseName(netip.MustParseAddr(a.Value)) == r.Name
			})
			if c.ours(r.Value) && !there {
				return errs.New(errs.Invalid, "%s says %s, and that has not this address", r.Name, r.Value)
			}
		}
	}
	return nil
}
