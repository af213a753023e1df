package instance

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/store"
)

const (
	// lookEvery is how often templates are looked at, and what is due is purged.
	lookEvery = 15 * time.Second
	// watchEvery is how often hosts are asked what they have of instances, the first time watchFirst after the server began. Their
	// answers are kept for a day, as those of all tasks.
	watchEvery, watchFirst = 10 * time.Minute, time.Minute
	// usageEvery is how often they are asked what instances use and hold; their answers are not kept.
	usageEvery = time.Minute
	// auditEvery is how often records are compared with reality; the first time auditFirst after the server began, so that one which is
	// restarted every day audits too.
	auditEvery, auditFirst = 24 * time.Hour, 20 * time.Minute
	// noticeBefore is how long before its purge an archived instance is announced.
	noticeBefore = 48 * time.Hour
)

// Run watches the instances, keeps templates current, purges what is due and audits once a day, until ctx ends.
func (s *Instances) Run(ctx context.Context) error {
	look, watch, audit := time.NewTicker(lookEvery), time.NewTimer(watchFirst), time.NewTimer(auditFirst)
	usage := time.NewTicker(usageEvery)
	defer usage.Stop()
	defer look.Stop()
	defer watch.Stop()
	defer audit.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			err = errs.Join(s.sweep(ctx), s.refreshTemplates(ctx), s.dropTemplates(ctx))
		case <-usage.C:
			err = s.measureAll(ctx)
		case <-watch.C:
			err = s.watch(ctx)
			watch.Reset(watchEvery)
		case <-audit.C:
			err = s.dailyAudit(ctx)
			audit.Reset(auditEvery)
		}
		if err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("upkeep of instances failed", "error", err)
		}
	}
}

// watch asks the hosts how their instances are. What a host that is away last said still stands: that it is away is shown by itself, once
// and not for each of its instances.
func (s *Instances) watch(ctx context.Context) error {
	all, byNode, err := s.byNode(ctx)
	if err != nil || byNode == nil {
		return err
	}
	for i := range all {
		if err := s.sameSecrets(ctx, &all[i]); err != nil {
			return err
		}
	}
	var asking sync.WaitGroup
	for node, list := range byNode {
		asking.Go(func() {
			found, err := s.inventory(ctx, node)
			if err != nil {
				s.cfg.Log.Debug("a host could not be asked how its instances are", "node", node, "error", err)
				return
			}
			s.judge(node, list, found)
			if err := s.noteTemplates(ctx, node, found); err != nil {
				s.cfg.Log.Error("could not note the templates of a host", "node", node, "error", err)
			}
		})
	}
	if _, err := s.seeAll(ctx, all, true); err != nil {
		s.cfg.Log.Debug("the proxy could not be asked how names are served", "error", err)
	}
	asking.Wait()
	return ctx.Err()
}

