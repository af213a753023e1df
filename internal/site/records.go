package site

import (
	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// DNSRecords are the records of the site's zones, or those that the world must find, as they are shown; sorted by zone and name.
func (s *Site) DNSRecords(res Resources, public bool) []*v1.Record {
	var out []*v1.Record
	add := func(of *zone.Zone, r zone.Record, public bool) {
		one := &v1.Record{Name: r.Name, Type: r.Type, Value: r.Value, Ttl: zone.TTL, Reason: r.Reason, Public: public}
		if of != nil {
			one.Zone, one.View = of.Name, of.View
		}
		out = append(out, one)
	}
	if public {
		for _, r := range s.PublicRecords(res) {
			add(nil, r, true)
		}
		return out
	}
	for _, z := range s.Zones(res) {
		for _, r := range z.Records {
			add(z, r, false)
		}
	}
	return out
}
