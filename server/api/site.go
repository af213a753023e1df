package api

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/store"
)

const (
	// planTimeout bounds the look at one host, planAtOnce how many are looked at in parallel.
	planTimeout = 10 * time.Second
	planAtOnce  = 64
)

// SiteService implements v1.SiteServiceServer.
type SiteService struct {
	v1.UnimplementedSiteServiceServer
	cfg Config
}

// CheckSite implements v1.SiteServiceServer.
func (s *SiteService) CheckSite(_ context.Context, req *v1.CheckSiteRequest) (*v1.CheckSiteResponse, error) {
	loaded, findings, err := s.cfg.Revisions.Check(req.GetSource())
	if err != nil {
		return nil, err
	}
	out := &v1.CheckSiteResponse{Findings: findings, Valid: loaded != nil}
	if loaded != nil {
		out.Nodes = loaded.NodeNames()
	}
	return out, nil
}

// PlanSite implements v1.SiteServiceServer.
func (s *SiteService) PlanSite(ctx context.Context, req *v1.PlanSiteRequest) (*v1.PlanSiteResponse, error) {
	if err := checkNames(req.GetNodes()); err != nil {
		return nil, err
	}
	derived, base, same, findings, err := s.wish(ctx, req.GetSource())
	if err != nil {
		return nil, err
	}
	for _, n := range req.GetNodes() {
		if _, ok := derived.Specs[n]; !ok {
			return nil, errs.New(errs.Invalid, "the site has no node %q", n).WithHint("infractl node list")
		}
	}
	out := &v1.PlanSiteResponse{BaseRevision: base, Findings: findings}
	waves := derived.Site.Waves(slices.Clone(req.GetNodes()))
	out.Waves = rollout.WavesToProto(waves)
	for _, w := range waves {
		for _, n := range w.Nodes {
			out.Nodes = append(out.Nodes, &v1.NodePlan{Node: n})
		}
	}
	kept, err := s.planNodes(ctx, derived, out.Nodes)
	if err != nil {
		return nil, err
	}
	out.Settled = same && kept
	return out, nil
}

// wish derives what a source, or the newest revision, wants. same says that the files are those of the newest revision.
func (s *SiteService) wish(ctx context.Context, source *v1.SiteSource) (d *revision.Derived, base uint64, same bool, findings []*v1.Finding, err error) {
	base, err = s.cfg.Revisions.Current(ctx)
	if err != nil {
		return nil, 0, false, nil, err
	}
	if source == nil {
		d, err = s.cfg.Revisions.Derive(ctx, 0)
		return d, base, true, nil, err
	}
	loaded, findings, err := s.cfg.Revisions.Check(source)
	if err != nil {
		return nil, 0, false, nil, err
	}
	if loaded == nil {
		return nil, 0, false, nil, revision.Refusal(findings)
	}
	if base > 0 {
		newest, _, err := s.cfg.Revisions.Get(ctx, base)
		if err != nil {
			return nil, 0, false, nil, err
		}
		same = newest.GetDigest() == revision.Digest(source)
	}
	if err := s.cfg.Revisions.Ready(ctx, loaded); err != nil {
		return nil, 0, false, nil, err
	}
	d, err = s.cfg.Revisions.DeriveSite(ctx, loaded)
	return d, base, same, findings, err
}

// planNodes asks all hosts in parallel. kept says that every one answered, has no changes, and has kept everything.
func (s *SiteService) planNodes(ctx context.Context, d *revision.Derived, plans []*v1.NodePlan) (kept bool, err error) {
	nodes, err := s.cfg.Fleet.Nodes(ctx)
	if err != nil {
		return false, err
	}
	byName := make(map[string]*fleet.Node, len(nodes))
	for i := range nodes {
		if !nodes[i].IsRevoked() {
			byName[nodes[i].Name] = &nodes[i]
		}
	}
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(planAtOnce)
	kept = true
	for _, p := range plans {
		n := byName[p.GetNode()]
		if n == nil {
			p.Error = "has not enrolled yet"
			kept = false
			continue
		}
		kept = kept && hasKept(n.State.M, d.Specs[n.Name].Digest)
		g.Go(func() error {
			s.planNode(ctx, d, p)
			return nil
		})
	}
	_ = g.Wait()
	for _, p := range plans {
		kept = kept && p.GetReachable() && p.GetError() == "" && len(p.GetChanges()) == 0
	}
	return kept, nil
}

