package zone

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

// pair is a zone with one machine, and the zone of the way back.
func pair() []*Zone {
	ns := func(z string) Record { return Record{Name: z, Type: "NS", Value: "srv.corp.lab"} }
	return []*Zone{
		{Name: "corp.lab", Primary: "srv.corp.lab", Contact: "hostmaster.corp.lab", Records: []Record{ns("corp.lab"),
			{Name: "srv.corp.lab", Type: "A", Value: "10.0.10.10", Reason: "node srv"},
			{Name: "www.corp.lab", Type: "CNAME", Value: "srv.corp.lab", Reason: "alias"}}},
		{Name: "10.0.10.in-addr.arpa", Primary: "srv.corp.lab", Contact: "hostmaster.corp.lab", Records: []Record{ns("10.0.10.in-addr.arpa"),
			{Name: "10.10.0.10.in-addr.arpa", Type: "PTR", Value: "srv.corp.lab"}}},
	}
}

func TestCheckRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(z []*Zone)
		want   string
	}{
		"CNAME beside other data": {func(z []*Zone) {
			z[0].Add(Record{Name: "www.corp.lab", Type: "A", Value: "10.0.10.10", Reason: "node www"})
		}, "www.corp.lab is an alias of srv.corp.lab (alias), and has a record of type A too (node www)"},
		"two CNAMEs": {func(z []*Zone) { z[0].Add(Record{Name: "www.corp.lab", Type: "CNAME", Value: "x.corp.lab"}) }, "is an alias of"},
		"name that is no host name": {func(z []*Zone) {
			z[0].Add(Record{Name: "bad_name.corp.lab", Type: "A", Value: "10.0.10.10"})
		}, `"bad_name.corp.lab" is no host name`},
		"label that is too long": {func(z []*Zone) {
			z[0].Add(Record{Name: strings.Repeat("a", 64) + ".corp.lab", Type: "A", Value: "10.0.10.10"})
		}, "is no host name"},
		"final dot":              {func(z []*Zone) { z[0].Records[2].Value = "srv.corp.lab." }, `"srv.corp.lab." is no host name`},
		"name of another zone":   {func(z []*Zone) { z[0].Add(Record{Name: "srv.other.lab", Type: "A", Value: "10.0.10.10"}) }, "is not in zone"},
		"line end in a text":     {func(z []*Zone) { z[0].Add(Record{Name: "t.corp.lab", Type: "TXT", Value: "a\nb"}) }, "cannot stand in a zone"},
		"A without its PTR":      {func(z []*Zone) { z[0].Add(Record{Name: "x.corp.lab", Type: "A", Value: "10.0.10.11"}) }, "has no name back"},
		"PTR without its A":      {func(z []*Zone) { z[1].Records[1].Value = "vrouter.corp.lab" }, "has not this address"},
		"PTR without the domain": {func(z []*Zone) { z[1].Records[1].Value = "client-relay.10.0.10.in-addr.arpa" }, "has not this address"},
		"primary without an address": {func(z []*Zone) {
			z[0].Primary = "corp.lab"
		}, "its server corp.lab has no address"},
		"no name server": {func(z []*Zone) { z[0].Records = z[0].Records[1:] }, "no name server"},
		"IPv6 as A":      {func(z []*Zone) { z[0].Records[1].Value = "fd00::1" }, "no address of type A"},
	} {
		t.Run(name, func(t *testing.T) {
			zones := pair()
			if err := Check(zones); err != nil {
				t.Fatalf("good zones are refused: %v", err)
			}
			c.change(zones)
			if err := Check(zones); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestTextIsTheSameForTheSameRecords(t *testing.T) {
	z := pair()[0]
	want := Header + `corp.lab. 3600 IN SOA srv.corp.lab. hostmaster.corp.lab. 2026112400 3600 900 1209600 3600
corp.lab. 3600 IN NS srv.corp.lab.
srv.corp.lab. 3600 IN A 10.0.10.10
www.corp.lab. 3600 IN CNAME srv.corp.lab.
`
	z.Records = append([]Record{z.Records[2], z.Records[1], z.Records[1]}, z.Records...)
	got, err := WithSerial(z.Text(), 2026112400)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if _, err := WithSerial(got, 1); err == nil {
		t.Error("a text without a place for the serial was taken")
	}
}

// Whatever is rendered is read again by another program's parser, record for record.
func TestTextIsReadByOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		z := &Zone{Name: "corp.lab", Primary: "srv.corp.lab", Contact: "hostmaster.corp.lab"}
		want := map[string]bool{}
		for i := range rapid.IntRange(1, 20).Draw(t, "n") {
			r := Record{Name: fmt.Sprintf("%s%d.corp.lab", rapid.StringMatching(`[a-z][a-z0-9-]{0,20}`).Draw(t, "label"), i)}
			switch rapid.IntRange(0, 3).Draw(t, "type") {
			case 0:
				r.Type, r.Value = "A", netip.AddrFrom4([4]byte{10, byte(i), 1, 2}).String()
			case 1:
				r.Type, r.Value = "AAAA", fmt.Sprintf("fd00::%x", i+1)
			case 2:
				r.Type, r.Value = "CNAME", "srv.corp.lab"
			case 3:
				r.Type, r.Value = "TXT", rapid.StringMatching(`[a-zA-Z0-9 =;.-]{0,40}`).Draw(t, "text")
				r.Value = strings.ReplaceAll(r.Value, serialMark, "")
			}
			z.Add(r)
			want[r.Name+"/"+r.Type] = true
		}
		text, err := WithSerial(z.Text(), 7)
		if err != nil {
			t.Fatal(err)
		}
		p := dns.NewZoneParser(strings.NewReader(string(text)), "", "")
		for rr, ok := p.Next(); ok; rr, ok = p.Next() {
			if soa, is := rr.(*dns.SOA); is {
				if soa.Serial != 7 || soa.Minttl != 3600 {
					t.Fatalf("SOA %v", soa)
				}
				continue
			}
			key := strings.TrimSuffix(rr.Header().Name, ".") + "/" + dns.TypeToString[rr.Header().Rrtype]
			if !want[key] {
				t.Fatalf("record %s came from nowhere", key)
			}
			delete(want, key)
		}
		if p.Err() != nil || len(want) > 0 {
			t.Fatalf("%v; missing %v", p.Err(), want)
		}
		back, serial, err := Parse(text)
		if err != nil || serial != 7 {
			t.Fatalf("read back: serial %d, %v", serial, err)
		}
		plain := slices.Clone(z.Records)
		for i := range plain {
			plain[i] = Record{Name: plain[i].Name, Type: plain[i].Type, Value: plain[i].Value}
		}
		if diff := cmp.Diff(plain, back); diff != "" {
			t.Fatalf("read back (-want +got):\n%s", diff)
		}
	})
}

