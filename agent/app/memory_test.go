package app

import (
	"runtime"
	"testing"
)

func TestMemoryIsReleasedOnceAfterEachBurst(t *testing.T) {
	released := 0
	r := &rester{release: func() { released++ }}
	for i, step := range []struct {
		collections uint64
		want        int
	}{
		{0, 0},  // nothing ever happened
		{4, 0},  // at work
		{9, 0},  // still at work
		{9, 1},  // at rest
		{10, 1}, // the release was a collection
		{10, 1}, // still at rest
		{12, 1}, // at work again
		{12, 2},
		{13, 2},
		{13, 2},
	} {
		if r.look(step.collections); released != step.want {
			t.Fatalf("look %d at %d collections: released %d times, want %d", i, step.collections, released, step.want)
		}
	}
}

func TestCollectionsAreCounted(t *testing.T) {
	before := collections()
	runtime.GC()
	if after := collections(); after <= before {
		t.Errorf("%d collections after a forced one, %d before", after, before)
	}
}
