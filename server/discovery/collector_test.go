package discovery

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/infractl/infractl/internal/clock"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

// noAudit is an audit log without entries.
type noAudit struct{ store.Audit }

func (noAudit) ListAudit(context.Context, store.AuditFilter) ([]store.AuditEntry, error) {
	return nil, nil
}

func TestInstancesAreToldOneByOne(t *testing.T) {
	t.Parallel()
	list := []*v1.Instance{
		{Name: "acme", Id: "abcd2345", Node: "srv-prod", Version: "19.0.4", State: v1.InstanceState_INSTANCE_STATE_ACTIVE,
			Disk: &v1.InstanceDisk{Bytes: 5 << 20, LimitBytes: 10 << 30}},
		{Name: "beta", Id: "efgh6789", Node: "srv-prod", Version: "19.0.4", State: v1.InstanceState_INSTANCE_STATE_BROKEN, Disk: &v1.InstanceDisk{Bytes: 7}},
		{Name: "gone", Id: "ijkl2345", Node: "srv-prod", Version: "16.0.3", State: v1.InstanceState_INSTANCE_STATE_SUSPENDED},
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(CollectorConfig{
		Nodes:    func(context.Context) ([]*v1.Node, error) { return nil, nil },
		Rollouts: func(context.Context, int) ([]*v1.Rollout, error) { return nil, nil },
		Instances: func(_ context.Context, each func(*v1.Instance)) (map[string]int, error) {
			for _, i := range list {
				each(i)
			}
			return map[string]int{"active": 1, "broken": 1, "suspended": 1}, nil
		},
		Audit: noAudit{}, StoreDir: t.TempDir(), Clock: clock.System{}, Log: hclog.NewNullLogger(),
	}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if strings.HasPrefix(f.GetName(), "infractl_instance") {
				got = append(got, fmt.Sprintf("%s{%s} %g", f.GetName(), labelsOf(m), m.GetGauge().GetValue()))
			}
			if f.GetName() == "infractl_scrape_failed" && m.GetGauge().GetValue() != 0 {
				t.Errorf("not read: %s", labelsOf(m))
			}
		}
	}
	want := []string{
		"infractl_instance_disk_bytes{name=acme} 5.24288e+06",
		"infractl_instance_disk_bytes{name=beta} 7",
		"infractl_instance_disk_limit_bytes{name=acme} 1.073741824e+10",
		"infractl_instance_info{id=abcd2345,name=acme,node=srv-prod,state=active,version=19.0.4} 1",
		"infractl_instance_info{id=efgh6789,name=beta,node=srv-prod,state=broken,version=19.0.4} 1",
		"infractl_instance_info{id=ijkl2345,name=gone,node=srv-prod,state=suspended,version=16.0.3} 1",
		"infractl_instance_up{name=acme} 1",
		"infractl_instance_up{name=beta} 0",
		"infractl_instances{state=active} 1",
		"infractl_instances{state=broken} 1",
		"infractl_instances{state=suspended} 1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func labelsOf(m *dto.Metric) string {
	var out []string
	for _, l := range m.GetLabel() {
		out = append(out, l.GetName()+"="+l.GetValue())
	}
	return strings.Join(out, ",")
}
