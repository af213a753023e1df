package version

import (
	"runtime/debug"
	"testing"
)

func TestFromBuild(t *testing.T) {
	commit := debug.BuildSetting{Key: "vcs.revision", Value: "0123456789abcdef"}
	changed := debug.BuildSetting{Key: "vcs.modified", Value: "true"}
	tests := []struct {
		name string
		info debug.BuildInfo
		want string
	}{
		{"Released", debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "v1.2.3"},
		{"Commit", debug.BuildInfo{Settings: []debug.BuildSetting{commit}}, "devel-0123456789ab"},
		{"CommitWithChanges", debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{commit, changed}},
			"devel-0123456789ab+changes"},
		{"NothingKnown", debug.BuildInfo{}, "devel"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := fromBuild(&tt.info); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if String() == "" {
		t.Error("String is empty")
	}
}
