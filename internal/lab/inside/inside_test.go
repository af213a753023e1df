package inside

import (
	"maps"
	"testing"
)

func TestFiguresAreThoseThatTheTestsPrint(t *testing.T) {
	got := figures("=== RUN TestReal\nFIGURE live_s 1.5\nFIGURE broken many\nFIGURE three words here\n  FIGURE noop_plan_ms 12\nok\n")
	if want := (Figures{"live_s": 1.5, "noop_plan_ms": 12}); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
