package hygiene

import (
	"bufio"
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/descriptorpb"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	module  = "github.com/infractl/infractl"
	rootDir = "../.."
)

// sources calls f for each Go file of the tree that people wrote.
func sources(t *testing.T, f func(path string, content []byte)) {
	t.Helper()
	err := filepath.WalkDir(rootDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (strings.HasPrefix(name, ".") && len(name) > 2 || name == "bin" || name == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, ".pb.go") {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(rootDir, path)
		if err != nil {
			return err
		}
		f(filepath.ToSlash(rel), content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

// TestImports checks the house: server, agent and cli never import each other, internal and certs import none of them, and
// providers never import providers.
func TestImports(t *testing.T) {
	under := func(path, dir string) bool { return strings.HasPrefix(path+"/", module+"/"+dir+"/") }
	forbidden := map[string][]string{
		"server":   {"agent", "cli"},
		"agent":    {"server", "cli"},
		"cli":      {"server", "agent"},
		"internal": {"server", "agent", "cli"},
		"certs":    {"server", "agent", "cli"},
		"proto":    {"server", "agent", "cli", "internal", "certs"},
	}
	provider := regexp.MustCompile(`^` + module + `/agent/provider/([a-z0-9]+)`)
	for _, p := range packages(t) {
		for from, targets := range forbidden {
			if !under(p.ImportPath, from) {
				continue
			}
			for _, imp := range p.Imports {
				for _, to := range targets {
					if under(imp, to) {
						t.Errorf("%s imports %s", p.ImportPath, imp)
					}
				}
			}
		}
		own := provider.FindStringSubmatch(p.ImportPath)
		for _, imp := range p.Imports {
			if other := provider.FindStringSubmatch(imp); own != nil && other != nil && own[1] != other[1] {
				t.Errorf("provider %s imports provider %s", p.ImportPath, imp)
			}
		}
	}
}

// TestAgentStaysSmall keeps out of the agent what once doubled it: template packages, whose calls by name stop the linker from dropping
// what nobody uses, and libraries that only the server or the helper needs.
func TestAgentStaysSmall(t *testing.T) {
	tags, err := os.ReadFile(rootDir + "/packaging/tags")
	if err != nil {
		t.Fatal(err)
	}
	list, err := exec.Command("go", "list", "-deps", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "-tags", strings.TrimSpace(string(tags)),
		module+"/agent/infractl-agent").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(list), module+"/agent/engine ") {
		t.Fatal("the agent's engine is not in the list: is the list right?")
	}
	for line := range strings.Lines(string(list)) {
		importer, imports, _ := strings.Cut(strings.TrimSpace(line), " ")
		for imported := range strings.FieldsSeq(imports) {
			// Cobra's use of templates is reached only by who sets one.
			if imported == "text/template" && importer != "github.com/spf13/cobra" && importer != "html/template" {
				t.Errorf("%s, a part of the agent, imports %s", importer, imported)
			}
			for _, heavy := range []string{"html/template", "github.com/docker/compose/", "github.com/miekg/dns", "modernc.org/sqlite"} {
				if strings.HasPrefix(imported, heavy) {
					t.Errorf("%s, a part of the agent, imports %s", importer, imported)
				}
			}
		}
	}
}

// TestOnlyTheHostPackageRunsCommands keeps os/exec where it belongs.
func TestOnlyTheHostPackageRunsCommands(t *testing.T) {
	sources(t, func(path string, content []byte) {
		if strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "agent/host/") || strings.HasPrefix(path, "internal/lab/") {
			return
		}
		if bytes.Contains(content, []byte(`"os/exec"`)) {
			t.Errorf("%s imports os/exec; use agent/host", path)
		}
	})
}

// TestNothingIsLeftBehind finds notes to oneself, init functions, skipped tests, and files that nobody reads at once.
func TestNothingIsLeftBehind(t *testing.T) {
	note := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)
	skip := regexp.MustCompile(`\bt\.Skip(f|Now)?\(`)
	sources(t, func(path string, content []byte) {
		if m := note.Find(content); m != nil {
			t.Errorf("%s: %s", path, m)
		}
		if skip.Match(content) {
			t.Errorf("%s skips a test: a test that always skips tests nothing", path)
		}
		if regexp.MustCompile(`(?m)^func init\(\)`).Match(content) {
			t.Errorf("%s has an init function: wire explicitly", path)
		}
		lines := bytes.Count(content, []byte("\n"))
		if lines > 500 && !strings.HasSuffix(path, "_test.go") {
			t.Errorf("%s has %d lines", path, lines)
		}
		if filepath.Base(path) == "main.go" && lines > 40 {
			t.Errorf("%s has %d lines; a main only starts things", path, lines)
		}
	})
}

// TestPackageComments wants exactly one package comment per package.
func TestPackageComments(t *testing.T) {
	count := map[string]int{}
	sources(t, func(path string, content []byte) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, content, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Dir(path)
		count[dir] += 0
		if f.Doc != nil {
			count[dir]++
		}
	})
	for dir, n := range count {
		if n != 1 {
			t.Errorf("%s has %d package comments", dir, n)
		}
	}
}

