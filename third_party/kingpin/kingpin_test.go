package kingpin

import (
	"slices"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	name, on, off := Flag("name", "").Default("a").String(), Flag("on", "").Default("false").Bool(), Flag("off", "").Default("true").Bool()
	list, count, wait := Flag("list", "").Strings(), Flag("count", "").Default("3").Int(), Flag("wait", "").Default("5s").Duration()
	told := 0
	Flag("told", "").PreAction(func(*ParseContext) error { told++; return nil }).Bool()
	for range 2 { // parsing again begins anew
		if _, err := CommandLine.Parse([]string{"--name=b", "--on", "--no-off", "--list=x", "--list=y", "--told"}); err != nil {
			t.Fatal(err)
		}
		if *name != "b" || !*on || *off || !slices.Equal(*list, []string{"x", "y"}) || *count != 3 || *wait != 5*time.Second {
			t.Errorf("name %q, on %v, off %v, list %q, count %d, wait %s", *name, *on, *off, *list, *count, *wait)
		}
	}
	if told != 2 {
		t.Errorf("the action was called %d times, want 2", told)
	}
	if _, err := CommandLine.Parse(nil); err != nil || *name != "a" || *on || len(*list) != 0 {
		t.Errorf("defaults: name %q, on %v, list %q, %v", *name, *on, *list, err)
	}
	for _, bad := range []string{"--nothing", "--count=x", "name"} {
		if _, err := CommandLine.Parse([]string{bad}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