func hasKept(s *v1.HostState, digest string) bool {
	return s.GetWidenedDigest() == digest && s.GetNarrowedDigest() == digest && len(s.GetWidened()) == 0 &&
		len(s.GetDegraded()) == 0 && s.GetArmedCommit() == ""
}

func (s *SiteService) planNode(ctx context.Context, d *revision.Derived, p *v1.NodePlan) {
	if _, live := s.cfg.Hub.Live(p.GetNode()); !live {
		p.Error = "offline"
		return
	}
	spec := d.Specs[p.GetNode()]
	changes, err := rollout.Look(ctx, s.cfg.Hub, p.GetNode(), spec.Content, spec.Digest, s.cfg.Clock.Now().Add(planTimeout))
	switch {
	case errs.Is(err, errs.Unavailable), errs.Is(err, errs.Timeout), errs.Is(err, errs.Canceled):
		p.Error = "did not answer: " + err.Error()
		return
	case err != nil:
		p.Reachable, p.Error = true, err.Error()
		return
	}
	p.Reachable, p.Changes, p.Risk = true, changes, v1.Risk_RISK_NONE
	for _, c := range changes {
		p.Risk = max(p.Risk, c.GetRisk())
	}
}

// ApplySite implements v1.SiteServiceServer.
func (s *SiteService) ApplySite(ctx context.Context, req *v1.ApplySiteRequest) (*v1.ApplySiteResponse, error) {
	if err := checkNames(append(slices.Clone(req.GetNodes()), req.GetAtConsole())); err != nil {
		return nil, err
	}
	if err := checkRisks(req.GetAcceptRisks()); err != nil {
		return nil, err
	}
	if req.GetAtConsole() != "" && !isAdmin(ctx) {
		return nil, errs.New(errs.Denied, "only an admin may apply from a node's own console without a login witness").
			WithHint("apply from another machine, or let an admin do it")
	}
	number, err := s.reviseTo(ctx, req)
	if err != nil {
		return nil, err
	}
	if req.GetAtConsole() != "" {
		if err := s.auditConsole(ctx, req.GetAtConsole()); err != nil {
			return nil, err
		}
	}
	ro, err := s.cfg.Rollouts.Start(ctx, rollout.StartRequest{
		Revision: number, Operator: actor(ctx), Nodes: req.GetNodes(), AtConsole: req.GetAtConsole(),
	})
	if err != nil {
		return nil, err
	}
	return &v1.ApplySiteResponse{Revision: number, RolloutId: ro.GetId()}, nil
}

// reviseTo stores the request's source as a revision, or takes the newest one when there is none. Nodes are checked first:
// a refused apply leaves no revision behind.
func (s *SiteService) reviseTo(ctx context.Context, req *v1.ApplySiteRequest) (uint64, error) {
	var loaded *site.Site
	source := req.GetSource()
	if source == nil {
		current, number, err := s.cfg.Revisions.Load(ctx, 0)
		if err != nil {
			return 0, err
		}
		if number != req.GetBaseRevision() {
			return 0, errs.New(errs.Conflict, "revision %d is newer than the one that was planned from", number).
				WithHint("infractl plan, then apply again")
		}
		if err := checkKnown(current, req); err != nil {
			return 0, err
		}
		return number, s.cfg.Revisions.Ready(ctx, current)
	}
	loaded, findings, err := s.cfg.Revisions.Check(source)
	if err != nil {
		return 0, err
	}
	if loaded == nil {
		return 0, revision.Refusal(findings)
	}
	if err := checkKnown(loaded, req); err != nil {
		return 0, err
	}
	// What cannot be derived, or could not start, must not become a revision.
	if err := s.cfg.Revisions.Ready(ctx, loaded); err != nil {
		return 0, err
	}
	if _, err := s.cfg.Revisions.DeriveSite(ctx, loaded); err != nil {
		return 0, err
	}
	rev, err := s.cfg.Revisions.Append(ctx, revision.AppendRequest{Source: source, Base: req.GetBaseRevision(), Operator: actor(ctx)})
	return rev.GetNumber(), err
}