// TestNoPackageState finds package variables that could change; constants in disguise are fine.
func TestNoPackageState(t *testing.T) {
	allowed := regexp.MustCompile(`^(regexp\.MustCompile|errors\.New|errs\.New|map|\[\]|\[\.\.\.\]|func|struct|netip\.|embed\.FS|string$|\(\*)`)
	sources(t, func(path string, content []byte) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, content, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			for _, spec := range gen.Specs {
				vs := spec.(*ast.ValueSpec)
				if vs.Names[0].Name == "_" {
					continue
				}
				what := vs.Type
				if len(vs.Values) > 0 {
					what = vs.Values[0]
				}
				start, end := fset.Position(what.Pos()).Offset, fset.Position(what.End()).Offset
				if text := string(content[start:end]); !allowed.MatchString(text) {
					t.Errorf("%s: package variable %s = %.60s", path, vs.Names[0].Name, text)
				}
			}
		}
	})
}

// TestNoPathsOfOneMachine keeps paths of a developer's machine out of the tree.
func TestNoPathsOfOneMachine(t *testing.T) {
	bad := regexp.MustCompile(`(^|[^A-Za-z.])/(work|farm)/`)
	out, err := exec.Command("git", "-C", rootDir, "ls-files").Output()
	if err != nil {
		t.Fatal(err)
	}
	for sc := bufio.NewScanner(bytes.NewReader(out)); sc.Scan(); {
		content, err := os.ReadFile(filepath.Join(rootDir, sc.Text()))
		if err != nil {
			continue // removed in the working tree
		}
		if m := bad.Find(content); m != nil && !strings.HasSuffix(sc.Text(), "hygiene_test.go") {
			t.Errorf("%s: %s", sc.Text(), m)
		}
	}
}

// TestGeneratedCodeIsCurrent compiles the contract and compares it with the Go generated from it, without buf.
func TestGeneratedCodeIsCurrent(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(rootDir, "proto/infractl/v1/*.proto"))
	if err != nil || len(files) == 0 {
		t.Fatal("no contract found", err)
	}
	compiler := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
		ImportPaths: []string{filepath.Join(rootDir, "proto")}})}
	for _, file := range files {
		name := "infractl/v1/" + filepath.Base(file)
		compiled, err := compiler.Compile(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		want := protodesc.ToFileDescriptorProto(compiled[0])
		if _, err := os.Stat(strings.TrimSuffix(file, ".proto") + ".pb.go"); err != nil {
			t.Errorf("%s was never generated: make generate", name)
			continue
		}
		got := registered(t, name)
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s is not what its Go was generated from (make generate):\n%s", name, diff)
		}
	}
}

func registered(t *testing.T, name string) *descriptorpb.FileDescriptorProto {
	t.Helper()
	_ = v1.File_infractl_v1_audit_proto // linked in, and with it the whole package
	d, err := protoregistry.GlobalFiles.FindFileByPath(name)
	if err != nil {
		t.Fatalf("%s is in no Go package", name)
	}
	return proto.Clone(protodesc.ToFileDescriptorProto(d)).(*descriptorpb.FileDescriptorProto)
}
