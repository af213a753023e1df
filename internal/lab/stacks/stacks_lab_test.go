//go:build lab

package stacks

import (
	"context"
	"os"
	"testing"
	"time"
)

func TestStacksOnARealEngine(t *testing.T) {
	bin := os.Getenv("INFRACTL_BIN")
	if bin == "" {
		t.Fatal("INFRACTL_BIN must name the folder of the built programs; use make e2e")
	}
	dir, err := os.MkdirTemp("", "infractl-stacks-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	defer cancel()
	got, output, err := Run(ctx, Options{Root: "../../..", Bin: bin, Dir: dir, Name: "stacks"})
	t.Log(output)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"noop_plan_ms", "first_up_ratio", "helper_peak_rss_mb"} {
		if _, ok := got[name]; !ok {
			t.Errorf("%s was not measured: %v", name, got)
		}
	}
}
