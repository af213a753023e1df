package api_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site/sitedir"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/api"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/rollout/rollouttest"
)

// quiet observes nothing.
type quiet struct{}

func (quiet) Began(string, *v1.ApplyTask)   {}
func (quiet) Ended(string, v1.PhaseOutcome) {}

type rig struct {
	secrets   *rollouttest.Secrets
	t         *testing.T
	api       *api.API
	info      api.SiteInfo
	hub       *rollouttest.Hub
	fleet     *fleet.Fleet
	revisions *revision.Revisions
	source    *v1.SiteSource
	engine    *operation.Engine
	release   chan struct{}
}

// newRig is a server with the example site's machines, all enrolled and connected.
func newRig(t *testing.T) *rig {
	t.Helper()
	s := rollouttest.NewStore()
	f := fleet.New(s)
	source, err := sitedir.Read("../../examples/projetpro/site.yaml", "../../examples/projetpro/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	source.File, source.OverlayFile = "site.yaml", "lab.yaml"
	r := &rig{t: t, fleet: f, hub: rollouttest.NewHub(f, quiet{}), source: source, secrets: rollouttest.ExampleSecrets()}
	r.revisions = revision.New(revision.Config{Records: s, Nodes: f, AlwaysRead: true, Clock: clock.System{}, Site: "projetpro",
		Sources: []revision.Source{r.secrets}})
	loaded, findings, err := r.revisions.Check(r.source)
	if err != nil || loaded == nil {
		t.Fatalf("the example is refused: %v, %v", findings, err)
	}
	for i := range loaded.Nodes {
		r.hub.Enrol(loaded.Nodes[i].Name, loaded.Nodes[i].MainAddress().String())
		r.hub.Connect(loaded.Nodes[i].Name)
	}
	for i := range loaded.Probes {
		r.hub.Enrol(loaded.Probes[i].Name, loaded.Probes[i].Address.String())
		r.hub.Connect(loaded.Probes[i].Name)
	}
	rollouts := rollout.New(rollout.Config{
		Store: s, Fleet: f, Hub: r.hub, Revisions: rollout.FromRevisions(r.revisions), Clock: clock.System{}, Log: hclog.NewNullLogger(),
		Times: rollout.Times{Patience: 200 * time.Millisecond, BackoffMin: 5 * time.Millisecond, Settle: 20 * time.Millisecond},
	})
	r.hub.Serve(rollouts)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = rollouts.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	r.release = make(chan struct{})
	r.engine = newEngine(t, r.release)
	r.api = api.New(api.Config{
		Revisions: r.revisions, Rollouts: rollouts, Operations: r.engine, Hub: r.hub, Fleet: f, Audit: s, Clock: clock.System{}, Log: hclog.NewNullLogger(),
	})
	r.info = api.SiteInfo{Revisions: r.revisions, Rollouts: rollouts}
	return r
}

func as(role certs.Role) context.Context {
	return access.WithCaller(context.Background(), access.Caller{
		Identity: certs.Identity{Kind: certs.KindOperator, Name: "anna", Role: role}, Actor: "operator/anna",
	})
}

// watcher is the server's side of a WatchRollout call.
type watcher struct {
	grpc.ServerStream
	ctx  context.Context
	last *v1.Rollout
}

func (w *watcher) Context() context.Context { return w.ctx }
func (w *watcher) Send(m *v1.WatchRolloutResponse) error {
	w.last = m.GetRollout()
	return nil
}

func (r *rig) watch(id string) *v1.Rollout {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(as(certs.RoleOperator), 20*time.Second)
	defer cancel()
	w := &watcher{ctx: ctx}
	if err := r.api.Rollout.WatchRollout(&v1.WatchRolloutRequest{Id: id}, w); err != nil {
		r.t.Fatalf("watch: %v; last %v", err, w.last)
	}
	return w.last
}

func (r *rig) apply(req *v1.ApplySiteRequest) *v1.Rollout {
	r.t.Helper()
	resp, err := r.api.Site.ApplySite(as(certs.RoleOperator), req)
	if err != nil {
		r.t.Fatal(err)
	}
	ro := r.watch(resp.GetRolloutId())
	if ro.GetState() != v1.RolloutState_ROLLOUT_STATE_SUCCEEDED {
		r.t.Fatalf("rollout ended as %v", ro)
	}
	return ro
}

func (r *rig) edited(from, to string) *v1.SiteSource {
	r.t.Helper()
	content := strings.Replace(string(r.source.GetContent()), from, to, 1)
	if content == string(r.source.GetContent()) {
		r.t.Fatalf("the example has no %q", from)
	}
	return &v1.SiteSource{File: "site.yaml", Content: []byte(content), OverlayFile: "lab.yaml", OverlayContent: r.source.GetOverlayContent(),
		Files: r.source.GetFiles()}
}

func TestApplyPlanRollback(t *testing.T) {
	r := newRig(t)
	ctx := as(certs.RoleOperator)
	plan, err := r.api.Site.PlanSite(ctx, &v1.PlanSiteRequest{Source: r.source})
	if err != nil || plan.GetBaseRevision() != 0 || len(plan.GetNodes()) != 6 || plan.GetSettled() {
		t.Fatalf("first plan: %v, %v", plan, err)
	}
	for _, n := range plan.GetNodes() {
		if !n.GetReachable() || len(n.GetChanges()) == 0 || n.GetRisk() != v1.Risk_RISK_LOCKOUT {
			t.Errorf("plan of %s: %v", n.GetNode(), n)
		}
	}
	r.apply(&v1.ApplySiteRequest{Source: r.source})
	plan, err = r.api.Site.PlanSite(ctx, &v1.PlanSiteRequest{Source: r.source})
	if err != nil || plan.GetBaseRevision() != 1 || !plan.GetSettled() {
		t.Errorf("plan after the apply: %v, %v, want it settled", plan, err)
	}
	r.hub.Drift("srv-prod")
	plan, err = r.api.Site.PlanSite(ctx, &v1.PlanSiteRequest{})
	if err != nil || plan.GetSettled() {
		t.Errorf("drift check: %v, %v", plan, err)
	}
	r.apply(&v1.ApplySiteRequest{BaseRevision: 1})
	r.apply(&v1.ApplySiteRequest{Source: r.edited("max_auth_tries: 4", "max_auth_tries: 3"), BaseRevision: 1})
	back, err := r.api.Site.RollbackSite(ctx, &v1.RollbackSiteRequest{Number: 1, BaseRevision: 2})
	if err != nil || back.GetRevision() != 3 {
		t.Fatalf("rollback: %v, %v", back, err)
	}
	r.watch(back.GetRolloutId())
	list, err := r.api.Site.ListRevisions(ctx, &v1.ListRevisionsRequest{})
	if err != nil || len(list.GetRevisions()) != 3 || list.GetRevisions()[0].GetRollbackOf() != 1 {
		t.Errorf("history %v, %v", list, err)
	}
	status, err := r.info.Status(ctx)
	if err != nil || status.Revision != 3 || status.RolloutState != "succeeded" || len(status.NotManaged) == 0 {
		t.Errorf("status %+v, %v", status, err)
	}
}

func TestApplyRefuses(t *testing.T) {
	r := newRig(t)
	r.apply(&v1.ApplySiteRequest{Source: r.source})
	for name, tt := range map[string]struct {
		role certs.Role
		req  *v1.ApplySiteRequest
		want errs.Code
	}{
		"ErrBadSite":      {certs.RoleOperator, &v1.ApplySiteRequest{Source: r.edited("10.0.10.20", "10.0.10.300"), BaseRevision: 1}, errs.Invalid},
		"ErrOtherSite":    {certs.RoleOperator, &v1.ApplySiteRequest{Source: r.edited("site: projetpro", "site: other"), BaseRevision: 1}, errs.Invalid},
		"ErrConflict":     {certs.RoleOperator, &v1.ApplySiteRequest{Source: r.edited("max_sessions: 10", "max_sessions: 9")}, errs.Conflict},
		"ErrConflictSame": {certs.RoleOperator, &v1.ApplySiteRequest{}, errs.Conflict},
		"ErrServerMoved":  {certs.RoleOperator, &v1.ApplySiteRequest{Source: r.edited("enrol_port: 7444", "enrol_port: 7446"), BaseRevision: 1}, errs.Precondition},
		"ErrUnknownNode":  {certs.RoleOperator, &v1.ApplySiteRequest{BaseRevision: 1, Nodes: []string{"nobody"}}, errs.Invalid},
		"ErrUnknownRisk":  {certs.RoleOperator, &v1.ApplySiteRequest{BaseRevision: 1, AcceptRisks: []string{"all"}}, errs.Invalid},
		"ErrConsole":      {certs.RoleOperator, &v1.ApplySiteRequest{BaseRevision: 1, AtConsole: "client-relay"}, errs.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			applies := r.hub.Count("", "apply")
			if _, err := r.api.Site.ApplySite(as(tt.role), tt.req); !errs.Is(err, tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if r.hub.Count("", "apply") != applies {
				t.Error("a host heard of it")
			}
		})
	}
	if n, _ := r.revisions.Current(context.Background()); n != 1 {
		t.Errorf("a refused apply left revision %d", n)
	}
	bad, err := r.api.Site.CheckSite(as(certs.RoleViewer), &v1.CheckSiteRequest{Source: r.edited("10.0.10.20", "10.0.10.300")})
	if err != nil || bad.GetValid() || !strings.HasPrefix(bad.GetFindings()[0].GetWhere(), "site.yaml:") {
		t.Errorf("check: %v, %v", bad, err)
	}
}

func TestAdminAtTheConsoleIsAudited(t *testing.T) {
	r := newRig(t)
	resp, err := r.api.Site.ApplySite(as(certs.RoleAdmin), &v1.ApplySiteRequest{Source: r.source, AtConsole: "client-relay"})
	if err != nil {
		t.Fatal(err)
	}
	r.watch(resp.GetRolloutId())
	list, err := r.api.Audit.ListAudit(as(certs.RoleAuditor), &v1.ListAuditRequest{Action: "console"})
	if err != nil || len(list.GetEntries()) != 1 || list.GetEntries()[0].GetTarget() != "node/client-relay" {
		t.Errorf("audit %v, %v", list, err)
	}
}

func TestUnreachableNodesAreSaidSo(t *testing.T) {
	r := newRig(t)
	r.hub.Disconnect("srv-prod")
	if err := r.fleet.NodeTable.Delete(context.Background(), "srv-pre-prod", -1); err != nil {
		t.Fatal(err)
	}
	plan, err := r.api.Site.PlanSite(as(certs.RoleViewer), &v1.PlanSiteRequest{Source: r.source, Nodes: []string{"srv-prod", "srv-pre-prod"}})
	if err != nil || len(plan.GetNodes()) != 2 {
		t.Fatalf("%v, %v", plan, err)
	}
	for _, n := range plan.GetNodes() {
		if n.GetReachable() || n.GetError() == "" {
			t.Errorf("%v, want it unreachable, with the reason", n)
		}
	}
}

func TestFlowsOfANodeHaveReasons(t *testing.T) {
	r := newRig(t)
	all, err := r.api.Flow.ListFlows(as(certs.RoleViewer), &v1.ListFlowsRequest{Source: r.source})
	if err != nil {
		t.Fatal(err)
	}
	some, err := r.api.Flow.ListFlows(as(certs.RoleViewer), &v1.ListFlowsRequest{Source: r.source, Node: "srv-prod"})
	if err != nil || len(some.GetFlows()) == 0 || len(some.GetFlows()) >= len(all.GetFlows()) {
		t.Errorf("%d flows of srv-prod of %d, %v", len(some.GetFlows()), len(all.GetFlows()), err)
	}
	for _, f := range all.GetFlows() {
		if f.GetReason() == "" {
			t.Errorf("flow %s has no reason", f.GetName())
		}
	}
	if _, err := r.api.Flow.ListFlows(as(certs.RoleViewer), &v1.ListFlowsRequest{}); !errs.Is(err, errs.NotFound) {
		t.Errorf("flows without a revision: %v", err)
	}
}

func TestFileOfAnotherSiteIsRefusedAtItsLine(t *testing.T) {
	r := newRig(t)
	other := r.edited("site: projetpro", "site: other")
	checked, err := r.api.Site.CheckSite(as(certs.RoleViewer), &v1.CheckSiteRequest{Source: other})
	if err != nil || checked.GetValid() || len(checked.GetFindings()) == 0 {
		t.Fatalf("check: %v, %v", checked, err)
	}
	f := checked.GetFindings()[0]
	if !strings.HasPrefix(f.GetWhere(), "site.yaml:6:") || !strings.Contains(f.GetMessage(), `"other"`) ||
		!strings.Contains(f.GetHint(), "site: projetpro") {
		t.Errorf("check found %v", f)
	}
	_, err = r.api.Site.PlanSite(as(certs.RoleViewer), &v1.PlanSiteRequest{Source: other})
	_, applied := r.api.Site.ApplySite(as(certs.RoleOperator), &v1.ApplySiteRequest{Source: other})
	for what, err := range map[string]error{"plan": err, "apply": applied} {
		if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "site.yaml:6:") || errs.HintOf(err) == "" {
			t.Errorf("%s: %v, hint %q", what, err, errs.HintOf(err))
		}
	}
	if n, _ := r.revisions.Current(t.Context()); n != 0 {
		t.Errorf("it became revision %d", n)
	}
}
