package fleet

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/sqlite"
)

func open(t *testing.T) *Fleet {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Clock: clock.System{}, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return New(s)
}

func TestSameMachine(t *testing.T) {
	full := &v1.HostFingerprint{MachineId: "m", ProductSerial: "s", MacAddresses: []string{"a", "b"}}
	for name, c := range map[string]struct {
		other *v1.HostFingerprint
		want  bool
	}{
		"itself":            {full, true},
		"nothing known":     {&v1.HostFingerprint{}, true},
		"nil":               {nil, true},
		"one card replaced": {&v1.HostFingerprint{MachineId: "m", ProductSerial: "s", MacAddresses: []string{"b", "c"}}, true},
		"all cards new":     {&v1.HostFingerprint{MachineId: "m", ProductSerial: "s", MacAddresses: []string{"c"}}, false},
		"other serial":      {&v1.HostFingerprint{MachineId: "m", ProductSerial: "x", MacAddresses: []string{"a"}}, false},
		"other machine id":  {&v1.HostFingerprint{MachineId: "x", ProductSerial: "s", MacAddresses: []string{"a"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := SameMachine(full, c.other); got != c.want {
				t.Errorf("got %v", got)
			}
			if got := SameMachine(c.other, full); got != c.want {
				t.Errorf("the other way round: %v", got)
			}
		})
	}
}

func TestNodeRecordKeepsEverything(t *testing.T) {
	f := open(t)
	now := time.Now().UTC().Truncate(time.Second)
	want := Node{Name: "web", KeyHash: "k", Serial: "s", NotAfter: now, JoinCounter: 2, Skew: time.Second, BootID: "b",
		KnownBad: []KnownBad{{Hash: "h", Phase: "narrowing", Reason: "r", Time: now, SiteRevision: 3}}}
	want.Facts.M = &v1.HostFacts{Hostname: "web", Addresses: []string{"10.0.0.1/24"}}
	want.State.M = &v1.HostState{SiteRevision: 3, Drift: []*v1.Change{{Provider: "firewall"}}}
	want.Fingerprint.M = &v1.HostFingerprint{MachineId: "m"}
	if _, err := f.NodeTable.Put(t.Context(), "web", want, store.Absent); err != nil {
		t.Fatal(err)
	}
	got, err := f.Node(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if _, err := f.Node(t.Context(), "none"); !errs.Is(err, errs.NotFound) {
		t.Errorf("unknown node: %v", err)
	}
}

func TestKnownBadStandsThereOnce(t *testing.T) {
	f := open(t)
	if _, err := f.NodeTable.Put(t.Context(), "web", Node{Name: "web"}, store.Absent); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.AddKnownBad(t.Context(), "web", KnownBad{Hash: "h"}); err != nil {
			t.Fatal(err)
		}
	}
	n, err := f.Node(t.Context(), "web")
	if err != nil || len(n.KnownBad) != 1 || !n.IsKnownBad("h") || n.IsKnownBad("x") {
		t.Errorf("%v, %v", n.KnownBad, err)
	}
}

func TestOnlyLongAbsencesAreDowntimes(t *testing.T) {
	f := open(t)
	start := time.Now()
	for _, at := range []time.Duration{0, time.Minute, 3 * time.Minute, 10 * time.Minute, 11 * time.Minute} {
		if err := f.Alive(t.Context(), start.Add(at)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := f.ServerState(t.Context())
	if err != nil || len(s.Downtimes) != 1 {
		t.Fatalf("%v, %v", s, err)
	}
	for at, want := range map[time.Duration]bool{2 * time.Minute: false, 5 * time.Minute: true, 11 * time.Minute: false} {
		if got := s.WasDown(start.Add(at)); got != want {
			t.Errorf("down at %s: %v", at, got)
		}
	}
}
