package instance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/zone"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/revision"
)

const (
	// publicMost is how many names one task asks for.
	publicMost = 200
	// publicSlack is what a task for public names may take beyond its wait.
	publicSlack = 45 * time.Second
	// laxWait is the longest wait of a step that fails nothing.
	laxWait = 10 * time.Second
	// publishLimit bounds how long the public name server may take.
	publishLimit = 10 * time.Second
)

// inPublic are the steps that prove that the world reaches an instance: its name servers answer, and its names are served over TLS. Where
// they are strict, what is wrong fails them; else it is said, since an operation that made no name must not be undone for that.
func (s *Instances) inPublic(of func(context.Context, *operation.Run) (record, error), strict bool) []operation.Step {
	step := func(name string, wait time.Duration, do func(context.Context, *operation.Run, *record, time.Duration) error) operation.Step {
		if !strict {
			wait = min(wait, laxWait)
		}
		return operation.Step{Name: name, Retry: s.retry(s.cfg.Patience.Away), Do: func(ctx context.Context, run *operation.Run) error {
			rec, err := of(ctx, run)
			if err != nil || rec.Mode != running {
				return err // a suspended one has no login page
			}
			err = do(ctx, run, &rec, wait)
			if err != nil && !strict && ctx.Err() == nil {
				run.Say("not as it should be: %s", err)
				return nil
			}
			return err
		}}
	}
	return []operation.Step{step("names", s.cfg.Patience.Names, s.doNames), step("tls", s.cfg.Patience.Certificate, s.doTLS)}
}

// doNames asks the site's name servers for the instance's names: from the proxy's node where that can be asked, else from their own.
func (s *Instances) doNames(ctx context.Context, run *operation.Run, rec *record, wait time.Duration) error {
	where, d, err := s.derived(ctx)
	if err != nil {
		return err
	}
	questions, err := s.questions(ctx, where, d, rec)
	if err != nil {
		return err
	}
	if len(questions) == 0 {
		run.Say("skipped: no name server of the site has its names")
		return nil
	}
	asker := where.ProxyNode()
	if d.Specs[asker].Spec.GetProxy() == nil {
		asker = where.DNS.Primary
	}
	res, err := s.publicTask(ctx, run, asker, &v1.PublicTask{Questions: questions, Wait: durationpb.New(wait)})
	if err != nil {
		return err
	}
	var good []string
	for _, a := range res.GetAnswers() {
		q := a.GetQuestion()
		if a.GetProblem() != "" {
			return errs.New(errs.Precondition, "the name server %s does not know %s: %s", q.GetServer(), q.GetName(), a.GetProblem()).
				At("node " + asker).WithHint("journalctl -u named on the name server's node; infractl dns check")
		}
		good = append(good, fmt.Sprintf("%s says %s %s %s", q.GetServer(), q.GetName(), q.GetType(), strings.Join(q.GetValues(), " ")))
	}
	run.Say("%s", strings.Join(good, "; "))
	return nil
}

// derived is the site and what it makes of the nodes.
func (s *Instances) derived(ctx context.Context) (*site.Site, *revision.Derived, error) {
	where, _, err := s.sites.Load(ctx, 0)
	if err != nil {
		return nil, nil, err
	}
	d, err := s.sites.Derive(ctx, 0)
	return where, d, err
}

// questions are what the site's name servers must answer of an instance's names, which those that customers point here themselves are not.
func (s *Instances) questions(ctx context.Context, where *site.Site, d *revision.Derived, rec *record) ([]*v1.PublicQuestion, error) {
	res, err := s.sites.Present(ctx)
	if err != nil {
		return nil, err
	}
	inst := rec.resource()
	names := where.InstanceDomains(&inst)
	var out []*v1.PublicQuestion
	for _, z := range where.Zones(res) {
		if z.View == site.ViewOutside {
			continue
		}
		for _, q := range zone.Questions(z.Records) {
			if !slices.Contains(names, q.Name) {
				continue
			}
			for _, node := range []string{where.DNS.Primary, where.DNS.Secondary} {
				if at := d.Specs[node].Spec.GetDns().GetListenAddresses(); len(at) > 0 {
					out = append(out, &v1.PublicQuestion{Server: at[0], Name: q.Name, Type: q.Type, Values: q.Values})
				}
			}
		}
	}
	return out, nil
}

// doTLS asks for the instance's names as a browser would.
func (s *Instances) doTLS(ctx context.Context, run *operation.Run, rec *record, wait time.Duration) error {
	where, d, err := s.derived(ctx)
	if err != nil {
		return err
	}
	node := where.ProxyNode()
	names := proxied(where, d)[rec.Name]
	if len(names) == 0 {
		run.Say("skipped: no reverse proxy that infractl manages serves its names")
		return nil
	}
	for _, n := range names {
		n.Version = rec.Version
	}
	res, err := s.publicTask(ctx, run, node, &v1.PublicTask{Names: names, Wait: durationpb.New(wait)})
	if err != nil {
		return err
	}
	s.noteSights(res.GetNames())
	var said []string
	for i, sight := range res.GetNames() {
		if sight.GetState() == v1.PublicState_PUBLIC_STATE_WRONG && !names[i].GetForeign() {
			return errs.New(errs.Precondition, "%s is not served as it should be: %s", sight.GetName(), sight.GetMessage()).At("node "+node).
				WithHint("%s", sight.GetHint())
		}
		said = append(said, sight.GetName()+" "+words(sight))
	}
	run.Say("%s", strings.Join(said, "; "))
	return nil
}

