package instance

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// maxPerHost is how many instances one host carries: its front stands in the network of each of them.
	maxPerHost = 250
	// hostMemory is what a host keeps for itself, hostDisk what must be free before anything is added to it.
	hostMemory = 768 << 20
	hostDisk   = 1 << 30
	// measureFresh is how long a host's size is trusted, measureLimit how long measuring may take.
	measureFresh = 10 * time.Minute
	measureLimit = 5 * time.Second
	// promise is the part of its memory limit that an instance is counted with. The limit is a ceiling for a bad day; an idle instance
	// uses a third of the smallest one. So a host is promised out twice, and no further.
	promise = 2
)

// capacity is what a host has.
type capacity struct {
	memory   uint64
	diskFree uint64
	cores    int
	measured time.Time
	err      error
}

// randomText makes an id that no other has.
func randomText() string { return strings.ToLower(rand.Text()) }

// host is a candidate for a place.
type host struct {
	name string
	// memory is what it has for instances, promised what of it is given out; carried are its instances.
	memory, promised uint64
	carried          int
	// why says why it takes nothing; empty when it does.
	why string
}

// room reports whether one more instance with this limit fits.
func (h *host) room(memory uint64) bool {
	return h.why == "" && h.carried < maxPerHost && h.promised+memory/promise <= h.memory
}

// full says why one more does not fit.
func (h *host) full() string {
	switch {
	case h.why != "":
		return h.name + " " + h.why
	case h.carried >= maxPerHost:
		return fmt.Sprintf("%s has %d instances", h.name, h.carried)
	}
	return fmt.Sprintf("%s has promised %d of %d MiB", h.name, h.promised>>20, h.memory>>20)
}

// choose returns the host with the most room left for an instance. Exhausted says of each why not.
func choose(hosts []host, memory uint64) (string, error) {
	var fit []host
	var full []string
	for _, h := range hosts {
		if h.room(memory) {
			fit = append(fit, h)
		} else {
			full = append(full, h.full())
		}
	}
	if len(fit) == 0 {
		return "", errs.New(errs.Exhausted, "no host has room for an instance of %d MiB: %s", memory>>20, strings.Join(full, "; ")).
			WithHint("give the host more memory, add one to dolibarr.prod, or lower the limits of others: infractl instance list")
	}
	best := slices.MinFunc(fit, func(a, b host) int {
		return cmp.Or(cmp.Compare(b.memory-b.promised, a.memory-a.promised), cmp.Compare(a.carried, b.carried), strings.Compare(a.name, b.name))
	})
	return best.name, nil
}

// count fills in what hosts carry already.
func count(hosts []host, list []record) {
	for i := range list {
		r := &list[i]
		for j := range hosts {
			if hosts[j].name == r.Node {
				hosts[j].carried++
				hosts[j].promised += r.counted() / promise
			}
		}
	}
}

// freeSubnet returns the first network of the pool that nobody has, and that overlaps none that somebody has or that was seen on a host.
func freeSubnet(pool netip.Prefix, list []record, seen []netip.Prefix) (netip.Prefix, error) {
	taken := map[netip.Prefix]bool{}
	odd := slices.Clone(seen) // and those of another size
	for i := range list {
		p := list[i].Subnet
		if !p.IsValid() {
			continue
		}
		taken[p] = true
		if p.Bits() != site.InstanceSubnetBits {
			odd = append(odd, p)
		}
	}
	for at := pool.Addr(); pool.Contains(at); {
		p := netip.PrefixFrom(at, site.InstanceSubnetBits)
		if !taken[p] && !slices.ContainsFunc(odd, p.Overlaps) {
			return p, nil
		}
		next, ok := after(p)
		if !ok {
			break
		}
		at = next
	}
	return netip.Prefix{}, errs.New(errs.Exhausted, "the pool %s has no network left", pool).
		WithHint("make dolibarr.pool larger in the site file, and apply it; or purge archived instances")
}

// after is the first address behind a prefix of IPv4; ok is false at the end of all addresses.
func after(p netip.Prefix) (netip.Addr, bool) {
	b := p.Addr().As4()
	n := uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
	n += 1 << (32 - p.Bits())
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), n < 1<<32
}

// hosts returns the candidates: the named one, or all of their kind, measured and counted.
func (s *Instances) hosts(ctx context.Context, where *site.Site, named string, preprod bool, list []record) ([]host, error) {
	names := where.InstanceNodes(preprod)
	if named != "" {
		if !slices.Contains(names, named) {
			key := "dolibarr.prod"
			if preprod {
				key = "dolibarr.preprod"
			}
			return nil, errs.New(errs.Invalid, "node %.64q carries no instances of this kind", named).
				WithHint("%s names %s", key, cmp.Or(strings.Join(names, ", "), "nobody"))
		}
		names = []string{named}
	}
	if len(names) == 0 {
		return nil, errs.New(errs.Precondition, "no node carries such instances").
			WithHint("add nodes to the dolibarr section of the site file, and apply it")
	}
	hosts := make([]host, 0, len(names))
	for _, name := range names {
		h := s.measured(ctx, name)
		if n, err := s.cfg.Fleet.Node(ctx, name); errs.Is(err, errs.NotFound) || err == nil && n.State.M.GetWidenedDigest() == "" {
			h.why = "was never brought up: infractl apply"
		} else if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	count(hosts, list)
	return hosts, nil
}

// measured returns a host with its size.
func (s *Instances) measured(ctx context.Context, name string) host {
	c := s.capacity(ctx, name)
	h := host{name: name}
	switch {
	case c.err != nil:
		h.why = "cannot be asked what it has: " + c.err.Error()
	case c.diskFree < hostDisk:
		h.why = fmt.Sprintf("has %d MiB of disk left", c.diskFree>>20)
	case c.memory > hostMemory:
		h.memory = c.memory - hostMemory
	}
	return h
}

// usageOf asks a host what it and its containers use.
func (s *Instances) usageOf(ctx context.Context, name string, over time.Duration) (*v1.UsageResult, error) {
	ctx, cancel := context.WithTimeout(ctx, measureLimit)
	defer cancel()
	res, err := s.cfg.Hub.DoLive(ctx, name, &v1.Task{Id: "usage-" + randomText(), NotAfter: timestamppb.New(s.cfg.Clock.Now().Add(measureLimit)),
		Work: &v1.Task_Usage{Usage: &v1.UsageTask{Over: durationpb.New(over)}}})
	if err != nil {
		return nil, err
	}
	if e := res.GetError(); e != nil {
		return nil, errs.New(errs.Code(e.GetCode()), "%s", e.GetMessage())
	}
	return res.GetUsage(), nil
}

// capacity asks a host what it has, unless that was done a moment ago.
func (s *Instances) capacity(ctx context.Context, name string) capacity {
	now := s.cfg.Clock.Now()
	s.mu.Lock()
	c, ok := s.memory[name]
	s.mu.Unlock()
	if ok && c.err == nil && now.Sub(c.measured).Abs() < measureFresh {
		return c
	}
	res, err := s.usageOf(ctx, name, 10*time.Millisecond)
	u := res.GetHost()
	c = capacity{memory: u.GetMemoryLimitBytes(), cores: int(u.GetCpus()), measured: now, err: err}
	if u.GetDiskLimitBytes() > u.GetDiskBytes() {
		c.diskFree = u.GetDiskLimitBytes() - u.GetDiskBytes()
	}
	s.mu.Lock()
	s.memory[name] = c
	s.mu.Unlock()
	return c
}
