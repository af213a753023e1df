package sitedir

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestEveryExampleIsClean(t *testing.T) {
	files, err := filepath.Glob("../../../examples/*/site.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		for _, overlay := range []string{"", filepath.Join(filepath.Dir(file), "lab.yaml")} {
			src, err := Read(file, overlay)
			if err != nil {
				t.Fatal(err)
			}
			s, findings := site.Load(site.SourceFromProto(src))
			if s == nil {
				t.Errorf("%s: refused", file)
			}
			for _, f := range findings {
				if f.GetSeverity() >= v1.Severity_SEVERITY_WARNING {
					t.Errorf("%s: %s: %s", f.GetSeverity(), f.GetWhere(), f.GetMessage())
				}
			}
			if s != nil && len(s.Stacks) != len(s.Files()) {
				t.Errorf("%s: %d stacks of %d files", file, len(s.Stacks), len(s.Files()))
			}
		}
	}
}

// folderOf writes files below a new folder and returns the site file's path.
func folderOf(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files["site.yaml"] = "stacks: {web: {node: a, compose: stacks/web.yml}}\n"
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "site.yaml")
}

func TestReadTakesTheFolderOfTheStack(t *testing.T) {
	file := folderOf(t, map[string]string{"stacks/web.yml": "a", "stacks/web/deep/x": "b", "stacks/web/run": "c", "stacks/web/old~": "d",
		"stacks/web/.x.swp": "e", "stacks/web/.git/config": "f", "stacks/other/x": "g", "stacks/website/x": "h", "x": "i"})
	dir := filepath.Dir(file)
	if err := os.Chmod(filepath.Join(dir, "stacks/web/run"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("run", filepath.Join(dir, "stacks/web/link")); err != nil {
		t.Fatal(err)
	}
	src, err := Read(file, "")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range src.GetFiles() {
		got[f.GetPath()] = string(f.GetContent())
		if f.GetExecutable() != (f.GetPath() == "stacks/web/run" || f.GetPath() == "stacks/web/link") {
			t.Errorf("%s: executable %v", f.GetPath(), f.GetExecutable())
		}
	}
	want := map[string]string{"stacks/web.yml": "a", "stacks/web/deep/x": "b", "stacks/web/run": "c", "stacks/web/link": "c"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := site.CheckFiles(src.GetFiles()); err != nil {
		t.Error(err)
	}
}

func TestReadRefuses(t *testing.T) {
	large := strings.Repeat("x", site.MaxSourceFile+1)
	many := map[string]string{"stacks/web.yml": "a"}
	for _, n := range []string{"1", "2", "3", "4", "5"} {
		many["stacks/web/"+n] = large[:site.MaxSourceFile-1]
	}
	outside := folderOf(t, map[string]string{"stacks/web.yml": "a", "stacks/web/x": "b"})
	if err := os.Symlink("/etc/hostname", filepath.Join(filepath.Dir(outside), "stacks/web/out")); err != nil {
		t.Fatal(err)
	}
	folder := folderOf(t, map[string]string{"stacks/web.yml": "a", "stacks/web/x/y": "b"})
	if err := os.Symlink("x", filepath.Join(filepath.Dir(folder), "stacks/web/folder")); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		file, want string
		code       errs.Code
	}{
		"ErrNoSite":       {filepath.Join(t.TempDir(), "site.yaml"), "no such file", errs.NotFound},
		"ErrLargeFile":    {folderOf(t, map[string]string{"stacks/web.yml": large}), "larger than 256 KiB", errs.Invalid},
		"ErrLargeFolder":  {folderOf(t, many), "larger than 1024 KiB in all", errs.Invalid},
		"ErrLinkOutside":  {outside, "stacks/web/out: cannot be read", errs.Invalid},
		"ErrLinkToFolder": {folder, "is no plain file", errs.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read(tt.file, "")
			if !errs.Is(err, tt.code) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s with %q", err, tt.code, tt.want)
			}
		})
	}
}
