package site

import (
	"time"

	"github.com/infractl/infractl/internal/site/yamltree"
)

// rollout reads the section rollout.
func (l *loader) rollout() {
	r := &l.site.Rollout
	*r = RolloutSpec{MaxUnavailable: 3, Window: 30 * time.Second, HaltAfter: 1}
	f := l.file.Rollout
	if f == nil {
		return
	}
	if l.pos.Has("rollout/max_unavailable") {
		r.MaxUnavailable = int(f.MaxUnavailable)
		l.within("rollout/max_unavailable", uint64(f.MaxUnavailable), 1, 100)
	}
	if l.hasPath("rollout/window") {
		r.Window = time.Duration(f.Window)
		l.lasts("rollout/window", r.Window, 5*time.Second, 10*time.Minute)
	}
	if l.pos.Has("rollout/soak") {
		r.Soak = time.Duration(f.Soak)
		l.lasts("rollout/soak", r.Soak, 0, 7*24*time.Hour)
	}
	if l.pos.Has("rollout/halt_after") {
		r.HaltAfter = int(f.HaltAfter)
		l.within("rollout/halt_after", uint64(f.HaltAfter), 1, 100)
	}
	for _, p := range f.Budgets {
		path := yamltree.Join("rollout/budgets", p.Key)
		l.oneOf(path, "role", p.Key, roles()...)
		l.within(path, uint64(p.Value), 1, 100)
		if r.Budgets == nil {
			r.Budgets = map[string]int{}
		}
		r.Budgets[p.Key] = int(p.Value)
	}
}

// budgets are those of the roles that have nodes in a wave.
func (s *Site) budgets(nodes []string) map[string]int {
	var out map[string]int
	for _, name := range nodes {
		n, _ := s.Node(name)
		if most, ok := s.Rollout.Budgets[n.Role]; ok {
			if out == nil {
				out = map[string]int{}
			}
			out[n.Role] = most
		}
	}
	return out
}
