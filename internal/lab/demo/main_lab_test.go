//go:build lab

package demo

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab/labtest"
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
	return labtest.In(t, site.Lab, vm, argv...)
}

// infractl runs the command line as the operator and wants a code.
func infractl(t *testing.T, wantCode int, args ...string) string {
	t.Helper()
	return labtest.Infractl(t, site, wantCode, args...)
}

// edited writes the site file with one text replaced by another and returns its path.
func edited(t *testing.T, old, replacement string) string {
	t.Helper()
	return labtest.Edited(t, site.File, old, replacement)
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
