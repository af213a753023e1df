package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/hostspec"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestPlanTellsOfTheMetricsPage(t *testing.T) {
	page := func(address string) *v1.MetricsSpec {
		return &v1.MetricsSpec{ListenAddresses: []string{address}, Port: 9100, Clients: []string{"infractl://s/service/prometheus@w"}}
	}
	const create, update, remove = v1.ChangeAction_CHANGE_ACTION_CREATE, v1.ChangeAction_CHANGE_ACTION_UPDATE, v1.ChangeAction_CHANGE_ACTION_DELETE
	change := func(action v1.ChangeAction, before, after []string) []*v1.Change {
		return []*v1.Change{{Provider: "metrics", Subject: "metrics page", Action: action, Before: before, After: after, Risk: v1.Risk_RISK_NONE}}
	}
	one, by := "listen on 10.0.0.1 port 9100", "read by infractl://s/service/prometheus@w"
	for name, c := range map[string]struct {
		stored, wanted *v1.MetricsSpec
		want           []*v1.Change
	}{
		"Starts": {nil, page("10.0.0.1"), change(create, nil, []string{one, by})},
		"Moves":  {page("10.0.0.1"), page("10.0.0.2"), change(update, []string{one}, []string{"listen on 10.0.0.2 port 9100"})},
		"Stops":  {page("10.0.0.1"), nil, change(remove, []string{one, by}, nil)},
		"Stays":  {page("10.0.0.1"), page("10.0.0.1"), nil},
		"Absent": {nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := host.New(host.Config{Root: t.TempDir()})
			e, err := New(Config{Host: h, Dir: "/var/lib/infractl"})
			if err != nil {
				t.Fatal(err)
			}
			content, _, err := hostspec.Encode(&v1.HostSpec{Metrics: c.stored})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := h.WriteFile(e.specFile(), content, 0o600); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, e.followed(&v1.HostSpec{Metrics: c.wanted}), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