func checkKnown(s *site.Site, req *v1.ApplySiteRequest) error {
	for _, n := range append(slices.Clone(req.GetNodes()), req.GetAtConsole()) {
		if _, ok := s.Node(n); n != "" && !ok {
			return errs.New(errs.Invalid, "the site has no node %q", n).WithHint("infractl node list")
		}
	}
	return nil
}

// checkRisks refuses risks that do not exist: a slip of the pen must not pass for consent.
func checkRisks(risks []string) error {
	for _, r := range risks {
		if !slices.Contains([]string{"none", "restart", "lockout", "data"}, r) {
			return errs.New(errs.Invalid, "there is no risk %.40q", r).WithHint("use one of restart, lockout, data")
		}
	}
	return nil
}

func (s *SiteService) auditConsole(ctx context.Context, node string) error {
	_, err := s.cfg.Audit.AppendAudit(ctx, store.AuditEntry{
		Time: s.cfg.Clock.Now(), Actor: actor(ctx), Action: "apply.at-console", Target: "node/" + node, Node: node, Result: "ok",
		Message: "commits of this node need no login witness in this rollout",
	})
	return errs.Wrap("audit", err)
}

// ListRevisions implements v1.SiteServiceServer.
func (s *SiteService) ListRevisions(ctx context.Context, req *v1.ListRevisionsRequest) (*v1.ListRevisionsResponse, error) {
	list, err := s.cfg.Revisions.List(ctx, bounded(req.GetLimit(), 50, 1000))
	return &v1.ListRevisionsResponse{Revisions: list}, err
}

// GetRevision implements v1.SiteServiceServer.
func (s *SiteService) GetRevision(ctx context.Context, req *v1.GetRevisionRequest) (*v1.GetRevisionResponse, error) {
	rev, source, err := s.cfg.Revisions.Get(ctx, req.GetNumber())
	if err != nil {
		return nil, err
	}
	return &v1.GetRevisionResponse{Revision: rev, Source: source}, nil
}

// RollbackSite implements v1.SiteServiceServer.
func (s *SiteService) RollbackSite(ctx context.Context, req *v1.RollbackSiteRequest) (*v1.RollbackSiteResponse, error) {
	if err := checkRisks(req.GetAcceptRisks()); err != nil {
		return nil, err
	}
	if req.GetNumber() == 0 {
		return nil, errs.New(errs.Invalid, "a rollback needs the number of the revision to go back to").WithHint("infractl site history")
	}
	_, source, err := s.cfg.Revisions.Get(ctx, req.GetNumber())
	if err != nil {
		return nil, err
	}
	if loaded, _, err := s.cfg.Revisions.Check(source); err == nil && loaded != nil { // else Append says what is wrong
		if err := s.cfg.Revisions.Ready(ctx, loaded); err != nil {
			return nil, err
		}
	}
	rev, err := s.cfg.Revisions.Append(ctx, revision.AppendRequest{
		Source: source, Base: req.GetBaseRevision(), Operator: actor(ctx), RollbackOf: req.GetNumber(),
	})
	if err != nil {
		return nil, err
	}
	ro, err := s.cfg.Rollouts.Start(ctx, rollout.StartRequest{Revision: rev.GetNumber(), Operator: actor(ctx)})
	if err != nil {
		return nil, err
	}
	return &v1.RollbackSiteResponse{Revision: rev.GetNumber(), RolloutId: ro.GetId()}, nil
}
