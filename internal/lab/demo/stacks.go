package demo

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// withoutStacks takes the stacks out of a site file: a lab whose machines have no engine with their images cannot run them. The
// section ends at the first empty line.
func withoutStacks(content string) string {
	var out []string
	inside := false
	for _, line := range strings.Split(content, "\n") {
		switch {
		case line == "stacks:":
			inside = true
		case strings.TrimSpace(line) == "":
			inside = false
		}
		if !inside {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// writeStacks puts the example's stacks beside the site file.
func (s *Site) writeStacks() error {
	to := filepath.Join(filepath.Dir(s.File), "stacks")
	if err := os.RemoveAll(to); err != nil {
		return errs.Wrap("write the stacks", err)
	}
	return errs.Wrap("write the stacks", os.CopyFS(to, os.DirFS(filepath.Join(s.opts.Root, "examples/projetpro/stacks"))))
}
