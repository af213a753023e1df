//go:build lab

package stacks

import (
	"context"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab/demo"
)

func TestStacksOnARealEngine(t *testing.T) {
	o, done, err := demo.ForTests("stacks")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	defer cancel()
	got, output, err := Run(ctx, o)
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
