package app

import (
	"fmt"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider/dolibarr"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestWhatInstancesHoldIsExported(t *testing.T) {
	h := host.New(host.Config{Root: t.TempDir()})
	image := &v1.StackImage{Use: "x"}
	spec, err := proto.Marshal(&v1.DolibarrSpec{Instances: []*v1.InstanceSpec{
		{Id: "aaaaaaaa", Name: "acme", Mode: v1.InstanceMode_INSTANCE_MODE_RUNNING, AppImage: image, DbImage: image, Limits: &v1.InstanceLimits{DiskBytes: 1000}},
		{Id: "bbbbbbbb", Name: "beta", Mode: v1.InstanceMode_INSTANCE_MODE_RUNNING, AppImage: image, DbImage: image}}})
	if err != nil {
		t.Fatal(err)
	}
	for file, data := range map[string]string{"applied.bin": string(spec),
		"disk.json": `{"aaaaaaaa":{"bytes":1500,"measured":"2026-01-01T00:00:00Z"},"bbbbbbbb":{"bytes":700,"measured":"2026-01-01T00:00:00Z"}}`} {
		if _, err := h.WriteFile("/instances/"+file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newInstanceDisk(dolibarr.New(dolibarr.Config{Host: h, Dir: "/instances"})))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			got = append(got, fmt.Sprintf("%s %s %v", f.GetName(), m.GetLabel()[1].GetValue(), m.GetGauge().GetValue()))
		}
	}
	want := []string{"infractl_instance_disk_bytes acme 1500", "infractl_instance_disk_bytes beta 700", "infractl_instance_disk_full acme 1",
		"infractl_instance_disk_full beta 0", "infractl_instance_disk_limit_bytes acme 1000"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}