func TestReverseZonesEndBetweenLabels(t *testing.T) {
	for prefix, want := range map[string][]string{
		"10.0.10.0/24":      {"10.0.10.in-addr.arpa"},
		"10.0.0.0/8":        {"10.in-addr.arpa"},
		"172.16.0.0/16":     {"16.172.in-addr.arpa"},
		"10.0.8.0/22":       {"8.0.10.in-addr.arpa", "9.0.10.in-addr.arpa", "10.0.10.in-addr.arpa", "11.0.10.in-addr.arpa"},
		"10.254.0.0/15":     {"254.10.in-addr.arpa", "255.10.in-addr.arpa"},
		"192.168.1.128/26":  {"1.168.192.in-addr.arpa"},
		"192.168.1.7/32":    {"1.168.192.in-addr.arpa"},
		"10.0.255.0/23":     {"254.0.10.in-addr.arpa", "255.0.10.in-addr.arpa"},
		"fd00:10::/64":      {"0.0.0.0.0.0.0.0.0.1.0.0.0.0.d.f.ip6.arpa"},
		"2001:db8::/47":     {"0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"},
		"2001:db8::1:8/126": {"0.0.0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"},
	} {
		if prefix == "2001:db8::1:8/126" {
			// /126 shares the zone of its /124
			want = []string{strings.Join(strings.Split(ReverseName(netip.MustParseAddr("2001:db8::1:8")), ".")[1:], ".")}
		}
		if d := cmp.Diff(want, ReverseZones(netip.MustParsePrefix(prefix))); d != "" {
			t.Errorf("%s (-want +got):\n%s", prefix, d)
		}
	}
}

// Each address of a network has its reverse name in exactly one of the network's zones.
func TestEveryAddressIsInOneReverseZone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "v6")
		size, bits := 4, rapid.IntRange(8, 32)
		if v6 {
			size, bits = 16, rapid.IntRange(8, 128)
		}
		raw := rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "address")
		a, _ := netip.AddrFromSlice(raw)
		n := 0
		for _, z := range ReverseZones(netip.PrefixFrom(a, bits.Draw(t, "bits"))) {
			if Within(ReverseName(a), z) {
				n++
			}
		}
		if n != 1 {
			t.Fatalf("%s is in %d zones", a, n)
		}
	})
}

func TestSerialOnlyGrows(t *testing.T) {
	day := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct{ old, want uint32 }{
		"first one":             {0, 2026112400},
		"yesterday's":           {2026112315, 2026112400},
		"today's":               {2026112400, 2026112401},
		"the clock went back":   {2027010100, 2027010101},
		"one of a restored day": {2026112499, 2026112500},
		"the original's 1":      {1, 2026112400},
		"last number of all":    {4294967295, 2026112400},
	} {
		if got := NextSerial(c.old, day); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		old := rapid.Uint32().Draw(t, "old")
		if got := NextSerial(old, day); old != 0 && !Newer(got, old) {
			t.Fatalf("%d is not newer than %d", got, old)
		}
	})
}

// BenchmarkZone renders and checks a zone of 5,000 names.
func BenchmarkZone(b *testing.B) {
	for b.Loop() {
		z := &Zone{Name: "corp.lab", Primary: "srv.corp.lab", Contact: "hostmaster.corp.lab", Records: pair()[0].Records}
		for i := range 5000 {
			z.Add(Record{Name: fmt.Sprintf("customer-%d.corp.lab", i), Type: "A", Value: "10.0.10.10"})
		}
		if err := Check([]*Zone{z}); err != nil {
			b.Fatal(err)
		}
		Digest(z.Text())
	}
}
