package cmd

import (
	"testing"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestDiskIsSaidInWords(t *testing.T) {
	const mib = 1 << 20
	for want, c := range map[string]struct {
		disk *v1.InstanceDisk
		note bool
	}{
		"disk not measured yet":                                  {nil, false},
		"disk 120 MiB":                                           {&v1.InstanceDisk{Bytes: 120 * mib}, false},
		"disk 120 MiB of 200 MiB (60 %)":                         {&v1.InstanceDisk{Bytes: 120 * mib, LimitBytes: 200 * mib}, false},
		"disk 180 MiB of 200 MiB (90 %)":                         {&v1.InstanceDisk{Bytes: 180 * mib, LimitBytes: 200 * mib}, true},
		"disk 196 MiB of 200 MiB (98 %): uploads are refused":    {&v1.InstanceDisk{Bytes: 196 * mib, LimitBytes: 200 * mib, Full: true}, true},
		"disk 3000 MiB of 200 MiB (1500 %): uploads are refused": {&v1.InstanceDisk{Bytes: 3000 * mib, LimitBytes: 200 * mib, Full: true}, true},
	} {
		if got := diskText(c.disk); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		note := (&app{}).instanceNote(&v1.Instance{State: v1.InstanceState_INSTANCE_STATE_ACTIVE, Disk: c.disk})
		if c.note != (note == want) || !c.note && note != "" {
			t.Errorf("%q: the list says %q", want, note)
		}
	}
}
