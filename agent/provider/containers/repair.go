package containers

import (
	"context"
	"time"

	"github.com/infractl/infractl/agent/compose/wire"
	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Bounds of how often one stack is repaired.
const (
	repairSoon = 30 * time.Second
	repairLate = 10 * time.Minute
	// calmAfter is how long nothing may be wrong until a repair counts as the first again.
	calmAfter = 10 * time.Minute
)

// attempts limits the repairs of one stack.
type attempts struct {
	next time.Time
	wait time.Duration
	last time.Time
}

// Repair brings containers back that died or were removed, as they were applied: that is no commit and needs no server. It
// says what it did. A stack whose containers end again and again is tried less and less often. It must not run beside an apply.
func (p *Provider) Repair(ctx context.Context) ([]string, error) {
	records, err := p.records()
	if err != nil || len(records) == 0 {
		return nil, err
	}
	list, err := p.engine.Containers(ctx, docker.LabelProject)
	if err != nil {
		return nil, err
	}
	var done []string
	var failed []error
	for _, r := range records {
		if r.Pending || !p.due(r.Name) {
			continue
		}
		what, err := p.repairStack(ctx, r, byService(r.Name, list))
		if what != "" {
			p.tried(r.Name)
			done = append(done, "stack "+r.Name+": "+what)
		}
		if err != nil {
			failed = append(failed, errs.Wrap("repair stack "+r.Name, err))
		}
	}
	return done, errs.Join(failed...)
}

// repairStack starts what ended, and runs the helper where a container is gone.
func (p *Provider) repairStack(ctx context.Context, r *record, mine map[string][]docker.Container) (string, error) {
	what := ""
	for i := range r.Services {
		s := &r.Services[i]
		if len(mine[s.Name]) < s.Replicas {
			_, err := p.compose(ctx, wire.Up, r)
			return "a container of " + s.Name + " was gone", err
		}
		for j := range mine[s.Name] {
			c := &mine[s.Name][j]
			if ended(s, c) || c.State != "exited" && c.State != "created" && c.State != "dead" {
				continue
			}
			what = c.Name + " was " + c.State
			if err := p.engine.Start(ctx, c.ID); err != nil {
				return what, err
			}
		}
	}
	return what, nil
}

func (p *Provider) due(stack string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.repairs[stack]
	return a == nil || !p.cfg.Clock.Now().Before(a.next)
}

func (p *Provider) tried(stack string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.cfg.Clock.Now()
	a := p.repairs[stack]
	if a == nil || now.Sub(a.last) > a.wait+calmAfter {
		a = &attempts{wait: repairSoon / 2}
		p.repairs[stack] = a
	}
	a.wait = min(2*a.wait, repairLate)
	a.next, a.last = now.Add(a.wait), now
}

// RestartStack restarts the containers of a stack, or of one of its services, one after the other, and returns their names.
// Errors: NotFound for a stack or service that was not applied here.
func (p *Provider) RestartStack(ctx context.Context, task *v1.RestartTask) (*v1.RestartResult, error) {
	name := task.GetStack()
	hint := "infractl stack list"
	if !validName.MatchString(name) {
		return nil, errs.New(errs.Invalid, "%.64q is no name of a stack", name).WithHint("%s", hint)
	}
	r, err := p.record(name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, errs.New(errs.NotFound, "this host has no stack %s", name).WithHint("%s", hint)
	}
	list, err := p.engine.Containers(ctx, docker.LabelProject+"="+name)
	if err != nil {
		return nil, err
	}
	result := &v1.RestartResult{}
	for i := range list {
		c := &list[i]
		if task.GetService() != "" && c.Service() != task.GetService() || c.Project() != name {
			continue
		}
		if done := serviceOf(r, c.Service()); done != nil && ended(done, c) {
			continue
		}
		if err := p.engine.Restart(ctx, c.ID, 10*time.Second); err != nil {
			return result, errs.Wrap("restart "+c.Name, err)
		}
		result.Containers = append(result.Containers, c.Name)
	}
	if len(result.Containers) == 0 {
		return nil, errs.New(errs.NotFound, "stack %s has no containers of service %.64q to restart", name, task.GetService()).WithHint("infractl stack show %s", name)
	}
	return result, nil
}

func serviceOf(r *record, name string) *wire.Service {
	for i := range r.Services {
		if r.Services[i].Name == name {
			return &r.Services[i]
		}
	}
	return nil
}