// proxied are the names at the proxy by instance; none without a proxy that infractl manages.
func proxied(where *site.Site, d *revision.Derived) map[string][]*v1.PublicName {
	out := map[string][]*v1.PublicName{}
	for _, h := range d.Specs[where.ProxyNode()].Spec.GetProxy().GetHosts() {
		if of := h.GetInstance(); of != "" {
			for _, name := range h.GetDomains() {
				out[of] = append(out[of], &v1.PublicName{Name: name, Foreign: name != where.InstanceDomain(of)})
			}
		}
	}
	return out
}

// words say how a name is served.
func words(s *v1.PublicSight) string {
	day := func(t *timestamppb.Timestamp) string { return t.AsTime().UTC().Format("2006-01-02 15:04 UTC") }
	switch s.GetState() {
	case v1.PublicState_PUBLIC_STATE_SERVED:
		out := "is served"
		if s.GetEnds() != nil {
			out += ", its certificate lasts until " + day(s.GetEnds())
		}
		if s.GetMessage() != "" {
			out += " (" + s.GetMessage() + ")"
		}
		return out
	case v1.PublicState_PUBLIC_STATE_QUEUED:
		return "is served from " + day(s.GetDue()) + " on: " + s.GetMessage()
	}
	return "is not served as it should be: " + s.GetMessage() + "; " + s.GetHint()
}

// publicTask lets the agent of a node ask, as a step of an operation.
func (s *Instances) publicTask(ctx context.Context, run *operation.Run, node string, task *v1.PublicTask) (*v1.PublicResult, error) {
	ctx, cancel := context.WithTimeout(ctx, task.GetWait().AsDuration()+publicSlack)
	defer cancel()
	res, err := run.Task(ctx, node, &v1.Task{Work: &v1.Task_Public{Public: task}})
	if err != nil {
		return nil, final(err)
	}
	return res.GetPublic(), nil
}

// publish sets the public records of new names while their host is told of them, where the site's public name server takes updates: the
// authority asks for them at once. That it is away is no failure here; the record may be there, and is tried again.
func (s *Instances) publish(ctx context.Context) (wait func()) {
	if s.cfg.Publish == nil {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(ctx, publishLimit)
		defer cancel()
		if _, err := s.cfg.Publish(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("public records are not set", "error", err)
		}
	}()
	return func() { <-done }
}

// retract removes the public records of an instance that no longer is to be reached.
func (s *Instances) retract(ctx context.Context) error {
	if s.cfg.Retract == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, publishLimit)
	defer cancel()
	_, err := s.cfg.Retract(ctx)
	return err
}

// noteSights keeps how names were last seen.
func (s *Instances) noteSights(list []*v1.PublicSight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sight := range list {
		s.sights[sight.GetName()] = sight
	}
}

// seeAll asks the proxy for the names of instances that are made, as they are now, and returns what it saw by name. fresh wants those only that were not
// served when they were last asked for, or never were. Nothing is asked where infractl manages no proxy.
func (s *Instances) seeAll(ctx context.Context, all []record, fresh bool) (seen map[string]*v1.PublicSight, err error) {
	where, d, err := s.derived(ctx)
	if err != nil {
		return nil, err
	}
	byInstance := proxied(where, d)
	var names []*v1.PublicName
	s.mu.Lock()
	known := map[string]*v1.PublicSight{}
	for i := range all {
		if !all[i].Made {
			continue // its operation asks
		}
		for _, n := range byInstance[all[i].Name] {
			if last := s.sights[n.GetName()]; last != nil {
				known[n.GetName()] = last
			}
			if !fresh || s.sights[n.GetName()].GetState() != v1.PublicState_PUBLIC_STATE_SERVED {
				names = append(names, n)
			}
		}
	}
	s.sights = known // without those of instances that are gone
	s.mu.Unlock()
	seen = map[string]*v1.PublicSight{}
	for some := range slices.Chunk(names, publicMost) {
		list, err := s.see(ctx, where.ProxyNode(), some)
		if err != nil {
			return seen, err
		}
		for _, sight := range list {
			seen[sight.GetName()] = sight
		}
	}
	return seen, nil
}

// see asks for some names outside of an operation.
func (s *Instances) see(ctx context.Context, node string, names []*v1.PublicName) ([]*v1.PublicSight, error) {
	ctx, cancel := context.WithTimeout(ctx, publicSlack)
	defer cancel()
	res, err := s.cfg.Hub.Do(ctx, node, &v1.Task{Id: "public-" + randomText(), NotAfter: timestamppb.New(s.cfg.Clock.Now().Add(taskStart)),
		Work: &v1.Task_Public{Public: &v1.PublicTask{Names: names}}}, nil)
	if err != nil {
		return nil, err
	}
	if e := res.GetError(); e != nil {
		return nil, errs.New(errs.Code(e.GetCode()), "%s", e.GetMessage()).At("node "+node).WithHint("%s", e.GetHint())
	}
	s.noteSights(res.GetPublic().GetNames())
	return res.GetPublic().GetNames(), nil
}
