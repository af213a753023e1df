//go:build lab

package demo

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// site is the one lab that all tests of this package share, applied once. Tests run in the order of the files' names and
// leave the site as they found it.
var site *Site

func TestMain(m *testing.M) {
	os.Exit(Suite{
		Name: "e2e", Limit: 12 * time.Minute,
		Change: func(o *Options) { o.Overlay = "rollout: {window: 10s}\n" },
		Prepare: func(ctx context.Context, s *Site) error {
			if err := s.StartContainers(ctx); err != nil {
				return err
			}
			return s.Apply(ctx)
		},
	}.Run(&site, m.Run))
}

// in runs a command in a VM and returns what it printed and its code.
func in(t *testing.T, vm string, argv ...string) (string, int) {
	t.Helper()
	r, err := site.Lab.VM(vm).Exec(t.Context(), argv...)
	if err != nil {
		t.Fatalf("%s: %v: %v", vm, argv, err)
	}
	return r.Stdout + r.Stderr, r.Code
}

// infractl runs the command line as the operator and wants a code.
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

// apply applies a site file and wants a code.
func apply(t *testing.T, wantCode int, file string, more ...string) string {
	t.Helper()
	return infractl(t, wantCode, append([]string{"apply", "-f", file, "--overlay", site.Overlay, "--yes"}, more...)...)
}

// restore applies the original site file again.
func restore(t *testing.T) {
	t.Helper()
	for _, n := range Nodes() {
		infractl(t, 0, "node", "clear", n)
	}
	apply(t, 0, site.File)
}

// eventually polls until f is true.
func eventually(t *testing.T, limit time.Duration, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !f(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
