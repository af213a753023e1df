package api_test

import (
	"context"
	"strings"
	"testing"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
)

func TestASecretThatNobodySetRefusesPlanApplyAndRollback(t *testing.T) {
	r := newRig(t)
	ctx := as(certs.RoleOperator)
	if _, err := r.api.Site.ApplySite(ctx, &v1.ApplySiteRequest{Source: r.source}); err != nil {
		t.Fatal(err)
	}
	r.secrets.Forget("npm-db")
	check := func(what string, err error) {
		t.Helper()
		if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "npm-db") || errs.HintOf(err) != "infractl secret set npm-db" {
			t.Errorf("%s: %v, hint %q", what, err, errs.HintOf(err))
		}
	}
	_, err := r.api.Site.PlanSite(ctx, &v1.PlanSiteRequest{Source: r.source})
	check("plan", err)
	_, err = r.api.Site.ApplySite(ctx, &v1.ApplySiteRequest{Source: r.source, BaseRevision: 1})
	check("apply", err)
	_, err = r.api.Site.ApplySite(ctx, &v1.ApplySiteRequest{BaseRevision: 1})
	check("apply again", err)
	_, err = r.api.Site.RollbackSite(ctx, &v1.RollbackSiteRequest{Number: 1, BaseRevision: 1})
	check("rollback", err)
	if resp, err := r.api.Site.CheckSite(ctx, &v1.CheckSiteRequest{Source: r.source}); err != nil || !resp.GetValid() {
		t.Errorf("check: %v, %v; the file itself is right", resp, err)
	}
}

func TestStacksAreListedWithWhatTheirHostsReport(t *testing.T) {
	r := newRig(t)
	ctx := as(certs.RoleOperator)
	if _, err := r.api.Stack.ListStacks(ctx, &v1.ListStacksRequest{}); !errs.Is(err, errs.NotFound) {
		t.Errorf("without a revision: %v", err)
	}
	if _, err := r.api.Site.ApplySite(ctx, &v1.ApplySiteRequest{Source: r.source}); err != nil {
		t.Fatal(err)
	}
	report := &v1.ContainersReport{Stacks: []*v1.StackState{{Name: "services", Services: []*v1.ServiceState{{Service: "db", State: "running", Health: "healthy"}}}}}
	if _, err := r.fleet.UpdateNode(context.Background(), "srv-dhcp-dns", func(n *fleet.Node) error { n.Containers.M = report; return nil }); err != nil {
		t.Fatal(err)
	}
	list, err := r.api.Stack.ListStacks(ctx, &v1.ListStacksRequest{})
	if err != nil || len(list.GetStacks()) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	services, supervision := list.GetStacks()[0], list.GetStacks()[1]
	if services.GetName() != "services" || services.GetNode() != "srv-dhcp-dns" || services.GetState().GetServices()[0].GetHealth() != "healthy" ||
		len(services.GetCompose()) > 0 || len(services.GetImages()) != 3 || len(services.GetSecrets()) != 3 {
		t.Errorf("services: %v", services)
	}
	if supervision.GetState() != nil {
		t.Errorf("a state that nobody reported: %v", supervision.GetState())
	}
	got, err := r.api.Stack.GetStack(ctx, &v1.GetStackRequest{Name: "services"})
	if err != nil || !strings.Contains(string(got.GetStack().GetCompose()), "jc21/nginx-proxy-manager") {
		t.Errorf("show: %v", err)
	}
	if _, err := r.api.Stack.GetStack(ctx, &v1.GetStackRequest{Name: "nothing"}); !errs.Is(err, errs.NotFound) {
		t.Errorf("unknown stack: %v", err)
	}
	if _, err := r.api.Stack.RestartStack(ctx, &v1.RestartStackRequest{Name: "nothing"}); !errs.Is(err, errs.NotFound) {
		t.Errorf("restart of an unknown stack: %v", err)
	}
}
