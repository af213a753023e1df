package app

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
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
	want := `# HELP infractl_instance_disk_bytes What an instance holds on the disk.
# TYPE infractl_instance_disk_bytes gauge
infractl_instance_disk_bytes{id="aaaaaaaa",name="acme"} 1500
infractl_instance_disk_bytes{id="bbbbbbbb",name="beta"} 700
# HELP infractl_instance_disk_full 1 while the front keeps uploads out of a full instance.
# TYPE infractl_instance_disk_full gauge
infractl_instance_disk_full{id="aaaaaaaa",name="acme"} 1
infractl_instance_disk_full{id="bbbbbbbb",name="beta"} 0
# HELP infractl_instance_disk_limit_bytes What an instance may hold on the disk; absent without a limit.
# TYPE infractl_instance_disk_limit_bytes gauge
infractl_instance_disk_limit_bytes{id="aaaaaaaa",name="acme"} 1000
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
