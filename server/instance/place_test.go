package instance

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
)

// TestPlacementNeverPromisesTooMuch adds and removes instances in any order: networks never overlap, no host gets more than it has room for,
// and a refusal means that there really is no room.
func TestPlacementNeverPromisesTooMuch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pool := netip.PrefixFrom(netip.MustParseAddr("10.210.0.0"), rapid.IntRange(20, 26).Draw(t, "pool")).Masked()
		var sizes []host
		for i := range rapid.IntRange(1, 3).Draw(t, "hosts") {
			sizes = append(sizes, host{name: fmt.Sprintf("h%d", i), memory: rapid.Uint64Range(0, 8<<30).Draw(t, "memory")})
		}
		var list []record
		for n := range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(list) > 0 && rapid.IntRange(0, 3).Draw(t, "what") == 0 {
				// Archived first, then purged: only the purge gives room and network back.
				i := rapid.IntRange(0, len(list)-1).Draw(t, "which")
				if list[i].Mode == archived {
					list = slices.Delete(list, i, i+1)
				} else {
					list[i].Mode = archived
				}
				continue
			}
			memory := rapid.Uint64Range(site.MinInstanceMemory, 2<<30).Draw(t, "limit")
			hosts := append([]host(nil), sizes...)
			count(hosts, list)
			name, err := choose(hosts, memory)
			net, nerr := freeSubnet(pool, list, nil)
			if err != nil {
				for _, h := range hosts {
					if h.room(memory) {
						t.Fatalf("refused although %s has room: %v", h.name, err)
					}
				}
			}
			if nerr != nil {
				if len(list) < 1<<(site.InstanceSubnetBits-pool.Bits()) {
					t.Fatalf("the pool has room for more than %d: %v", len(list), nerr)
				}
			}
			for _, e := range []error{err, nerr} {
				if e != nil && !errs.Is(e, errs.Exhausted) {
					t.Fatalf("refused with %v", e)
				}
			}
			if err != nil || nerr != nil {
				continue
			}
			list = append(list, record{ID: fmt.Sprint(n), Node: name, Subnet: net, Mode: running, Limits: limits{Memory: memory}})
		}
		promised := map[string]uint64{}
		for i := range list {
			r := &list[i]
			promised[r.Node] += r.Limits.Memory / promise
			if !pool.Contains(r.Subnet.Addr()) || r.Subnet.Bits() != site.InstanceSubnetBits {
				t.Fatalf("network %s of pool %s", r.Subnet, pool)
			}
			for j := range i {
				if list[j].Subnet.Overlaps(r.Subnet) {
					t.Fatalf("networks %s and %s overlap", list[j].Subnet, r.Subnet)
				}
			}
		}
		for _, h := range sizes {
			if promised[h.name] > h.memory {
				t.Fatalf("%s has %d and promised %d", h.name, h.memory, promised[h.name])
			}
		}
	})
}

func TestChooseTakesTheHostWithMostRoom(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	for _, tt := range []struct {
		name  string
		hosts []host
		want  string
	}{
		{"most room", []host{{name: "a", memory: 4 * gib}, {name: "b", memory: 8 * gib}}, "b"},
		{"less promised", []host{{name: "a", memory: 8 * gib, promised: 5 * gib}, {name: "b", memory: 4 * gib}}, "b"},
		{"by name", []host{{name: "b", memory: gib}, {name: "a", memory: gib}}, "a"},
		{"fewer instances", []host{{name: "a", memory: gib, carried: 2}, {name: "b", memory: gib}}, "b"},
		{"one that cannot be asked", []host{{name: "a", memory: 8 * gib, why: "is away"}, {name: "b", memory: gib}}, "b"},
		{"none", []host{{name: "a", why: "is away"}, {name: "b", memory: gib / 8}, {name: "c", memory: gib, carried: maxPerHost}}, ""},
	} {
		got, err := choose(tt.hosts, gib/2)
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
		if tt.want == "" && (!strings.Contains(err.Error(), "a is away") || !strings.Contains(err.Error(), "b has promised") || !strings.Contains(err.Error(), "c has 250 instances")) {
			t.Errorf("%s: the error does not say why: %v", tt.name, err)
		}
	}
}

func TestForeignNetworksOfThePoolAreLeftAlone(t *testing.T) {
	t.Parallel()
	pool := netip.MustParsePrefix("10.210.0.0/24")
	got, err := freeSubnet(pool, []record{{Subnet: netip.MustParsePrefix("10.210.0.0/26")}}, []netip.Prefix{netip.MustParsePrefix("10.210.0.64/28")})
	if err != nil || got.String() != "10.210.0.80/28" {
		t.Errorf("%s, %v", got, err)
	}
	end, ok := after(netip.MustParsePrefix("255.255.255.240/28"))
	if ok {
		t.Errorf("behind all addresses is %s", end)
	}
}

func TestWordsInComplaints(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, word string
		want       bool
	}{
		{"instance acme: no", "instance acme", true}, {"instance acme-2: no", "instance acme", false}, {"no instance acme.", "instance acme", true},
		{"x.acme.example is wrong", "acme.example", false}, {"acme.example.org is wrong", "acme.example", false}, {"acme.example is wrong", "acme.example", true},
		{"(acme.example)", "acme.example", true}, {"aacme acme", "acme", true}, {"", "acme", false}, {"acme", "", false},
	} {
		if got := hasWord(tt.text, tt.word); got != tt.want {
			t.Errorf("%q in %q: %t", tt.word, tt.text, got)
		}
	}
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"acme", "a", "www", "A", "a--b", "x-", "été", "a\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if checkName(nil, name) != nil {
			return
		}
		// What is accepted goes into names of containers, host names and paths.
		for _, r := range name {
			if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
				t.Errorf("accepted %q", name)
			}
		}
		if len(name) < 2 || len(name) > 31 || name[0] == '-' || name[len(name)-1] == '-' {
			t.Errorf("accepted %q", name)
		}
	})
}
