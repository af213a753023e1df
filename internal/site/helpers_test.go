package site

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

var update = flag.Bool("update", false, "write golden files")

func read(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "examples", "projetpro", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// example returns the source of the example site, with its lab overlay when lab is set.
func example(t testing.TB, lab bool) Source {
	t.Helper()
	src := Source{File: "site.yaml", Content: read(t, "site.yaml"), Files: exampleFiles(t)}
	if lab {
		src.OverlayFile, src.OverlayContent = "lab.yaml", read(t, "lab.yaml")
	}
	return src
}

// exampleFiles are the files of the example's stacks.
func exampleFiles(t testing.TB) []File {
	t.Helper()
	var out []File
	root := os.DirFS(filepath.Join("..", "..", "examples", "projetpro"))
	err := fs.WalkDir(root, "stacks", func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(root, at)
		out = append(out, File{Path: at, Content: content})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func load(t testing.TB, src Source) *Site {
	t.Helper()
	s, findings := Load(src)
	if s == nil {
		t.Fatalf("refused:\n%s", format(findings))
	}
	return s
}

func format(findings []*v1.Finding) string {
	var b strings.Builder
	for _, f := range findings {
		b.WriteString(strings.ToLower(strings.TrimPrefix(f.Severity.String(), "SEVERITY_")) + " " + f.Where + ": " + f.Message)
		if f.Hint != "" {
			b.WriteString(" | " + f.Hint)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func errorsOnly(findings []*v1.Finding) []*v1.Finding {
	var out []*v1.Finding
	for _, f := range findings {
		if f.Severity == v1.Severity_SEVERITY_ERROR {
			out = append(out, f)
		}
	}
	return out
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); run with -update when this is meant:\n%s", path, diff)
	}
}
