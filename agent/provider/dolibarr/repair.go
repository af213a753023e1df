package dolibarr

import (
	"context"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// Repair brings containers back that died or were removed, as they were applied: that is no commit and needs no server. It says what it
// did. It must not run beside an apply.
func (p *Provider) Repair(ctx context.Context) ([]string, error) {
	spec, err := p.applied()
	if err != nil || len(spec.GetInstances()) == 0 {
		return nil, err
	}
	seen, err := p.look(ctx, spec)
	if err != nil {
		return nil, err
	}
	var done []string
	var failed []error
	for _, one := range seen.instances {
		if one.unwellOnly() {
			continue
		}
		done = append(done, "instance "+one.inst.GetName()+": "+one.unwell().Error())
		failed = append(failed, errs.Wrap("repair instance "+one.inst.GetName(), p.change(ctx, one)))
	}
	front, err := p.frontPlan(ctx, spec)
	if err == nil && len(front) > 0 {
		done = append(done, "front: "+strings.Join(front[0].GetAfter(), ", "))
		err = p.frontApply(ctx, spec)
	}
	return done, errs.Join(append(failed, err)...)
}

// unwellOnly says that nothing that should run is gone or has ended; one that is unhealthy is for people.
func (one *instanceSight) unwellOnly() bool {
	for part, wish := range one.wish {
		if have := one.have[part]; wish.Name != "" && (have == nil || !isUp(have)) {
			return false
		}
	}
	return true
}
