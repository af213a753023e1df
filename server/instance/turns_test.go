package instance

import (
	"context"
	"testing"
	"time"
)

func TestTurnsOnAHost(t *testing.T) {
	t.Parallel()
	s := New(Config{})
	never := func() { t.Error("it waited") }
	take := func(op, host string, cores int, waits func()) error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		return s.turns.take(ctx, op, host, cores, waits)
	}
	for _, op := range []string{"a", "b", "a"} { // whoever has it has it still
		if err := take(op, "big", 5, never); err != nil {
			t.Fatal(err)
		}
	}
	if err := take("c", "small", 1, never); err != nil {
		t.Errorf("another host: %v", err)
	}
	waited := false
	if err := take("d", "big", 5, func() { waited = true }); err == nil || !waited {
		t.Errorf("a third on five cores: %v, waited: %t", err, waited)
	}
	s.turns.end("d") // which has none
	s.turns.end("a")
	s.turns.end("a")
	if err := take("d", "big", 5, never); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
	if err := take("e", "big", 5, func() {}); err == nil {
		t.Error("a turn was given back twice")
	}
}
