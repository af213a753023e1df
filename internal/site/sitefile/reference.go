package sitefile

import (
	_ "embed" // for the head of the reference
	"fmt"
	"reflect"
	"strings"

	"github.com/infractl/infractl/internal/site/yamltree"
)

//go:embed reference_head.md
var referenceHead string

// Reference returns the reference manual of site files and overlays, as Markdown.
func Reference() ([]byte, error) {
	c, err := readComments()
	if err != nil {
		return nil, err
	}
	m := &manual{comments: c}
	m.WriteString(referenceHead)
	m.WriteString("\n## The site file\n")
	m.section("", reflect.TypeFor[File]())
	m.WriteString("\n## The lab overlay\n")
	m.section("", reflect.TypeFor[Overlay]())
	return []byte(m.String()), nil
}

type manual struct {
	strings.Builder
	comments comments
}

// section writes one table of keys, then those of the sections below it.
func (m *manual) section(path string, t reflect.Type) {
	if path != "" {
		fmt.Fprintf(m, "\n### `%s`\n", path)
	}
	fmt.Fprintf(m, "\n%s\n\n| key | value | meaning |\n| --- | --- | --- |\n", m.comments[t.Name()])
	fields := yamltree.Fields(t)
	for _, f := range fields {
		must := ""
		if f.Required {
			must = ", required"
		}
		fmt.Fprintf(m, "| `%s` | %s%s | %s |\n", f.Name, words(f.Type), must, m.comments[t.Name()+"."+f.Go])
	}
	for _, f := range fields {
		below, suffix := sectionBelow(f.Type)
		if below == nil {
			continue
		}
		at := f.Name + suffix
		if path != "" {
			at = path + "." + at
		}
		m.section(at, below)
	}
}

// sectionBelow returns the structure that a key leads to, and how its path goes on.
func sectionBelow(t reflect.Type) (reflect.Type, string) {
	if t.Kind() == reflect.Pointer {
		return sectionBelow(t.Elem())
	}
	if _, scalar := formOf(t); scalar {
		return nil, ""
	}
	if elem, ok := yamltree.MapElem(t); ok {
		below, suffix := sectionBelow(elem)
		return below, ".NAME" + suffix
	}
	switch t.Kind() {
	case reflect.Slice:
		below, suffix := sectionBelow(t.Elem())
		return below, "[]" + suffix
	case reflect.Struct:
		return t, ""
	}
	return nil, ""
}
