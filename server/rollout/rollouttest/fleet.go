// Package rollouttest holds what tests of rollouts need: a fleet of scripted agents behind a hub, a store in memory, and
// revisions made by hand.
package rollouttest

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/hostspec"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/rollout"
)

// Ports of the SSH servers: before and after.
const (
	OldPort = 22
	NewPort = 202
)

// Member is one node of a made-up site.
type Member struct {
	Name     string
	Critical bool
	// Role is as in a site; budgets are by role.
	Role string
	// Witnesses are as in a site; Login and ToServer make them.
	Witnesses []site.Witness
}

// Login is a witness that logs in on a node; each way is from and to.
func Login(ways ...[2]string) site.Witness { return witness(v1.ProbeKind_PROBE_KIND_SSH_LOGIN, ways) }

// ToServer is a witness that connects to the server.
func ToServer(ways ...[2]string) site.Witness { return witness(v1.ProbeKind_PROBE_KIND_SERVER, ways) }

func witness(kind v1.ProbeKind, ways [][2]string) site.Witness {
	w := site.Witness{Kind: kind, Reason: "a way of kind " + kind.String()}
	for _, way := range ways {
		w.Alternatives = append(w.Alternatives, site.Way{From: way[0], To: way[1]})
	}
	return w
}

// Plan is a made-up site: its members, its waves, and what each host must be.
type Plan struct {
	Members []Member
	Waves   []site.Wave
	Window  time.Duration
	// HaltAfter is as in a site.
	HaltAfter int
	// Content is what differs between revisions, by node; the same content has the same digest.
	Content map[string]string
}

// Address is the address of the i-th member.
func Address(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i&255 + 1)}) }

// View makes the view of a revision.
func (p Plan) View(revision, resources uint64) *rollout.View {
	v := &rollout.View{
		Revision: revision, Resources: resources, Window: p.Window, HaltAfter: p.HaltAfter, Nodes: map[string]rollout.ViewNode{},
		Waves: func(only []string) []site.Wave {
			var out []site.Wave
			for _, w := range p.Waves {
				kept := w
				kept.Nodes = nil
				for _, n := range w.Nodes {
					if only == nil || contains(only, n) {
						kept.Nodes = append(kept.Nodes, n)
					}
				}
				if len(kept.Nodes) > 0 {
					out = append(out, kept)
				}
			}
			return out
		},
	}
	keys := map[string][]*v1.WitnessKey{}
	for _, m := range p.Members {
		for _, w := range m.Witnesses {
			for _, way := range w.Alternatives {
				keys[way.To] = append(keys[way.To], &v1.WitnessKey{Node: way.From})
			}
		}
	}
	for i, m := range p.Members {
		spec := &v1.HostSpec{
			Site: "test", Node: m.Name,
			Accounts: &v1.AccountsSpec{Accounts: []*v1.Account{{Name: "ops", SshLogin: true}}, WitnessKeys: keys[m.Name]},
			Sshd:     &v1.SshdSpec{Port: NewPort, AllowUsers: []string{"ops"}},
			Firewall: &v1.FirewallSpec{Rules: []*v1.FirewallRule{{Flow: p.Content[m.Name]}}},
		}
		content, digest, err := hostspec.Encode(spec)
		if err != nil {
			panic(err) // a message made by hand always encodes
		}
		v.Order = append(v.Order, m.Name)
		v.Nodes[m.Name] = rollout.ViewNode{
			Spec: spec, Content: content, Digest: digest, Address: Address(i), Role: m.Role, Critical: m.Critical, Witnesses: m.Witnesses,
		}
	}
	return v
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// Revisions are views by number.
type Revisions struct {
	mu    sync.Mutex
	views map[uint64]*rollout.View
	last  uint64
}

// NewRevisions returns no revisions.
func NewRevisions() *Revisions { return &Revisions{views: map[uint64]*rollout.View{}} }

// Add makes v the newest revision, or replaces one of the same number, as new resources do.
func (r *Revisions) Add(v *rollout.View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.views[v.Revision] = v
	r.last = max(r.last, v.Revision)
}

// Current implements rollout.Revisions.
func (r *Revisions) Current(context.Context) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last, nil
}

// View implements rollout.Revisions.
func (r *Revisions) View(_ context.Context, number uint64) (*rollout.View, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.views[number]
	if !ok {
		return nil, errs.New(errs.NotFound, "the site has no revision %d", number)
	}
	return v, nil
}

// Line is a site of n plain nodes n0.. behind a relay "relay", all in waves of at most two.
func Line(n, atOnce int) Plan {
	p := Plan{Window: 400 * time.Millisecond, Content: map[string]string{}}
	w := site.Wave{Number: 1, MaxUnavailable: atOnce}
	for i := range n {
		name := fmt.Sprintf("n%d", i)
		p.Members = append(p.Members, Member{Name: name, Witnesses: []site.Witness{Login([2]string{"relay", name})}})
		w.Nodes = append(w.Nodes, name)
	}
	relay := Member{Name: "relay", Critical: true}
	if n > 0 {
		var in, out [][2]string
		for i := range n {
			out = append(out, [2]string{"relay", fmt.Sprintf("n%d", i)})
			in = append(in, [2]string{fmt.Sprintf("n%d", i), "relay"})
		}
		relay.Witnesses = []site.Witness{Login(out...), ToServer(in...)}
	}
	p.Members = append(p.Members, relay)
	if n > 0 {
		p.Waves = append(p.Waves, w)
	}
	p.Waves = append(p.Waves, site.Wave{Number: 2, Nodes: []string{"relay"}, MaxUnavailable: 1})
	return p
}
