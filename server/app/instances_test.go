package app

import (
	"fmt"
	"strings"
	"testing"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/revision"
)

// instancesSite is that of the tests of SSH, with a proxy and instances.
const instancesSite = sshSite + `proxy: {driver: caddy, node: srv-prod, domain: customers.example, tls: {provider: internal}}
dolibarr: {prod: [srv-prod], defaults: {version: 19.0.4}}
`

func TestInstancesOfAServer(t *testing.T) {
	f := newFixture(t)
	otto := f.operator("otto", certs.RoleOperator)
	ctx, service := t.Context(), v1.NewInstanceServiceClient(otto.conn)
	create := &v1.CreateInstanceRequest{Name: "acme"}
	_, err := service.CreateInstance(ctx, create)
	wantCode(t, err, errs.NotFound) // there is no site yet
	list, err := service.ListInstances(ctx, &v1.ListInstancesRequest{})
	if err != nil || len(list.GetInstances()) > 0 {
		t.Errorf("%v, %v", list, err)
	}
	account := fmt.Sprintf("  otto: {name: Somebody, sudo: true, ssh_keys: [%q]}\n", strings.TrimSpace(sshKey(t)))
	_, err = f.app.operations.revisions.Append(ctx, revision.AppendRequest{Operator: "anna", Source: &v1.SiteSource{
		File: "site.yaml", Content: []byte(fmt.Sprintf(instancesSite, "otto", account))}})
	if err != nil {
		t.Fatal(err, errs.HintOf(err))
	}
	_, err = service.CreateInstance(ctx, create)
	wantCode(t, err, errs.Precondition)
	if hint := errs.HintOf(errs.FromGRPC(err)); hint != "infractl image build dolibarr --version 19.0.4" {
		t.Errorf("hint %q", hint)
	}
	status, err := v1.NewNodeServiceClient(otto.conn).GetStatus(ctx, &v1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, finding := range status.GetFindings() {
		if strings.Contains(finding.GetWhere(), "instance") {
			t.Errorf("status says %v", finding)
		}
	}
}
