package dolibarr

import (
	"context"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// Bounds of how often one instance is repaired.
const (
	repairSoon = 30 * time.Second
	repairLate = 10 * time.Minute
)

// attempts limits the repairs of one instance.
type attempts struct {
	next time.Time
	wait time.Duration
}

// Repair brings containers back that died or were removed, as they were applied: that is no commit and needs no server. Scheduled jobs get
// the tool of this agent. It says what it did. An instance that does not come back is tried less and less often. It must not run beside an apply.
func (p *Provider) Repair(ctx context.Context) ([]string, error) {
	spec, err := p.applied()
	if err != nil || len(spec.GetInstances()) == 0 {
		return nil, err
	}
	seen, err := p.look(ctx, spec)
	if err != nil {
		return nil, err
	}
	var broken []*instanceSight
	for _, one := range seen.instances {
		if (one.gone() || one.revived() != nil || one.oldTool()) && p.due(one.inst.GetId()) {
			broken = append(broken, one)
		}
	}
	var done []string
	var failed []error
	for i, err := range p.each(ctx, broken) {
		name := broken[i].inst.GetName()
		p.tried(broken[i].inst.GetId(), err)
		if err != nil {
			failed = append(failed, errs.Wrap("repair instance "+name, err))
			continue
		}
		done = append(done, "instance "+name+": "+broken[i].mended())
	}
	front, err := p.frontPlan(ctx, spec)
	if err == nil && len(front) > 0 {
		if err = p.frontApply(ctx, spec); err == nil {
			done = append(done, "front: "+strings.Join(front[0].GetAfter(), ", "))
		}
	}
	return done, errs.Join(append(failed, err)...)
}

// gone says that something that should run was removed or has ended. One that is unhealthy is for people, and one that the engine restarts
// is the engine's.
func (one *instanceSight) gone() bool {
	for part, wish := range one.wish {
		if have := one.have[part]; !one.busy && wish.Name != "" && (have == nil || !isUp(have)) {
			return true
		}
	}
	return false
}

// oldTool says that nothing differs but the tool that the scheduled jobs run with: an agent of another version brought another one.
func (one *instanceSight) oldTool() bool {
	list := one.differences()
	return len(list) == 1 && strings.HasPrefix(list[0], partCron+": made anew from ")
}

// mended says what a repair was for.
func (one *instanceSight) mended() string {
	if err := errs.Join(one.unwell(), one.revived()); err != nil {
		return err.Error()
	}
	return "its scheduled jobs run with another tool now"
}

func (p *Provider) due(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.cfg.Clock.Now().Before(p.repairs[id].next)
}

// tried notes a repair: after one that failed the next has to wait.
func (p *Provider) tried(id string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		delete(p.repairs, id)
		return
	}
	wait := min(max(2*p.repairs[id].wait, repairSoon), repairLate)
	p.repairs[id] = attempts{next: p.cfg.Clock.Now().Add(wait), wait: wait}
}
