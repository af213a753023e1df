package cmd_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/cli/cmd"
)

const docsFile = "../../docs/cli.md"

func TestDocsAreCurrent(t *testing.T) {
	want := cmd.Docs()
	if *update {
		if err := os.WriteFile(docsFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is not what the code says (make docs):\n%s", docsFile, diff)
	}
}

func TestDocsDoNotDependOnTheMachine(t *testing.T) {
	before := cmd.Docs()
	for _, name := range []string{"HOME", "USER", "INFRACTL_CONFIG", "INFRACTL_OVERLAY", "INFRACTL_SSH_IDENTITY", "XDG_CONFIG_HOME"} {
		t.Setenv(name, "/elsewhere/"+name)
	}
	if diff := cmp.Diff(before, cmd.Docs()); diff != "" {
		t.Errorf("the page depends on the environment:\n%s", diff)
	}
}

func TestEveryVerbHasExampleAndExitCodes(t *testing.T) {
	for _, part := range strings.Split(cmd.Docs(), "\n## ")[1:] {
		for _, verb := range strings.Split(part, "\n### ") {
			name, text, _ := strings.Cut(verb, "\n")
			if !strings.HasPrefix(name, "infractl ") || !strings.Contains(text, "```\ninfractl") || name == "infractl completion" {
				continue // a chapter, a group, or what cobra brings
			}
			if !strings.Contains(text, "Examples:") {
				t.Errorf("%s has no example", name)
			}
			if !regexp.MustCompile(`(?m)^    0  `).MatchString(text) {
				t.Errorf("%s does not say what its exit codes mean", name)
			}
		}
	}
}
