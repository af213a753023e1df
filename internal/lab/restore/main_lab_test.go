//go:build lab

package restore

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/infractl/infractl/internal/lab/demo"
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
	r, err := site.Infractl(t.Context(), args...)
	if err != nil {
		t.Fatalf("infractl %v: %v", args, err)
	}
	if r.Code != wantCode {
		t.Fatalf("infractl %v: code %d, want %d\n%s%s", args, r.Code, wantCode, r.Stdout, r.Stderr)
	}
	return r.Stdout + r.Stderr
}

func must(t *testing.T, vm string, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := site.Lab.VM(vm).Must(ctx, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func eventually(t *testing.T, limit time.Duration, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !f(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s\n%v", limit, what, states(t))
		}
	}
}

// settled wants every node in sync and nothing to tell of.
func settled(t *testing.T) {
	t.Helper()
	last := ""
	defer func() {
		if t.Failed() {
			t.Log(last)
		}
	}()
	eventually(t, 90*time.Second, "status is green", func() bool {
		r, err := site.Infractl(t.Context(), "status")
		if err != nil {
			t.Fatal(err)
		}
		last = r.Stdout + r.Stderr
		return r.Code == 0
	})
}

// edited writes the site file with one text replaced by another and returns its path.
func edited(t *testing.T, old, replacement string) string {
	t.Helper()
	content, err := os.ReadFile(site.File)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(content), old) {
		t.Fatalf("the site file has no %q", old)
	}
	path := filepath.Join(t.TempDir(), "site.yaml")
	if err := os.WriteFile(path, []byte(strings.Replace(string(content), old, replacement, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
