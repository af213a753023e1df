package site

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWavesCarrySoakAndTheBudgetsOfTheirRoles(t *testing.T) {
	src := example(t, false)
	src.Content = append(src.Content, "\nrollout: {soak: 10m, halt_after: 2, budgets: {prod: 1, services: 2}}\n"...)
	s := load(t, src)
	if got := s.Rollout.HaltAfter; got != 2 {
		t.Errorf("halt_after %d, want 2", got)
	}
	got := map[string]map[string]int{}
	for _, w := range s.Waves(nil) {
		if w.Soak != 10*time.Minute {
			t.Errorf("wave %d soaks for %s, want 10m", w.Number, w.Soak)
		}
		if w.Budgets != nil {
			got[w.Reason] = w.Budgets
		}
	}
	want := map[string]map[string]int{"nodes that customers use, and what watches them": {"prod": 1, "services": 2}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
