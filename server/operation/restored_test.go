package operation

import (
	"strings"
	"testing"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/rollout/rollouttest"
	"github.com/infractl/infractl/server/store"
)

func TestARestoredServerDoesNotGoOnWithOldOperations(t *testing.T) {
	s := rollouttest.NewStore()
	table := store.NewTable(s, KindOperation, store.JSON[record]())
	want := map[string]v1.OperationState{"running": halted, "paused": halted, "undoing": stuck, "done": succeeded, "halted": halted}
	for id, r := range map[string]record{
		"running": {State: running}, "paused": {State: paused, PausedBy: "operator/anna"}, "undoing": {State: undoing, Undoing: true},
		"done": {State: succeeded}, "halted": {State: halted, Message: "of before"},
	} {
		r.ID = id
		if _, err := table.Put(t.Context(), id, r, store.Absent); err != nil {
			t.Fatal(err)
		}
	}
	ids, err := HaltForRestore(t.Context(), s)
	if err != nil || strings.Join(ids, " ") != "paused running undoing" {
		t.Errorf("halted %v, %v", ids, err)
	}
	for id, state := range want {
		it, err := table.Get(t.Context(), id)
		if err != nil || it.Value.State != state {
			t.Errorf("%s is %v, want %v (%v)", id, it.Value.State, state, err)
		}
		touched := strings.Contains(it.Value.Message, "restored from a backup")
		if wanted := id == "running" || id == "paused" || id == "undoing"; touched != wanted || it.Value.PausedBy != "" {
			t.Errorf("%s says %q, paused by %q", id, it.Value.Message, it.Value.PausedBy)
		}
	}
}
