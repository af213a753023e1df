//go:build lab

package restore

import (
	"os"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/labtest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// site is the one lab of this package; tests run in the order of the files' names.
var site *demo.Site

func TestMain(m *testing.M) {
	os.Exit(demo.Suite{Name: "restore", Limit: 10 * time.Minute, Boot: demo.BootSmall}.Run(&site, m.Run))
}

// states returns where the identities stand, by name.
func states(t *testing.T) map[string]v1.NodeState {
	t.Helper()
	out, err := site.Must(t.Context(), "node", "list", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	list := &v1.ListNodesResponse{}
	if err := protojson.Unmarshal([]byte(out), list); err != nil {
		t.Fatal(err)
	}
	got := map[string]v1.NodeState{}
	for _, n := range list.GetNodes() {
		got[n.GetName()] = n.GetState()
	}
	return got
}

func infractl(t *testing.T, wantCode int, args ...string) string {
	t.Helper()
	return labtest.Infractl(t, site, wantCode, args...)
}

func must(t *testing.T, vm string, argv ...string) string {
	t.Helper()
	return labtest.Must(t, site.Lab, vm, argv...)
}

// settled wants every node in sync and nothing to tell of.
func settled(t *testing.T) {
	t.Helper()
	labtest.Settled(t, site, 90*time.Second)
}

// edited writes the site file with one text replaced by another and returns its path.
func edited(t *testing.T, old, replacement string) string {
	t.Helper()
	return labtest.Edited(t, site.File, old, replacement)
}