// byNode returns all instances, and those that were made by host, hosts without any too; nothing of the latter without a site.
func (s *Instances) byNode(ctx context.Context) (all []record, byNode map[string][]record, err error) {
	if all, err = s.all(ctx); err != nil {
		return nil, nil, err
	}
	where, _, err := s.sites.Load(ctx, 0)
	if errs.Is(err, errs.NotFound) {
		return all, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	byNode = map[string][]record{}
	for _, node := range slices.Concat(where.InstanceNodes(false), where.InstanceNodes(true)) {
		byNode[node] = nil
	}
	for _, r := range all {
		if r.Made {
			byNode[r.Node] = append(byNode[r.Node], r)
		}
	}
	return all, byNode, nil
}

// sameSecrets makes a record name the versions that are kept: a server that stopped while it gave an instance a new password had stored
// the value and not its version, and the former value is forgotten after a while.
func (s *Instances) sameSecrets(ctx context.Context, r *record) error {
	if !r.inSpec() {
		return nil
	}
	versions := map[string]string{}
	for name := range r.Secrets {
		var err error
		if versions[name], err = s.secrets.Current(ctx, site.SecretName(r.ID, name)); err != nil {
			return err
		}
	}
	if maps.Equal(versions, r.Secrets) {
		return nil
	}
	_, err := s.update(ctx, r.ID, func(r *record) error { r.Secrets = versions; return nil })
	return err
}

// judge says which instances of a host are not well by what is there. What the host itself complains of is read when somebody looks.
func (s *Instances) judge(node string, list []record, found []*v1.FoundInstance) {
	problems := map[string][]string{}
	for _, f := range compare(node, list, found) {
		if f.GetKind() != "orphan" {
			problems[f.GetInstance()] = append(problems[f.GetInstance()], strings.TrimSpace(f.GetKind()+" "+f.GetWhat()+" "+f.GetName()))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range list {
		delete(s.health, list[i].ID)
		if p := problems[list[i].Name]; len(p) > 0 {
			s.health[list[i].ID] = strings.Join(p, ", ")
		}
	}
}

// sweep purges archived instances whose time is over, and announces those whose time is nearly over.
func (s *Instances) sweep(ctx context.Context) error {
	all, err := s.all(ctx)
	if err != nil {
		return err
	}
	now := s.cfg.Clock.Now()
	var faults []error
	for i := range all {
		r := &all[i]
		if r.Mode != archived || r.PurgeAfter.IsZero() {
			continue
		}
		switch left := r.PurgeAfter.Sub(now); {
		case left <= 0:
			op, err := s.engine.Start(ctx, operation.StartRequest{Kind: "instance.purge", Target: target(r.Name),
				Params: lifeParams{ID: r.ID}, Operator: "system"})
			if errs.Is(err, errs.Conflict) {
				continue // it is looked at again
			}
			if err == nil {
				_, err = s.noteOperation(ctx, *r, op.GetId())
			}
			faults = append(faults, err)
		case left <= noticeBefore && r.Noticed.IsZero():
			s.audit(ctx, "system", "instance.notice", r.Name, "ok", "it is purged after "+r.PurgeAfter.Format(time.RFC3339))
			_, err := s.update(ctx, r.ID, func(r *record) error { r.Noticed = now.UTC(); return nil })
			faults = append(faults, err)
		}
	}
	return errs.Join(faults...)
}

// dailyAudit compares records with reality, and keeps what it finds in the log of the server and in the audit log.
func (s *Instances) dailyAudit(ctx context.Context) error {
	all, err := s.all(ctx)
	if err != nil || len(all) == 0 {
		return err
	}
	res, err := s.auditAll(ctx, "")
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.found = res.GetFindings()
	s.mu.Unlock()
	result := "ok"
	if n := len(res.GetFindings()); n > 0 {
		result = string(errs.Conflict)
		for _, f := range res.GetFindings() {
			s.cfg.Log.Warn("records and reality differ", "kind", f.GetKind(), "what", f.GetWhat(), "name", f.GetName(),
				"node", f.GetNode(), "instance", f.GetInstance())
		}
	}
	s.audit(ctx, "system", "instance.audit", "all", result, fmt.Sprintf("%d compared, %d differ", res.GetCompared(), len(res.GetFindings())))
	return nil
}

// Overview tells of each instance, and returns how many are in each state; those that were destroyed are counted too.
func (s *Instances) Overview(ctx context.Context, each func(*v1.Instance)) (map[string]int, error) {
	out := map[string]int{}
	for state := range v1.InstanceState_name {
		if state != 0 {
			out[word(v1.InstanceState(state))] = 0
		}
	}
	gone, err := s.purged.List(ctx, store.ListOptions{NamesOnly: true})
	if err != nil {
		return nil, err
	}
	out["purged"] = len(gone)
	return out, s.each(ctx, func(i *v1.Instance) {
		out[word(i.GetState())]++
		each(i)
	})
}

func word(state v1.InstanceState) string {
	return strings.ToLower(strings.TrimPrefix(state.String(), "INSTANCE_STATE_"))
}

func (s *Instances) each(ctx context.Context, do func(*v1.Instance)) error {
	all, err := s.all(ctx)
	if err != nil {
		return err
	}
	v, err := s.look(ctx)
	if err != nil {
		return err
	}
	for i := range all {
		do(v.show(&all[i]))
	}
	return nil
}

// Findings are what a person should know of the instances.
func (s *Instances) Findings(ctx context.Context) ([]*v1.Finding, error) {
	var out []*v1.Finding
	now := s.cfg.Clock.Now()
	err := s.each(ctx, func(i *v1.Instance) {
		switch {
		case i.GetState() == v1.InstanceState_INSTANCE_STATE_BROKEN:
			out = append(out, &v1.Finding{Severity: v1.Severity_SEVERITY_ERROR, Where: "instance " + i.GetName(), Message: i.GetProblem(),
				Hint: "infractl instance show " + i.GetName()})
		case i.GetState() == v1.InstanceState_INSTANCE_STATE_ARCHIVED && i.GetPurgeAfter().AsTime().Sub(now) <= noticeBefore:
			out = append(out, &v1.Finding{Severity: v1.Severity_SEVERITY_WARNING, Where: "instance " + i.GetName(),
				Message: "it is purged after " + i.GetPurgeAfter().AsTime().Format(time.RFC3339),
				Hint:    "infractl instance resume " + i.GetName() + " keeps it"})
		}
		if f := diskFinding(i); f != nil {
			out = append(out, f)
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	out = append(out, s.spaceFindings()...)
	if n := len(s.found); n > 0 {
		out = append(out, &v1.Finding{Severity: v1.Severity_SEVERITY_WARNING, Where: "instances",
			Message: fmt.Sprintf("the last audit found %d differences between records and reality", n), Hint: "infractl instance audit"})
	}
	return out, err
}
