package sitefile

import (
	"embed"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// source is the vocabulary itself: its comments are the reference manual, so that there is one text and not two.
//
//go:embed file.go planned.go overlay.go packages.go
var source embed.FS

// comments holds the comments by type and field: "Network" and "Network.CIDR".
type comments map[string]string

func readComments() (comments, error) {
	entries, err := source.ReadDir(".")
	if err != nil {
		return nil, errs.Wrap("read vocabulary", err)
	}
	out := comments{}
	for _, e := range entries {
		content, err := source.ReadFile(e.Name())
		if err != nil {
			return nil, errs.Wrap("read vocabulary", err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), e.Name(), content, parser.ParseComments)
		if err != nil {
			return nil, errs.Wrap("read vocabulary", err)
		}
		for _, d := range file.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE {
				out.add(g)
			}
		}
	}
	return out, nil
}

func (c comments) add(g *ast.GenDecl) {
	for _, spec := range g.Specs {
		t, ok := spec.(*ast.TypeSpec)
		if !ok {
			continue
		}
		name := t.Name.Name
		text := oneLine(g.Doc.Text())
		if rest, ok := strings.CutPrefix(text, name+" is "); ok {
			text = strings.ToUpper(rest[:1]) + rest[1:]
		}
		c[name] = text
		s, ok := t.Type.(*ast.StructType)
		if !ok {
			continue
		}
		for _, f := range s.Fields.List {
			for _, n := range f.Names {
				c[name+"."+n.Name] = oneLine(f.Doc.Text())
			}
		}
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
