package metrics

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSeriesAreNamesWithLabels(t *testing.T) {
	got := Series("# HELP a A number.\n# TYPE a gauge\na 1\nb{x=\"1\",le=\"{}\\\"y=\"} 2\nb{le=\"3\",x=\"4\"} 5\n\nc{} 1\n")
	if diff := cmp.Diff([]string{"a{}", "b{le,x}", "c{}"}, got); diff != "" {
		t.Error(diff)
	}
}
